"""The store of forward passes: nothing is computed twice, nothing damaged is believed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
from conftest import belebele_rows, run_job, write_hub

from align_pipeline import cache as command
from align_pipeline import distributed
from align_pipeline.config.model import ModelConfig
from align_pipeline.engine import forward
from align_pipeline.engine.identity import model_key
from align_pipeline.errors import InputError
from align_pipeline.store import cache
from align_pipeline.store.cache import Cache, entries


@pytest.fixture
def base(tmp_path: Path, model_folder: Path) -> list[str]:
    rows = {code: {"test": belebele_rows(code)} for code in ("eng_Latn", "swh_Latn", "spa_Latn")}
    write_hub(tmp_path / "data", "facebook/belebele", rows)
    model = ["model=custom", "model.name=random", f"model.path={model_folder}", "model.dtype=float32"]
    return [*model, f"data={tmp_path / 'data'}", "task.num_fewshot=2", f"cache={tmp_path / 'cache'}"]


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A line for every forward pass."""
    seen: list[str] = []
    for name in ("pooled_pass", "scored_pass"):
        original = getattr(forward, name)

        def counted(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> Any:
            seen.append(_name)
            return _original(*args, **kwargs)

        monkeypatch.setattr(forward, name, counted)
    return seen


def test_layers_and_metrics_of_a_finished_run_take_no_forward_pass(
    base: list[str], tmp_path: Path, passes: list[str]
) -> None:
    first = run_job(tmp_path / "a", "lang=[swh,spa]", *base)
    assert passes
    passes.clear()
    other = ["metric=[dali,mexa_t]", "metrics.dali.criterion=rowwise", "metrics.mexa_t.pooling=last", "layers=[1,3]"]
    again = run_job(tmp_path / "b", "lang=spa", *base, *other)
    assert passes == []
    assert set(again["tokens"].values()) == {0}
    assert again["languages"][0]["accuracy"] == first["languages"][1]["accuracy"]
    assert [found["layers"] for found in again["languages"][0]["metrics"].values()] == [[1, 3], [1, 3]]


def test_a_warm_cache_gives_the_same_bytes(base: list[str], tmp_path: Path) -> None:
    for name in ("cold", "warm"):
        run_job(tmp_path / name, "lang=[swh,spa]", *base)
    run_job(tmp_path / "none", "lang=[swh,spa]", *base[:-1])
    for table in ("alignment.parquet", "predictions.parquet"):
        expected = (tmp_path / "none" / table).read_bytes()
        assert (tmp_path / "cold" / table).read_bytes() == expected
        assert (tmp_path / "warm" / table).read_bytes() == expected


def test_what_changes_the_numbers_changes_the_key(
    base: list[str], tmp_path: Path, passes: list[str], model_folder: Path
) -> None:
    run_job(tmp_path / "a", "lang=swh", *base)
    for change in ("task.num_fewshot=1", "model.dtype=bfloat16", "model.max_length=9000"):
        passes.clear()
        run_job(tmp_path / change, "lang=swh", *base, change)
        assert passes, change
    for change in ("batch_tokens=7", "seed=3", "task.fewshot=lm_eval"):
        passes.clear()
        run_job(tmp_path / change, "lang=swh", *base, change)
        assert not passes, change


def test_truncated_texts_are_counted_from_the_cache_too(base: list[str], tmp_path: Path) -> None:
    short = ["lang=swh", "model.max_length=25", "model.too_long=truncate_left"]
    counts = [run_job(tmp_path / name, *base, *short)["truncated_texts"] for name in ("a", "b")]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize(
    "damage", ["truncate", "flip", "manifest", "missing", "foreign", "half renamed", "another key", "list"]
)
def test_a_damaged_entry_is_reported_and_computed_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store, key = Cache(tmp_path), {"kind": "test"}
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7])}
    assert store.get(key, lambda: tensors)[1] is False
    (entry,) = tmp_path.rglob("*.safetensors")
    (manifest,) = tmp_path.rglob("*.json")
    content = entry.read_bytes()
    if damage == "truncate":
        entry.write_bytes(content[:-3])
    elif damage == "flip":
        entry.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "manifest":
        manifest.write_text(manifest.read_text()[:10])
    elif damage == "missing":
        entry.unlink()
    elif damage == "half renamed":
        manifest.unlink()
    elif damage == "another key":  # whole, but of something else
        store.get({"kind": "other"}, lambda: {"a": torch.zeros(1)})
        (other,) = set(tmp_path.rglob("*.safetensors")) - {entry}
        entry.write_bytes(other.read_bytes())
        manifest.write_bytes(other.with_suffix(".json").read_bytes())
    elif damage == "list":
        manifest.write_text("[]")
    else:
        entry.write_bytes(b"\x80\x04cos\nsystem\n")  # a pickle: it is never loaded
    found, hit = store.get(key, lambda: tensors)
    assert not hit
    assert ("is incomplete" if damage == "half renamed" else "damaged") in caplog.text
    assert torch.equal(found["a"], tensors["a"])
    found, hit = store.get(key, lambda: {})
    assert hit
    assert torch.equal(found["b"], tensors["b"])


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, torch.Tensor]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Cache(tmp_path).get({"kind": "test"}, fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


# ---- several processes


def _compute(folder: Path, log: Path, seconds: float) -> None:
    distributed.stop()  # they are jobs of their own

    def compute() -> dict[str, torch.Tensor]:
        with log.open("a") as file:
            file.write("computed\n")
        time.sleep(seconds)
        return {"a": torch.ones(1000)}

    tensors, _ = Cache(folder).get({"kind": "race"}, compute)
    assert torch.equal(tensors["a"], torch.ones(1000))


def alone(*arguments: Any, log: Path) -> BaseProcess:
    (child,) = processes.start(1, _compute, arguments, log)
    return child


def test_processes_that_start_together_compute_once(tmp_path: Path) -> None:
    children = [alone(tmp_path / "cache", tmp_path / "log", 1.0, log=tmp_path / f"log{k}") for k in range(8)]
    assert processes.join(children) == [0] * 8
    assert (tmp_path / "log").read_text() == "computed\n"


def test_the_lock_of_a_killed_process_is_broken(tmp_path: Path) -> None:
    killed = alone(tmp_path / "cache", tmp_path / "log", 600.0, log=tmp_path / "log0")
    while not (tmp_path / "log").exists():
        time.sleep(0.05)
    killed.kill()
    killed.join()
    assert list((tmp_path / "cache").rglob("*.lock"))
    assert processes.join([alone(tmp_path / "cache", tmp_path / "log", 0.0, log=tmp_path / "log1")]) == [0]
    assert (tmp_path / "log").read_text() == "computed\n" * 2


def test_who_waits_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(cache, "_PATIENCE", 0.1)
    other = alone(tmp_path / "cache", tmp_path / "log", 2.0, log=tmp_path / "log0")
    while not (tmp_path / "log").exists():
        time.sleep(0.05)
    with caplog.at_level("INFO"):
        assert Cache(tmp_path / "cache").get({"kind": "race"}, dict)[1]
    assert "Waiting for another job that is computing cache entry" in caplog.text
    assert processes.join([other]) == [0]


# ---- disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(folder)]
    if not shutil.which("mount") or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def holds(folder: Path) -> None:
    """What was in the store still is, and nothing else but locks."""
    tensors, hit = Cache(folder).get({"kind": "small"}, dict)
    assert hit
    assert torch.equal(tensors["a"], torch.ones(3))
    assert [entry.damage for entry in entries(folder)] == [None]
    assert not list(folder.rglob("*.partial"))


@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_full_or_read_only_disk_is_one_sentence_and_the_store_stays_valid(disk: Path, kind: str) -> None:
    store = disk / "cache"
    Cache(store).get({"kind": "small"}, lambda: {"a": torch.ones(3)})
    if kind == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    reason = "the disk is full" if kind == "full" else "it is on a read-only file system"
    with pytest.raises(
        InputError, match=f"Nothing can be written to {store}: {reason}; choose another folder with cache=<folder>"
    ):
        Cache(store).get({"kind": "large"}, lambda: {"a": torch.ones(2**20)})
    holds(store)
    if kind == "full":
        assert not Cache(store).get({"kind": "another small one"}, lambda: {"a": torch.ones(3)})[1]


def test_a_job_on_a_full_disk_ends_with_one_sentence(base: list[str], disk: Path, tmp_path: Path) -> None:
    Cache(disk / "cache").get({"kind": "small"}, lambda: {"a": torch.ones(3)})
    (disk / "other").write_bytes(bytes(2**19 - 2**15))
    with pytest.raises(
        InputError, match=r"Nothing can be written to .*: the disk is full; choose another folder with cache=<folder>"
    ):
        run_job(tmp_path / "out", *base, f"cache={disk / 'cache'}")
    assert not list((tmp_path / "out").glob(".*"))
    assert {entry.damage for entry in entries(disk / "cache")} == {None}


def _limited(folder: Path) -> None:
    distributed.stop()
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, 2**16))
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    Cache(folder).get({"kind": "large"}, lambda: {"a": torch.ones(2**20)})


