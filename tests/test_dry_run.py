"""`dry_run=true`: the forecast against the job that then runs, and that nothing is written."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, belebele_rows, compose, random_job, random_model, run_job, tokenizer, write_hub

from align_pipeline import dry_run
from align_pipeline.dry_run import Forecast, forecast
from align_pipeline.engine.model import wrap
from align_pipeline.engine.plan import Plan, seconds_per_work


@pytest.fixture(scope="module")
def base(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(code)} for code in ("eng_Latn", "swh_Latn", "spa_Latn")}
    write_hub(folder, "facebook/belebele", rows)
    return random_job(model_folder, folder)


@pytest.fixture(autouse=True)
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dry_run, "_known", dry_run._Known())


def planned(folder: Path, *overrides: str) -> Forecast:
    folder.mkdir()
    found = forecast(compose(*overrides), folder)
    assert found is not None
    return found


@pytest.mark.parametrize(
    "asked",
    [
        ["representations=all", "logit_lens=true", "batch_tokens=64"],
        ["patch=ablation", "patch.items=all", "evaluate=true", "metric=[]"],
        ["patch=english", "patch.items=all", "patch.component=head", "metric=[]"],
    ],
    ids=["every stage", "patching", "heads"],
)
def test_the_counted_tokens_are_those_that_run(base: list[str], tmp_path: Path, asked: list[str]) -> None:
    found = planned(tmp_path / "scratch", "lang=[swh,spa]", "cache=null", *asked, *base)
    content = run_job(tmp_path / "job", "lang=[swh,spa]", *asked, *base)
    for counted, name in (("tokens", "tokens"), ("padded", "tokens_with_padding")):
        stages: dict[str, int] = {}
        for stage in found.stages:
            key = {
                "alignment": "extraction",
                "representations": "extraction",
                "accuracy": "scoring",
                "logit_lens": "lens",
            }
            stages[key.get(stage.name, stage.name)] = stages.get(key.get(stage.name, stage.name), 0)
            stages[key.get(stage.name, stage.name)] += getattr(stage, counted)
        assert {key: value for key, value in content[name].items() if value} == stages
    assert found.items == sum(row["n"] for row in content["languages"])
    assert all(stage.seconds > 0 and not stage.assumed for stage in found.stages)
    assert found.memory > 0


def test_tokens_without_sharing_are_those_of_each_text(base: list[str], tmp_path: Path) -> None:
    (stage,) = planned(tmp_path / "scratch", "lang=swh", "cache=null", "evaluate=false", *base).stages
    lm = wrap(random_model(), tokenizer(), "random")
    alone = 0
    for code in ("eng_Latn", "swh_Latn"):
        for row in belebele_rows(code):
            premise = f"{row['flores_passage']} {row['question']}"
            texts = [premise, *(f"{premise} {row[f'mc_answer{k}']}" for k in (1, 2, 3, 4))]
            alone += sum(len(lm.tokenizer(text)["input_ids"]) for text in texts)
    assert stage.alone == alone
    assert stage.tokens < alone


def test_a_translation_counts_as_long_as_its_reference(tmp_path: Path) -> None:
    asked = ["task=flores", "lang=swh", "metric=mexa", "task.limit=6", "cache=null"]
    mexa, translation = planned(tmp_path / "scratch", *asked).stages
    content = run_job(tmp_path / "job", *asked)
    assert mexa.tokens == content["tokens"]["extraction"]
    assert "as long as its reference" in translation.assumed
    assert 0.5 < translation.tokens / content["tokens"]["scoring"] < 2


def test_what_the_cache_has_is_not_counted_and_says_which_items_fail(base: list[str], tmp_path: Path) -> None:
    asked = ["lang=swh", f"cache={tmp_path / 'cache'}", "patch=english", *base]
    before = planned(tmp_path / "before", *asked)
    assert [(stage.units, stage.cached) for stage in before.stages] == [(1, 0), (2, 0), (1, 0)]
    assert "all items" in before.stages[2].assumed
    assert not (tmp_path / "cache").exists()
    run_job(tmp_path / "scored", "lang=swh", f"cache={tmp_path / 'cache'}", "patch.items=tf", *base)
    stored = sum(path.stat().st_size for path in (tmp_path / "cache").rglob("*.safetensors"))
    assert before.stages[0].size + before.stages[1].size == pytest.approx(stored, rel=0.5)  # and a header per entry
    assert before.stages[0].size + before.stages[1].size < stored
    then = planned(tmp_path / "then", *asked)
    assert [stage.cached for stage in then.stages[:2]] == [1, 2]
    assert not then.stages[2].assumed
    content = run_job(tmp_path / "job", *asked)
    assert sum(stage.tokens for stage in then.stages) == content["tokens"]["patching"]
    done = planned(tmp_path / "done", *asked)
    assert [stage.cached for stage in done.stages] == [stage.units for stage in done.stages]
    assert (done.memory, done.size, sum(stage.passes for stage in done.stages)) == (0, 0, 0)


def test_kept_states_are_read_and_not_written(tmp_path: Path) -> None:
    """A dry run's zeros must never be taken for the states of a side."""
    asked = ["task=xcopa", "lang=[swh,ind]", "task.limit=6", "pivot=ind"]
    cache = tmp_path / "cache"
    first = planned(tmp_path / "first", f"cache={cache}", *asked)
    assert not cache.exists()
    expected = run_job(tmp_path / "expected", f"cache={tmp_path / 'other'}", *asked)
    run_job(tmp_path / "half", f"cache={cache}", *asked[:1], "lang=[swh]", *asked[2:3], "pivot=[eng]", "evaluate=false")
    run_job(tmp_path / "states", f"cache={cache}", *asked, "evaluate=false")
    for entry in cache.rglob("*.json"):  # the states stay, and what is computed from them goes
        if "States of ind" not in entry.read_text(encoding="utf-8"):
            entry.unlink()
    kept = {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()}
    some = planned(tmp_path / "some", f"cache={cache}", *asked)
    assert {path: path.read_bytes() for path in cache.rglob("*") if path.is_file()} == kept
    assert 0 < sum(stage.tokens for stage in some.stages) < sum(stage.tokens for stage in first.stages)
    found = run_job(tmp_path / "found", f"cache={cache}", *asked)
    assert found["languages"] == expected["languages"]


