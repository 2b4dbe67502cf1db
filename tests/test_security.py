"""No secret is written, no pickle is loaded, no path from data leaves the output folder."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import REPOSITORY, belebele_rows, random_job, run_job, write_hub

from align_pipeline.errors import InputError
from align_pipeline.report import report
from align_pipeline.store.cache import Cache

CODES = ("eng_Latn", "swh_Latn", "spa_Latn")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_hub(tmp_path / "data", "facebook/belebele", {code: {"test": belebele_rows(code)} for code in CODES})
    return tmp_path / "data"


@pytest.fixture
def base(data: Path, model_folder: Path) -> list[str]:
    return random_job(model_folder, data, "lang=swh")


class Payload:
    """A pickle that leaves a file behind when it is loaded."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.marker),))


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "a_pickle_was_loaded"


@pytest.fixture
def malicious(marker: Path) -> bytes:
    payload = pickle.dumps(Payload(marker))
    pickle.loads(payload)  # noqa: S301
    assert marker.is_dir()  # it would work
    marker.rmdir()
    return payload


# ---- secrets


def test_no_secret_is_in_any_file_of_a_sweep(base: list[str], tmp_path: Path) -> None:
    secrets = {"HF_TOKEN": "hf_" + "plantedtoken" * 3, "WANDB_API_KEY": "0123456789abcdef" * 2 + "plantkey"}
    command = [
        sys.executable,
        "-m",
        "align_pipeline.run",
        "-m",
        *base,
        "layers=all,[99]",
        f"cache={tmp_path / 'cache'}",
    ]
    found = subprocess.run(
        [*command, "wandb.mode=offline", f"hydra.sweep.dir={tmp_path / 'sweep'}"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, **secrets},
        check=False,
    )
    assert "1 jobs failed:" in found.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for kind in ("*.wandb", "*.log", "report.html", "*.parquet", "config.yaml", "error.txt", "*.safetensors"):
        assert any(path.match(kind) for path in files), kind
    for secret in secrets.values():
        assert secret not in found.stdout + found.stderr
        assert [path for path in files if secret.encode() in path.read_bytes()] == []


# ---- pickles


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def test_a_pickle_named_as_weights(
    base: list[str], model_folder: Path, tmp_path: Path, malicious: bytes, marker: Path
) -> None:
    model = copy_of(model_folder, tmp_path / "model")
    (model / "pytorch_model.bin").write_bytes(malicious)  # beside the real weights: never looked at
    run_job(tmp_path / "beside", *base, f"model.path={model}", "metric=[]")
    (model / "model.safetensors").write_bytes(malicious)
    with pytest.raises(InputError):
        run_job(tmp_path / "instead", *base, f"model.path={model}")
    (model / "model.safetensors").unlink()
    for trusted in ("true", "false"):  # even pickled weights that are trusted are read as tensors alone
        with pytest.raises(InputError):
            run_job(tmp_path / "alone", *base, f"model.path={model}", f"model.safetensors_only={trusted}")
    assert not marker.exists()


@pytest.mark.parametrize("name", ["test.jsonl", "test.pkl", "test.pt", "test.parquet", "test.arrow"])
def test_a_pickle_named_as_data(
    base: list[str], data: Path, tmp_path: Path, malicious: bytes, marker: Path, name: str
) -> None:
    dataset = data / "facebook/belebele"
    (dataset / "swh_Latn/test.jsonl").unlink()
    (dataset / "swh_Latn" / name).write_bytes(malicious)
    card = dataset / "README.md"
    card.write_text(card.read_text().replace("swh_Latn/test.jsonl", f"swh_Latn/{name}"))
    (dataset / "belebele.py").write_text(f"import os\nos.mkdir({str(marker)!r})\n")  # a loading script of old
    with pytest.raises(InputError):
        run_job(tmp_path / "out", *base)
    assert not marker.exists()


def test_a_pickle_named_as_cache(base: list[str], tmp_path: Path, malicious: bytes, marker: Path) -> None:
    store = tmp_path / "cache"
    Cache(store).get({"kind": "test"}, lambda: {"a": torch.ones(1)})
    for suffix in ("*.safetensors", "*.json"):
        (path,) = store.rglob(suffix)
        path.write_bytes(malicious)
        assert Cache(store).get({"kind": "test"}, lambda: {"a": torch.ones(1)})[1] is False
    assert not marker.exists()


# ---- paths


def test_names_in_data_do_not_leave_the_output_folder(base: list[str], data: Path, tmp_path: Path) -> None:
    out = tmp_path / "a/b/out"
    evil = "../../../evil"
    rows = {code: {"test": [{**row, "link": f"{evil}/{row['link']}"} for row in belebele_rows(code)]} for code in CODES}
    write_hub(data, "facebook/belebele", rows)
    before = set(tmp_path.rglob("*"))
    run_job(out, *base, "lang=[swh,spa]")
    for name in ("alignment", "predictions"):  # tables of somebody else's, from which a report is made
        table = pd.read_parquet(out / f"{name}.parquet")
        for column in {"model", "task", "metric", "language", "pooling"} & set(table.columns):
            table[column] = table[column].map(lambda text: text if text == "eng_Latn" else f"{evil}/{text}")
        (tmp_path / "a/b/tables").mkdir(exist_ok=True)
        table.to_parquet(tmp_path / f"a/b/tables/{name}.parquet")
    try:
        report.write([tmp_path / "a/b/tables"], tmp_path / "a/b/report")
    except InputError as error:
        pytest.fail(str(error))
    new = set(tmp_path.rglob("*")) - before
    inside = [out, tmp_path / "a/b/tables", tmp_path / "a/b/report"]
    outside = {path for path in new if not any(path.is_relative_to(folder) for folder in inside)}
    assert outside == {tmp_path / "a", tmp_path / "a/b"}