def test_a_limit_on_files_is_one_sentence_and_the_store_stays_valid(tmp_path: Path) -> None:
    Cache(tmp_path / "cache").get({"kind": "small"}, lambda: {"a": torch.ones(3)})
    assert processes.join(processes.start(1, _limited, (tmp_path / "cache",), tmp_path / "log")) == [1]
    assert "InputError: Nothing can be written to" in (tmp_path / "log.0").read_text()
    assert "files of this size; choose another folder with cache=<folder>" in (tmp_path / "log.0").read_text()
    holds(tmp_path / "cache")


# ---- the list


def test_entries_are_listed_and_pruned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number, model in enumerate(["old", "new", "new"]):
        note = {"model": model, "task": "belebele", "what": f"Embedded {number}"}
        Cache(tmp_path).get({"kind": str(number)}, lambda: {"a": torch.ones(1000)}, note)
    ages = {entry.note["what"]: entry for entry in entries(tmp_path)}
    for path in (ages["Embedded 1"].path, ages["Embedded 1"].path.with_suffix(".json")):
        os.utime(path, (time.time() - 40 * 86400,) * 2)
    command.main([f"folder={tmp_path}"])
    printed = capsys.readouterr().out
    assert [line.split("MB")[1].strip() for line in printed.splitlines()[:1]] == ["new belebele Embedded 1"]
    size = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.suffix in (".safetensors", ".json"))
    assert printed.splitlines()[-1] == f"In all 3 entries, {size / 1e6:.2f} MB."
    assert [entry.note["what"] for entry in cache.prune(tmp_path, 30)] == ["Embedded 1"]
    ages["Embedded 0"].path.write_bytes(b"")
    killed = tmp_path / "ab" / (".ab" + "0" * 62 + ".0123.partial")
    killed.parent.mkdir(exist_ok=True)
    killed.touch()
    command.main(["prune", f"folder={tmp_path}"])
    assert "Removed 1 entries" in capsys.readouterr().out
    assert [entry.note["what"] for entry in entries(tmp_path)] == ["Embedded 2"]
    assert [path.suffix for path in tmp_path.rglob("*") if path.is_file()].count(".partial") == 0
    command.main(["prune", "model=old", f"folder={tmp_path}"])
    assert len(entries(tmp_path)) == 1
    command.main(["prune", "model=new", f"folder={tmp_path}"])
    assert entries(tmp_path) == []
    for arguments, said in (
        (["fodler=x"], "There is no argument 'fodler'; available: folder, prune"),
        ([f"folder={tmp_path}", "older_than_days=3"], "There is no argument 'older_than_days'"),
        (["folder=/nowhere"], "The cache folder '/nowhere' does not exist"),
    ):
        with pytest.raises(SystemExit, match=f"^Error: {said}"):
            command.main(arguments)