def test_the_disk_has_the_states_that_pivots_keep(tmp_path: Path) -> None:
    asked = ["task=xcopa", "lang=[swh,ind]", "task.limit=6", "pivot=[eng,ind]", "evaluate=false"]
    cache = tmp_path / "cache"
    found = planned(tmp_path / "first", f"cache={cache}", *asked)
    run_job(tmp_path / "job", f"cache={cache}", *asked)
    states = sum(
        path.with_suffix(".safetensors").stat().st_size
        for path in cache.rglob("*.json")
        if "States of" in path.read_text(encoding="utf-8")
    )
    stored = sum(path.stat().st_size for path in cache.rglob("*.safetensors"))
    assert states > stored / 2
    assert found.size == pytest.approx(stored, rel=0.1)
    assert found.size < stored  # each entry has a header
    assert planned(tmp_path / "then", f"cache={cache}", *asked).size == 0


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "align_pipeline.run", *arguments],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "WANDB_MODE": "offline"},
        check=False,
    )


def test_nothing_is_written_and_a_sweep_says_what_each_job_lacks(base: list[str], tmp_path: Path) -> None:
    one = command(tmp_path, "lang=swh", "dry_run=true", *base)
    assert one.returncode == 0, one.stderr
    assert "0 of 1" in one.stdout
    assert "Nothing was computed or written" in one.stdout
    asked = ["lang=swh,spa,quy", "layers=all,[99]", "hydra/launcher=slurm", "hydra.launcher.partition=gpu"]
    several = command(tmp_path, "-m", *asked, "dry_run=true", *base)
    assert several.returncode == 1
    assert "3 jobs failed:" in several.stderr
    assert "1_belebele_swh_random: layers contains 99" in several.stderr
    lines = several.stdout.splitlines()
    assert [line[:3] for line in lines if "results in the cache" in line] == ["#0 ", "#2 ", "2 j"]
    assert any("nothing to do" in line for line in lines)
    assert list(tmp_path.iterdir()) == []


def test_the_sample_of_passes_estimates_their_time_without_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Passes whose time is not proportional to their work: the mean over many draws is their total time."""
    clock = [0.0]
    monkeypatch.setattr("align_pipeline.engine.plan.time.perf_counter", lambda: clock[0])
    seconds = [0.001 + 0.01 * (k % 7) for k in range(40)]

    def repeat(k: int) -> Callable[[], Callable[[], object]]:
        return lambda: lambda: clock.__setitem__(0, clock[0] + seconds[k])

    def estimates() -> Iterator[float]:
        for seed in range(600):
            plan: Any = Plan(_rng=random.Random(seed))
            for k in range(40):
                plan.add("states", 1.0 + k, 1, 0, repeat(k))
            kind = plan.take().kinds["states"]
            yield seconds_per_work(kind, lambda: None) * kind.work

    found = list(estimates())
    assert sum(found) / len(found) == pytest.approx(sum(seconds), rel=0.05)
