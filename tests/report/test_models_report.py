"""Several models in one report: a sweep over models and checkpoints, the section about all of them, and a reference."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import run_job
from processes import Command
from safetensors.torch import load_file, save_file
from test_tuning_report import ITEMS, LANGUAGES, tables, text_of, tuned, write

from align_pipeline.config.paths import EMBEDDED
from align_pipeline.data.items import ENGLISH
from align_pipeline.measurements import base
from align_pipeline.page.part import Part
from align_pipeline.report import report
from align_pipeline.report.models import FEW

CHECKPOINTS = {"step0": 0.5, "step1000": 0.02}
"""Folders of one training, and how far their weights are from those of `tiny`."""


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two checkpoints in one sweep, with its report; `test_inputs` has one of two models."""
    folder = tmp_path_factory.mktemp("sweep")
    for name, noise in CHECKPOINTS.items():
        made = shutil.copytree(EMBEDDED / "tiny", folder / "training" / name)
        torch.manual_seed(0)
        weights = load_file(made / "model.safetensors")
        moved = {key: value + noise * value.std() * torch.randn_like(value) for key, value in weights.items()}
        save_file(moved, made / "model.safetensors", {"format": "pt"})
    paths = ",".join(str(folder / "training" / name) for name in CHECKPOINTS)
    command = ["-m", "model=custom", f"model.path={paths}", "model.dtype=float32", "data=embedded", "metric=dali"]
    command += ["task=xcopa", "lang=[ind,swh,tur]", "task.limit=12", "task.num_fewshot=0"]
    command += [f"hydra.sweep.dir={folder / 'sweep'}"]
    done = Command(folder, *command, log=folder / "log", WANDB_MODE="disabled").wait()
    assert done.code == 0, done.err
    return folder / "sweep"


def test_a_sweep_over_checkpoints_ends_with_a_section_about_all(sweep: Path) -> None:
    table = pd.read_csv(sweep / "report" / "models.csv").set_index("model")
    assert list(table.index) == ["step0", "step1000"]
    assert table["step"].to_list() == [0, 1000]
    assert set(table["series"]) == {f"{sweep.parent}/training/*"}
    stored = sum(value.numel() for value in load_file(EMBEDDED / "tiny" / "model.safetensors").values())
    assert set(table["parameters"]) == {stored}
    for path in sweep.glob("*/predictions.parquet"):
        right = pd.read_parquet(path).astype({"language": str}).groupby(["model", "language"], observed=True)["correct"]
        means = right.mean().droplevel("model")
        row = table.loc[json.loads((path.parent / "summary.json").read_text())["model"]]
        assert row["accuracy"] == pytest.approx(means.drop(ENGLISH).mean())
        assert row["english_accuracy"] == pytest.approx(means[ENGLISH])
    differ = pd.read_csv(sweep / "report" / "models_differences.csv")
    assert set(differ["reference"]) == {"step0"}
    row = differ.set_index(["model", "quantity", "language"]).loc["step1000", "accuracy", "mean over languages"]
    assert row["difference"] == pytest.approx(table["accuracy"].diff().iloc[-1])

    text = text_of(sweep / "report" / "report.html")
    assert "XCOPA: 2 models" in text
    points = f"step1000 {100 * row['difference']:+.1f} points [{100 * row['low']:.1f}, {100 * row['high']:.1f}]"
    assert points.replace("-", "−") in text
    page = (sweep / "report" / "report.html").read_text(encoding="utf-8")
    assert page.index('<h2 id="models">') < page.index("XCOPA, step0</h2>")
    names = {path.name for path in (sweep / "report" / "plots").iterdir()}
    wanted = ("step", "relation", "depth", "depth_languages")
    for kind in (f"models_{kind}_xcopa{'_dali_last' if kind.startswith('depth') else ''}" for kind in wanted):
        assert {f"{kind}.png", f"{kind}.svg"} <= names
    assert "models_parameters_xcopa.png" not in names  # all are of one size


