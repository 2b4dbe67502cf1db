"""The W&B workspace names what runs log; saving it needs W&B's server and is not tried here."""

from __future__ import annotations

import pytest
from wandb.errors import UsageError

from align_pipeline.workspace import main, workspace

pytest.importorskip("wandb_workspaces", reason="the extra `workspaces` is not installed")


def test_its_panels_read_what_jobs_log() -> None:
    built = workspace("team", "study", ["dali"])
    assert (built.entity, built.project) == ("team", "study")
    assert [section.name for section in built.sections][:2] == ["Alignment by layer", "Alignment against accuracy"]
    curve, several = built.sections[0].panels
    assert (curve.x, curve.y) == ("layer", ["alignment/dali"]) or "alignment/dali" in str(curve.y)
    assert several.metric_regex == "alignment/dali/.*"
    assert "dali_max" in str(built.sections[1].panels[0].x)


def test_it_must_be_told_whose() -> None:
    with pytest.raises(SystemExit, match="entity=<value> is missing; --help"):
        main([])
    with pytest.raises(SystemExit, match="There is no argument 'projet'; available: project, entity"):
        main(["projet=x"])


def test_without_a_login_it_is_not_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise UsageError("No API key configured.\nUse `wandb login` to log in.")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refused)
    with pytest.raises(SystemExit, match=r"entity=me project=align_pipeline \(No API key .*wandb login"):
        main(["entity=me"])
