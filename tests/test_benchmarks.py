"""The benchmark scripts run, at small size, and what they compare agrees."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

from align_pipeline.config.paths import EMBEDDED

FOLDER = REPOSITORY / "benchmarks"


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / script), run_name="__main__")


@pytest.mark.parametrize("script", sorted(path.name for path in FOLDER.glob("*.py")))
def test_every_script_finds_what_it_imports(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, "tables"])
    monkeypatch.syspath_prepend(str(FOLDER))
    assert runpy.run_path(str(FOLDER / script), run_name="imported")["__doc__"]


@pytest.mark.parametrize("shape", ["llama3.1-8b", "gemma3-270m", "gemma2-9b"])
def test_gpu(shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    run("gpu.py", "--shape", shape, "--small", "--items", "6", monkeypatch=monkeypatch)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert found["relative error of states against plain passes"] < 1e-4
    assert found["largest difference of log-likelihoods"] < 1e-3
    assert "| extraction, 6 + 6 items |" in capsys.readouterr().out


def test_extraction(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("extraction.py", "--items", "4", "--part", "1", "--rounds", "1", monkeypatch=monkeypatch)
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| 1 |"))
    assert float(row.rstrip(" |").rpartition("| ")[2]) < 1e-4, "the three ways give the same states"


def test_alignment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("alignment.py", "--items", "20", "--layers", "2", "--width", "16", "--batch", "8", monkeypatch=monkeypatch)
    assert "| MEXA |" in capsys.readouterr().out


def test_representations(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("representations.py", "--items", "6", "--rounds", "1", monkeypatch=monkeypatch)
    assert "| with representations |" in capsys.readouterr().out


def test_translation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--sentences", "5", "--batches", "1", "3", "--layers", "2", "--hidden", "64", "--max-new-tokens", "8"]
    run("translation.py", *small, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert printed.count("5 of 5 |") == 2, printed


def test_seeds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run("seeds.py", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 2 + 8 + 3, "languages and three lines on all of them"
    shown = (REPOSITORY / "docs/embedded.md").read_text("utf-8").splitlines()
    assert [line for line in printed if line not in shown] == []


def test_seeds_tells_lowest_and_highest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed, share in enumerate((0.5, 0.25)):
        for model in ("tiny", "tiny_aligned"):
            figures = json.loads((EMBEDDED / model / "figures.json").read_text("utf-8"))
            for task in figures["tasks"].values():
                task["english"] = 1.0
                for place, own in enumerate(task["languages"].values()):
                    own |= {"accuracy": share + place / 100, "dali": [0.0, share - place / 100, 0.1]}
                    own |= {"mexa_t": [0.0, share / 2, 0.0], "transfer_failures": seed + 1}
            (tmp_path / str(seed) / model).mkdir(parents=True)
            (tmp_path / str(seed) / model / "figures.json").write_text(json.dumps(figures), "utf-8")
    run("seeds.py", str(tmp_path / "0"), str(tmp_path / "1"), monkeypatch=monkeypatch)
    rows = {row[1].strip(): row[2:-1] for row in (line.split("|") for line in capsys.readouterr().out.splitlines())}
    first = next(iter(figures["tasks"]["belebele"]["languages"]))
    assert rows["eng"] == [" 1.00 "] * 6
    assert rows[first[:3]][0] == " 0.25 to 0.50 (0.25 to 0.50) "
    assert rows["TF items"][0] == " 7 to 14 "
    assert rows["best MEXA_T"][0] == " 0.12 to 0.25 "
    assert rows["Spearman"][0] == " -1.00 ", "accuracy rises over the languages as DALI falls"
