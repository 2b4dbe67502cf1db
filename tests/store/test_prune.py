"""Pruning never touches what is not the cache's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from align_pipeline import cache
from align_pipeline.store.cache import Cache, entries, prune


def test_files_of_others_stay(tmp_path: Path) -> None:
    """Two-letter folders are often languages, and their files data."""
    others = [tmp_path / "en/train.json", tmp_path / "7b/model.safetensors", tmp_path / "sw/x.lock"]
    others += [tmp_path / "id/.half.partial", tmp_path / f"aa/{'b' * 64}.json"]
    for path in others:
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    own = tmp_path / f"ab/{'ab' * 32}.json"
    own.parent.mkdir()
    own.write_text("{}")
    assert [entry.path.stem for entry in entries(tmp_path)] == [own.stem]
    assert len(prune(tmp_path, older_than_days=0)) == 1
    assert not own.exists()
    assert all(path.exists() for path in others)


@pytest.mark.parametrize("given", ["folder=", "older_than_days=-1", "older_than_days=nan", "older_than_days=soon"])
def test_what_would_empty_a_folder_by_mistake_is_refused(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs/cache").mkdir(parents=True)
    with pytest.raises(SystemExit, match=given.partition("=")[0]):
        cache.main(["prune", given])


def test_a_model_that_the_cache_does_not_have_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Cache(tmp_path).get({"kind": "x"}, lambda: {"a": torch.zeros(1)}, {"model": "llama2-7b"})
    cache.main(["prune", f"folder={tmp_path}", "model=llama2-8b"])
    said = "There is no model in the cache 'llama2-8b'; available: llama2-7b.\nRemoved 0 entries, 0.00 MB.\n"
    assert capsys.readouterr().out == said
    cache.main(["prune", f"folder={tmp_path}", "model=llama2-7b"])
    assert entries(tmp_path) == []
