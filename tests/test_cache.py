"""The store of forward passes: nothing is computed twice, nothing damaged is believed."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import belebele_rows, run_job, write_hub

from align_pipeline import forward
from align_pipeline.cache import Cache, model_key
from align_pipeline.config import ModelConfig


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
    for name in ("_pooled_pass", "_scored_pass"):
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
    assert again["tokens"] == {"extraction": 0, "scoring": 0}
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
        run_job(tmp_path / "b", "lang=swh", *base, change)
        assert passes, change
    for change in ("batch_tokens=7", "seed=3", "task.fewshot=lm_eval"):
        passes.clear()
        run_job(tmp_path / "b", "lang=swh", *base, change)
        assert not passes, change


def test_truncated_texts_are_counted_from_the_cache_too(base: list[str], tmp_path: Path) -> None:
    short = ["lang=swh", "model.max_length=25", "model.too_long=truncate_left"]
    counts = [run_job(tmp_path / name, *base, *short)["truncated_texts"] for name in ("a", "b")]
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "missing", "foreign"])
def test_a_damaged_entry_is_reported_and_computed_again(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache, key = Cache(tmp_path), {"kind": "test"}
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([7])}
    assert cache.get(key, lambda: tensors)[1] is False
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
    else:
        entry.write_bytes(b"\x80\x04cos\nsystem\n")  # a pickle: it is never loaded
    found, hit = cache.get(key, lambda: tensors)
    assert not hit
    assert "damaged" in caplog.text
    assert torch.equal(found["a"], tensors["a"])
    found, hit = cache.get(key, lambda: {})
    assert hit
    assert torch.equal(found["b"], tensors["b"])


def test_a_failed_computation_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> dict[str, torch.Tensor]:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        Cache(tmp_path).get({"kind": "test"}, fail)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]


def _compute(folder: str, log: str) -> None:
    def compute() -> dict[str, torch.Tensor]:
        with open(log, "a") as file:
            file.write("computed\n")
        return {"a": torch.ones(1000)}

    Cache(Path(folder)).get({"kind": "race"}, compute)


def test_processes_that_start_together_compute_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    arguments = (str(tmp_path / "cache"), str(tmp_path / "log"))
    processes = [context.Process(target=_compute, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "computed\n"


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