def test_the_reference_and_labels_can_be_chosen(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")
    asked = [f"runs={sweep}", f"out={tmp_path}", "labels=step1000:Later"]
    report.main([*asked, "reference=step1000"])
    assert "Which models are more accurate than Later? step0" in capsys.readouterr().out
    differ = pd.read_csv(tmp_path / "models_differences.csv")
    assert set(differ["reference"]) == {"Later"}
    assert set(differ["model"]) == {"step0"}
    before = pd.read_csv(sweep / "report" / "models_differences.csv").set_index(
        ["model", "quantity", "metric", "language"]
    )
    one, two = differ.set_index(["quantity", "metric", "language"]), before.loc["step1000"]
    assert (-one["difference"]).to_dict() == pytest.approx(two["difference"].to_dict(), nan_ok=True)
    with pytest.raises(SystemExit, match="There is no model 'Later'; available: step0, step1000"):
        report.main([*asked, "reference=Later"])


def test_a_cached_job_knows_its_parameters_without_loading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = [
        "task=xcopa",
        "lang=[ind]",
        "task.limit=3",
        "task.num_fewshot=0",
        "metric=dali",
        f"cache={tmp_path / 'cache'}",
    ]
    first = run_job(tmp_path / "first", *job)

    def refuse(*_: object) -> None:
        raise AssertionError("a cached job loads no model")

    monkeypatch.setattr(base, "load", refuse)
    again = run_job(tmp_path / "again", *job)
    assert again["parameters"] == first["parameters"] > 1000
    assert again["revision"] is None


def test_a_cached_job_does_not_count_its_parameters_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = ["task=xcopa", "lang=[ind]", "task.limit=3", "task.num_fewshot=0", "metric=dali"]
    first = run_job(tmp_path / "first", *job, f"cache={tmp_path / 'cache'}")

    def refuse(*_: object) -> None:
        raise AssertionError("counting imports transformers")

    monkeypatch.setattr(base, "parameters", refuse)
    assert run_job(tmp_path / "again", *job, f"cache={tmp_path / 'cache'}")["parameters"] == first["parameters"]
    with pytest.raises(AssertionError, match="imports"):
        run_job(tmp_path / "uncached", *job)


def test_tuned_models_are_compared_with_their_base_and_not_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")
    write(tmp_path / "base", "gemma3-270m", tables("gemma3-270m", 0, 0, 0), None)
    write(tmp_path / "tuned", "good", tables("good", 0.1, 0.2, 1), tuned("midalign", "treatment", 0))
    write(tmp_path / "other", "other", tables("other", 0, 0, 2), None)
    report.write([tmp_path], tmp_path / "out")
    assert set(pd.read_csv(tmp_path / "out" / "models.csv")["model"]) == {"gemma3-270m", "other"}


def test_of_many_models_the_sentences_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")
    for i in range(FEW + 1):
        write(tmp_path / "runs" / f"m{i}", f"m{i}", tables(f"m{i}", 0.3 * (i == 5), 0.4 * (i == 6), i), None)
    page = report.write([tmp_path / "runs"], tmp_path / "out")
    text = text_of(page)
    differ = pd.read_csv(page.parent / "models_differences.csv")
    for quantity, better, best in (("accuracy", "are more accurate", 5), ("alignment", "align more", 6)):
        own = differ[(differ["quantity"] == quantity) & (differ["language"] == "mean over languages")]
        up, down = ((own["p_holm"] < 0.05) & (sign * own["difference"] > 0) for sign in (1, -1))
        assert up.sum() > 0
        assert f"{up.sum()} of {FEW} models {better}, {down.sum()}" in text
        assert f"highest: m{best} " in text
    assert "within each model? DALI: in" in text
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


@pytest.mark.parametrize("kind", ["predictions", "alignment"])
def test_models_with_one_kind_of_table_are_compared(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")
    for i in range(2):
        write(tmp_path / "runs" / f"m{i}", f"m{i}", tables(f"m{i}", 0, 0, i), None)
        (tmp_path / f"runs/m{i}/{'predictions' if kind == 'alignment' else 'alignment'}.parquet").unlink()
    page = report.write([tmp_path / "runs"], tmp_path / "out")
    text = text_of(page)
    assert ("Which models are more accurate than m0?" in text) == (kind == "predictions")
    assert ("Which models align more items with English" in text) == (kind == "alignment")
    assert set(pd.read_csv(page.parent / "models.csv")["n"]) == {ITEMS}
    assert set(pd.read_csv(page.parent / "models.csv")["n_languages"]) == {len(LANGUAGES)}
    assert set(pd.read_csv(page.parent / "models_differences.csv")["quantity"]) == {
        {"predictions": "accuracy"}.get(kind, kind)
    }
    assert not re.search(r"\bnan\b", text, re.IGNORECASE)


def test_a_model_without_the_first_metric_has_no_number_of_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Part, "draw", lambda *_: "")
    for i, (metric, pooling) in enumerate((("dali", "last"), ("mexa_t", "weighted"))):
        alignment, predictions = tables(f"m{i}", 0, 0, i)
        write(
            tmp_path / "runs" / f"m{i}", f"m{i}", (alignment.assign(metric=metric, pooling=pooling), predictions), None
        )
    page = report.write([tmp_path / "runs"], tmp_path / "out").read_text(encoding="utf-8")
    first = re.search(r"<table.*?</table>", page[page.index('<h2 id="models">') :], re.DOTALL)
    assert first is not None
    heads = re.findall(r"<th [^>]*>(.*?)</th>", first[0])
    rows = [re.findall(r"<td[^>]*>(.*?)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", first[0], re.DOTALL)]
    cells = {row[0]: dict(zip(heads, row, strict=True)) for row in rows if row}
    assert all(cells["m0"][name] != "\N{EN DASH}" for name in ("Accuracy", "Best layer", "Aligned", "r"))
    assert cells["m1"]["Accuracy"] != "\N{EN DASH}"
    assert [cells["m1"][name] for name in ("Best layer", "Aligned", "r")] == ["\N{EN DASH}"] * 3
    # languages have their names here too, with their codes where the page's script looks for them
    by_language = page[page.index("Accuracy and alignment by language and model") :]
    assert '<td class="t" title="swh_Latn">Swahili</td>' in by_language[: by_language.index("</table>")]
