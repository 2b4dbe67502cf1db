"""COMET's scores into tables, with a stand-in for the package: the real one lives in another environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from align_pipeline import comet
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.store.tables import table

TEXTS = {"source": ["a", "bb", "c"], "hypothesis": ["x", "", "zzz"], "reference": ["x", "yy", "z"]}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "runs" / "one"
    folder.mkdir(parents=True)
    none = [None] * 3
    with table(folder, "translations", TRANSLATIONS) as written:
        written.append(
            model="m",
            task="flores",
            direction="en-xx",
            language="swh_Latn",
            item_id=["0", "1", "2"],
            **TEXTS,
            bleu=[1.0, 2.0, 3.0],
            chrf=[4.0, 5.0, 6.0],
            spbleu=none,
            comet=none,
            cometkiwi=none,
            cut_off=[0, 0, 1],
        )
    return folder / "translations.parquet"


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The names of unbabel-comet that are used; a score is a sum of lengths."""
    asked: list[Any] = []

    def predict(rows: list[dict[str, str]], batch_size: int, gpus: int, progress_bar: bool) -> SimpleNamespace:
        asked.append((rows, batch_size))
        return SimpleNamespace(scores=[len(r["src"]) + 10 * len(r["mt"]) + 100 * len(r["ref"]) for r in rows])

    module = ModuleType("comet")
    module.download_model = lambda name: asked.append(name) or f"/models/{name}"  # type: ignore[attr-defined]
    module.load_from_checkpoint = lambda path: SimpleNamespace(predict=predict)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comet", module)
    return asked


def test_scores_go_into_the_table(run: Path, package: list[Any]) -> None:
    before = pd.read_parquet(run)
    comet.main([f"runs={run.parents[1]}/*", "scores=comet,cometkiwi", "batch=7"])
    after = pd.read_parquet(run)
    assert after["comet"].tolist() == after["cometkiwi"].tolist() == [111, 202, 131]
    unscored = ["comet", "cometkiwi"]
    pd.testing.assert_frame_equal(after.drop(columns=unscored), before.drop(columns=unscored))
    assert pq.read_schema(run).equals(TRANSLATIONS)
    assert package[0] == "Unbabel/wmt22-comet-da"
    assert package[1][1] == 7
    assert [path.name for path in run.parent.iterdir()] == ["translations.parquet"]


def test_a_failure_leaves_the_table(run: Path) -> None:
    before = run.read_bytes()
    with pytest.raises(ZeroDivisionError):
        comet.fill(run, "comet", lambda rows: [1 / 0])
    assert run.read_bytes() == before


def test_without_the_package(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comet", None)
    with pytest.raises(SystemExit, match="a separate environment"):
        comet.main([f"runs={run.parent}"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs=/nowhere"], "runs=/nowhere matches no folder"),
        (["run=x"], "no argument 'run'; available: runs"),
        (["runs=x", "scores=bleurt"], "no score 'bleurt'; available: comet, cometkiwi"),
        (["runs=x", "batch=0"], "batch=0 is not valid"),
    ],
)
def test_wrong_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        comet.main(arguments)


def test_wrong_tables(tmp_path: Path, package: list[Any]) -> None:
    path = tmp_path / "translations.parquet"
    path.write_bytes(b"PAR1")
    with pytest.raises(SystemExit, match="cannot be read as a table"):
        comet.main([f"runs={tmp_path}"])
    pd.DataFrame({"source": ["a"]}).to_parquet(path)
    with pytest.raises(SystemExit, match="has no column comet"):
        comet.main([f"runs={tmp_path}"])


def test_it_needs_nothing_else_of_the_package() -> None:
    """It runs where torch and transformers are other versions, or the package's other needs are not installed."""
    code = (
        "import sys, align_pipeline.comet; print(*{m.partition('.')[0] for m in sys.modules} - sys.stdlib_module_names)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "hydra", "omegaconf", "pandas", "datasets", "rich"} & set(done.stdout.split())
    assert {"align_pipeline", "pyarrow"} <= set(done.stdout.split())
