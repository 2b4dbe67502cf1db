"""The benchmark scripts run, at small size, and what they compare agrees."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY

FOLDER = REPOSITORY / "benchmarks"


def run(script: str, *arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    monkeypatch.syspath_prepend(str(FOLDER))
    runpy.run_path(str(FOLDER / script), run_name="__main__")


def test_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("OUT", str(tmp_path))
    run("gpu.py", "--small", "--items", "6", monkeypatch=monkeypatch)
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


def test_translation(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--sentences", "5", "--batches", "1", "3", "--layers", "2", "--hidden", "64", "--max-new-tokens", "8"]
    run("translation.py", *small, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert printed.count("5 of 5 |") == 2, printed
