"""A folder of data is one source, however its path is written."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from conftest import compose, compose_tuning
from omegaconf import OmegaConf

from align_pipeline.errors import InputError
from align_pipeline.store import folders
from align_pipeline.sweep import jobs


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "link").symlink_to("data")
    return tmp_path / "data"


@pytest.mark.parametrize("written", ["data", "./data", "other/../data", "link"])
def test_paths_of_one_folder_are_one_job(data: Path, written: str) -> None:
    own, absolute = compose(f"data={written}"), compose(f"data={data}")
    assert folders.identity(own) == folders.identity(absolute)
    assert own.source == absolute.source == str(data)
    assert folders.identity(compose("data=other")) != folders.identity(own)


def test_paths_of_one_folder_are_one_result(data: Path, tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text('{"config": {"data": "data"}}')
    assert folders.difference(tmp_path, {"data": str(data)}) is None
    assert folders.difference(tmp_path, {"data": "other"}) is not None
    assert folders.difference(tmp_path, {"data": "hub"}) is not None


def test_paths_of_one_folder_are_one_sweep(data: Path, tmp_path: Path) -> None:
    OmegaConf.save({"hydra": {"overrides": {"task": ["data=./data", "lang=swh,ind"]}}}, tmp_path / "multirun.yaml")
    jobs._refuse_other_sweeps(tmp_path, [f"data={data}", "lang=swh,ind"])
    with pytest.raises(InputError, match="holds another sweep"):
        jobs._refuse_other_sweeps(tmp_path, ["data=other", "lang=swh,ind"])


def test_paths_of_the_same_sentence_pairs_are_one_source(data: Path) -> None:
    relative, absolute = (
        compose_tuning(f"tune.pairs.source={place}") for place in ("data/LANG.tsv", f"{data}{os.sep}LANG.tsv")
    )
    assert relative.tune.pairs.source == absolute.tune.pairs.source
    assert compose_tuning("tune.pairs.source=ntrex").tune.pairs.source == "ntrex"