def test_an_entry_that_is_being_written_is_not_pruned(tmp_path: Path) -> None:
    def compute() -> dict[str, torch.Tensor]:
        (lock,) = tmp_path.rglob("*.lock")
        lock.with_name(f".{lock.stem}.00.partial").touch()
        lock.with_suffix(".json").write_text("half")
        assert cache.prune(tmp_path) == []
        assert lock.with_name(f".{lock.stem}.00.partial").exists()
        return {"a": torch.ones(1)}

    Cache(tmp_path).get({"kind": "test"}, compute)
    assert [entry.damage for entry in entries(tmp_path)] == [None]


def test_a_manifest_says_what_its_entry_is_of(tmp_path: Path) -> None:
    Cache(tmp_path).get({"kind": "test", "texts": "abc"}, lambda: {"a": torch.ones(1)})
    (manifest,) = tmp_path.rglob("*.json")
    assert json.loads(manifest.read_text())["key"]["texts"] == "abc"


def test_a_models_key_is_its_content(model_folder: Path, tmp_path: Path) -> None:
    for path in model_folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = ModelConfig(name="a", path=str(model_folder))
    assert model_key(config) == model_key(ModelConfig(name="b", path=str(tmp_path)))
    weights = tmp_path / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert model_key(config) != model_key(ModelConfig(name="a", path=str(tmp_path)))
    assert model_key(ModelConfig(name="a", path="nobody/nowhere")) is None
