"""A user's metric that gives numbers instead of yes or no: in tables, on the console, in figures and in the report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import belebele_rows, compose, random_job, random_model, run_job, tokenizer, write_hub
from hydra.utils import instantiate
from scipy import stats

from align_pipeline.data.source import Source
from align_pipeline.engine.forward import hidden_states
from align_pipeline.engine.model import wrap
from align_pipeline.errors import InputError
from align_pipeline.figures import curves
from align_pipeline.figures.style import MEAN
from align_pipeline.inference import numbers
from align_pipeline.measurements.alignment.similarity import Similarities, partners, text_tokens
from align_pipeline.report import report
from align_pipeline.tune import figures as tune_figures
from align_pipeline.tune import tune

CODES = ("swh_Latn", "spa_Latn", "tur_Latn", "deu_Latn")
KEYS = ["language", "metric", "layer", "item_id"]


@dataclass(frozen=True)
class MeanMargin:
    """An option's cosine with its translation minus that with other options, the mean over options."""

    pooling: str = "last"
    needs: ClassVar[str] = "options"

    def numbers(self, similarities: Similarities) -> torch.Tensor:
        """[layers, items]."""
        cross = similarities.options[self.pooling].cross
        own, n = cross.diagonal(dim1=-2, dim2=-1), cross.shape[-1]
        return own.mean(dim=-1) - (cross.sum(dim=(-2, -1)) - own.sum(dim=-1)) / (n * n - n)


@dataclass(frozen=True)
class Broken(MeanMargin):
    """Has no number for an item."""

    def numbers(self, similarities: Similarities) -> torch.Tensor:
        """[layers, items]."""
        found = super().numbers(similarities)
        found[2, 3] = float("nan")
        return found


@dataclass(frozen=True)
class Both(MeanMargin):
    """Also says yes or no."""

    margin = MeanMargin.numbers


def asked(name: str = "MeanMargin") -> str:
    return f"+metrics.mean_margin={{_target_: test_numbers.{name}}}"


@pytest.fixture(scope="module")
def base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(code, 12)} for code in ("eng_Latn", *CODES)}
    write_hub(data, "facebook/belebele", rows)
    return random_job(model_folder, data, "lang=[swh,spa,tur,deu]", "metric=[dali]")


@pytest.fixture(scope="module")
def finished(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    folder = tmp_path_factory.mktemp("numbers")
    return folder, run_job(folder, *base, asked())


def test_numbers_are_those_of_plain_loops_and_are_not_cut(finished: tuple[Path, Any], base: list[str]) -> None:
    folder, content = finished
    table = pd.read_parquet(folder / "alignment.parquet").astype(dict.fromkeys(["language", "metric"], str))
    own = table[(table["metric"] == "mean_margin") & (table["language"] == "swh_Latn")]
    assert own["value"].isna().all()
    config = compose(*base)
    (pair,) = instantiate(config.task).pairs([config.languages["swh"]], Source(config.source))
    lm = wrap(random_model(), tokenizer(), "random")
    sides = []
    for side in (pair.english, pair.language):
        found = [hidden_states(lm, text_tokens(lm, [i]), [i.id], range(5), ("last",), None) for i in side.items]
        sides.append([next(one)[1]["last"][:, 0, :4].double() for one in found])

    def margin(e: torch.Tensor, x: torch.Tensor, layer: int) -> float:
        c = [[float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for b in x[layer]] for a in e[layer]]
        return sum(c[i][i] for i in range(4)) / 4 - sum(c[i][j] for i in range(4) for j in range(4) if i != j) / 12

    expected = np.array([[margin(e, x, layer) for e, x in zip(*sides, strict=True)] for layer in range(5)])
    assert own.sort_values("layer", kind="stable")["margin"].to_numpy() == pytest.approx(expected.ravel(), abs=1e-5)
    assert (expected < 0).any()  # what a cut at 0 would lose

    told = next(row for row in content["languages"] if row["language"] == "swh_Latn")["metrics"]["mean_margin"]
    means = expected.mean(axis=1)
    assert told["values"] == pytest.approx(means.tolist(), abs=1e-5)
    assert told["max"] == pytest.approx(means[:4].max(), abs=1e-5)
    others = partners(12)
    at = told["best_layer"]
    chance = np.mean([margin(sides[0][row[i]], sides[1][i], at) for row in others.tolist() for i in range(12)])
    assert told["chance"] == pytest.approx(chance, abs=1e-5)


def test_metrics_that_say_yes_or_no_are_as_without_it(
    finished: tuple[Path, Any], base: list[str], tmp_path: Path
) -> None:
    run_job(tmp_path, *base)
    both, alone = (pd.read_parquet(of / "alignment.parquet") for of in (finished[0], tmp_path))
    both = both[both["metric"] != "mean_margin"].astype({"value": alone["value"].dtype}).reset_index(drop=True)
    text = dict.fromkeys(["metric", "pooling"], str)
    pd.testing.assert_frame_equal(both.astype(text), alone.astype(text))


def test_the_console_says_mean(base: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = run_job(tmp_path, *base, asked(), "lang=[swh]")
    printed = " ".join(capsys.readouterr().out.split())
    told = content["languages"][0]["metrics"]["mean_margin"]
    assert "max mean @layer" in printed
    assert f"{told['max']:.3f} @{told['best_layer']}, {told['chance']:.3f}" in printed
    assert "share of aligned items or mean over items (mean_margin)" in printed
    assert (tmp_path / "curves_belebele_mean_margin_last.png").exists()


def test_the_report_shows_means_and_compares_them_with_accuracy(tmp_path: Path) -> None:
    job = tmp_path / "job"
    run_job(job, asked(), "metric=[dali]", "lang=[swh,spa,tur,deu]", "task.limit=30", "task.num_fewshot=0")
    page = " ".join(report.write([job], tmp_path).read_text(encoding="utf-8").split())
    for words in (
        "mean over items by layer",
        "Mean over items by layer",
        "Accuracy against the mean over items",
        "(or mean of",
    ):
        assert words in page
    for kind in ("curves", "heatmap", "scatter"):
        assert (tmp_path / "plots" / f"{kind}_belebele_mean_margin_last.png").exists()
    table = pd.read_parquet(job / "alignment.parquet")
    table = table[table["metric"] == "mean_margin"].astype(dict.fromkeys(["language", "pivot"], str))
    expected = table.groupby(["language", "layer"])["margin"].agg(["mean", "std", "size"])
    found = pd.read_csv(tmp_path / "numbers.csv").set_index(["language", "layer"]).loc[expected.index]
    for name, column in (("mean", "mean"), ("sd", "std"), ("n", "size")):
        assert found[name].to_numpy(float) == pytest.approx(expected[column].to_numpy(float), rel=1e-5)
    best = expected["mean"].unstack("layer").loc[:, :7]
    at_best = found[found["best_layer"]].reset_index().set_index("language")
    assert at_best["layer"].to_dict() == best.idxmax(axis="columns").to_dict()
    predictions = pd.read_parquet(job / "predictions.parquet").astype({"language": str})
    accuracy = predictions.groupby("language")["correct"].mean()[best.index]
    level = pd.read_csv(tmp_path / "language_level.csv")
    one = level[(level["metric"] == "mean_margin") & (level["grouping"] == "all") & (level["reduce"] == "max")]
    assert accuracy.nunique() > 1
    assert one["pearson"].item() == pytest.approx(stats.pearsonr(best.max(axis="columns"), accuracy)[0])
    for name in ("instance_level", "items_pooled", "regression", "chance"):  # they need yes or no
        assert set(pd.read_csv(tmp_path / f"{name}.csv")["metric"]) == {"dali"}


def test_a_report_of_numbers_alone(base: list[str], tmp_path: Path) -> None:
    run_job(tmp_path / "job", *base, asked(), "metric=[]", "lang=[swh,spa,tur]", "evaluate=false")
    page = report.write([tmp_path / "job"], tmp_path / "report").read_text(encoding="utf-8")
    assert "mean over items by layer" in page


def test_rows_that_occur_twice_count_once_and_a_model_of_one_layer_has_a_best() -> None:
    row = {
        "model": "m",
        "task": "t",
        "language": "x",
        "pivot": "eng_Latn",
        "metric": "k",
        "pooling": "last",
        "layer": 4,
    }
    rows = [row | {"item_id": f"{i}", "value": np.nan, "margin": value} for i, value in enumerate((-2.0, 0.0))]
    baselines = pd.DataFrame([{**rows[0], "kind": "mismatched", "value": -3.0}])
    aligned, measured = numbers.split(pd.DataFrame([*rows, *rows]))
    assert aligned.empty
    (one,) = numbers.means(measured, baselines, {"m": 4}).to_dict("records")
    assert (one["n"], one["mean"], one["chance"], one["best_layer"]) == (2, -1.0, -3.0, True)


def test_negative_means_are_in_the_figure() -> None:
    part = pd.DataFrame({"language": "swh_Latn", "pivot": "eng_Latn", "layer": [0, 1], "share": [-0.5, -0.2], "n": 5})
    (axes, *_) = curves.curves(part, 2, MEAN).axes
    assert axes.get_ylim()[0] < -0.5
    assert axes.get_ylabel() == "mean over items"
    assert any(line.get_marker() == "o" for line in axes.lines)


@pytest.mark.parametrize(
    ("name", "more", "sentence"),
    [
        ("Both", [], "Both must have either `margin` .* or `numbers`"),
        ("Broken", [], "mean_margin gives nan for item .* of swh_Latn, layer 2; its numbers must be finite"),
        (
            "MeanMargin",
            ["metric=[]", "pivot=all"],
            "pivot counts aligned items, but the metrics give numbers; add metric=",
        ),
    ],
)
def test_what_cannot_work_is_refused(
    base: list[str], name: str, more: list[str], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        run_job(tmp_path, *base, asked(name), *more, "lang=[swh]")


def test_other_pivots_count_only_aligned_items(base: list[str], tmp_path: Path) -> None:
    run_job(tmp_path, *base, asked(), "pivot=all", "lang=[swh,spa]", "evaluate=false")
    assert set(pd.read_parquet(tmp_path / "pivots.parquet")["metric"]) == {"dali"}


def test_training_says_mean_of_held_out_numbers(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    rows = [{"step": s, "metric": "k", "language": "x", "layer": 0, "value": v} for s, v in ((0, -0.5), (9, 2.0))]
    progress = SimpleNamespace(held_out=rows, losses=[{"objective": "lm", "loss": 1.0, "step": 9}])
    tuned = SimpleNamespace(micro_batch=4, steps=9)
    caplog.set_level("INFO")
    tune._tell(tmp_path, progress, "m", tuned, {}, ["k"])
    assert "x, k: -0.50 before, 2.00 after (mean over held-out items, highest of all layers)." in caplog.text
    figure = tune_figures._held_out(pd.DataFrame(rows))
    low, high = figure.axes[0].get_ylim()
    assert low < -0.5
    assert high > 2.0
