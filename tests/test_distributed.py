"""Several processes on one job: the same bytes however many there are, and one end for all."""

from __future__ import annotations

import json
import os
import pydoc
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import processes
import pytest
import torch
from conftest import REPOSITORY, belebele_rows, random_job, random_model, tokenizer, write_hub
from conftest import run_job as run_job_here
from hypothesis import given
from hypothesis import strategies as st

from align_pipeline import distributed, pipeline
from align_pipeline.engine import forward, layout
from align_pipeline.engine.forward import loglikelihoods
from align_pipeline.engine.model import wrap
from align_pipeline.engine.tree import steps, trie
from align_pipeline.errors import InputError

TABLES = ("alignment.parquet", "predictions.parquet")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory, model_folder: Path) -> list[str]:
    data = tmp_path_factory.mktemp("data")
    rows = {code: {"test": belebele_rows(code, 20)} for code in ("eng_Latn", "swh_Latn", "spa_Latn")}
    write_hub(data, "facebook/belebele", rows)
    return random_job(model_folder, data, "batch_tokens=300", "lang=[swh,spa]")


@pytest.fixture(scope="module")
def alone(base: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tables of one process."""
    folder = tmp_path_factory.mktemp("alone")
    run_job_here(folder, *base)
    return folder


# ---- sharing out


@given(st.lists(st.floats(0, 1e6), max_size=40), st.integers(1, 9))
def test_every_piece_has_one_owner_and_shares_are_fair(costs: list[float], size: int) -> None:
    shares = []
    group = distributed._group
    try:
        for rank in range(size):
            group.rank, group.size = rank, size
            shares.append(list(distributed.mine(costs)))
    finally:
        group.rank, group.size = 0, 1
    assert [index for share in shares for index in share] == list(range(len(costs)))
    fair, largest = sum(costs) / size, max(costs, default=0.0)
    assert all(sum(costs[i] for i in share) <= fair + largest + 1e-3 for share in shares)


def test_a_cached_beginning_is_the_same_whatever_was_cached_before() -> None:
    """Steps in any order, each with what a former one left in the cache, give the same bits."""
    shots = [[(11 * k + s) % 390 + 2 for k in range(70 + 10 * s)] for s in range(3)]
    sequences = [
        [0, *shots[0], *shots[1 + i % 2], *[(j * (p + 3)) % 390 + 2 for j in range(80)], (5 * i) % 390 + 2, i + 2, 7]
        for p in range(6)
        for i in range(6)
    ]
    requests = [(sequence[:-2], sequence[-2:]) for sequence in sequences]
    cut = [sequence[:-1] for sequence in sequences]
    found = [step for step in steps(trie(cut, [len(s) - 2 for s in cut]), 128) if step.trunk]
    assert {step.cuts for step in found} == {(71, 152), (71, 162)}

    def states(order: list[int]) -> dict[int, torch.Tensor]:
        lm = wrap(random_model(), tokenizer(), "random")
        trunk, kept = layout.Trunk(lm), {}
        for index in order:
            trunk.hold(found[index].trunk, found[index].cuts)
            kept[index] = torch.cat([layer.keys.clone() for layer in trunk.cache.layers])
        return kept

    forwards, backwards = states(list(range(len(found)))), states(list(range(len(found)))[::-1])
    for index, step in enumerate(found):
        assert forwards[index].shape[-2] == len(step.trunk)
        assert torch.equal(forwards[index], backwards[index])
    lm = wrap(random_model(), tokenizer(), "random")
    values = loglikelihoods(lm, requests, 500)
    for index in (0, 7, 35):
        assert values[index] == pytest.approx(loglikelihoods(lm, [requests[index]], 500)[0], abs=1e-3)


# ---- the same bytes


def job(folder: Path, overrides: list[str]) -> None:
    """What a process of a launcher does."""
    from conftest import compose

    folder.mkdir(parents=True, exist_ok=True)
    given = ["wandb.mode=disabled", *([] if any(o.startswith("cache=") for o in overrides) else ["cache=null"])]
    pipeline.run(compose(*given, *overrides), folder, {})


@pytest.mark.parametrize("size", [2, 3])
def test_tables_are_the_same_bytes_for_any_number_of_processes(
    base: list[str], alone: Path, tmp_path: Path, size: int
) -> None:
    arguments = (tmp_path / "out", [*base, f"cache={tmp_path / 'cache'}"])
    assert processes.join(processes.start(size, job, arguments, tmp_path / "log")) == [0] * size
    for table in TABLES:
        assert (tmp_path / "out" / table).read_bytes() == (alone / table).read_bytes()
    content = json.loads((tmp_path / "out/summary.json").read_text())
    assert content["processes"] == size
    # Only the main process prints.
    printed = [(tmp_path / f"log.{rank}").read_text() for rank in range(size)]
    assert "swh_Latn" in printed[0]
    assert set(printed[1:]) == {""}
    # What several processes put into the cache, one takes from it.
    warm = run_job_here(tmp_path / "warm", *base, f"cache={tmp_path / 'cache'}")
    assert set(warm["tokens"].values()) == {0}
    assert (tmp_path / "warm" / TABLES[0]).read_bytes() == (alone / TABLES[0]).read_bytes()


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("patching", ["patch=english", "patch.items=all", "patch.conditions=[parallel,self,random_item]", "lang=swh"]),
        (
            "translation_patching",
            [
                *("task=flores", "data=embedded", "task.limit=7", "task.max_new_tokens=5", "lang=swh"),
                *("patch=english", "patch.layers=[1,3]", "task.direction=xx-en"),
            ],
        ),
        ("pivots", ["pivot=all"]),
        ("translations", ["task=flores", "data=embedded", "task.limit=7", "task.max_new_tokens=5", "lang=swh"]),
    ],
)
def test_other_tables_are_the_same_bytes(base: list[str], tmp_path: Path, name: str, more: list[str]) -> None:
    overrides = [*base, *more]
    assert processes.join(processes.start(2, job, (tmp_path / "two", overrides), tmp_path / "log")) == [0, 0]
    run_job_here(tmp_path / "one", *overrides)
    found, expected = (pd.read_parquet(tmp_path / folder / f"{name}.parquet") for folder in ("two", "one"))
    assert len(expected) > 10
    pd.testing.assert_frame_equal(found, expected)
    assert (tmp_path / "two" / f"{name}.parquet").read_bytes() == (tmp_path / "one" / f"{name}.parquet").read_bytes()


def counting_job(folder: Path, overrides: list[str]) -> None:
    """A job that leaves the number of its own passes."""
    passes = 0
    for name in ("pooled_pass", "scored_pass"):
        original = getattr(forward, name)

        def counted(*arguments: Any, original: Any = original, **keywords: Any) -> Any:
            nonlocal passes
            passes += 1
            return original(*arguments, **keywords)

        setattr(forward, name, counted)
    job(folder, overrides)
    (folder / f"passes.{distributed.rank()}").write_text(str(passes))


def test_the_work_is_shared(base: list[str], tmp_path: Path) -> None:
    counts = {}
    for size in (1, 2):
        folder = tmp_path / str(size)
        children = processes.start(size, counting_job, (folder, base), tmp_path / f"log{size}")
        assert processes.join(children) == [0] * size
        counts[size] = [int((folder / f"passes.{rank}").read_text()) for rank in range(size)]
    assert max(counts[2]) < 0.75 * counts[1][0]


def test_more_processes_than_work(base: list[str], tmp_path: Path) -> None:
    few = [*base, "task.limit=1", "task.num_fewshot=0", "lang=swh", "batch_tokens=16384"]
    assert processes.join(processes.start(3, job, (tmp_path / "three", few), tmp_path / "log")) == [0] * 3
    run_job_here(tmp_path / "one", *few)
    for table in TABLES:
        assert (tmp_path / "three" / table).read_bytes() == (tmp_path / "one" / table).read_bytes()


# ---- models larger than a GPU


def test_a_model_split_over_processes_gives_the_same_numbers(base: list[str], alone: Path, tmp_path: Path) -> None:
    arguments = (tmp_path / "out", [*base, "model.parallel=tensor"])
    assert processes.join(processes.start(2, job, arguments, tmp_path / "log")) == [0, 0]
    found, expected = (pd.read_parquet(folder / TABLES[1]) for folder in (tmp_path / "out", alone))
    assert list(found["item_id"]) == list(expected["item_id"])
    values = [np.stack(table["loglikelihoods"]) for table in (found, expected)]
    assert np.abs(values[0] - values[1]).max() < 1e-3
    found, expected = (pd.read_parquet(folder / TABLES[0]) for folder in (tmp_path / "out", alone))
    assert np.abs(found["margin"] - expected["margin"]).max() < 1e-5
    counts = [json.loads((folder / "summary.json").read_text())["tokens"] for folder in (tmp_path / "out", alone)]
    assert counts[0] == counts[1]


def test_a_model_on_all_devices_gives_the_same_bytes(base: list[str], alone: Path, tmp_path: Path) -> None:
    run_job_here(tmp_path, *base, "model.parallel=device_map")
    for table in TABLES:
        assert (tmp_path / table).read_bytes() == (alone / table).read_bytes()


def test_a_model_split_over_one_process(base: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"model.parallel=tensor needs a process per GPU; start them with"):
        run_job_here(tmp_path, *base, "model.parallel=tensor")


# ---- one end for all


def failing(folder: Path, overrides: list[str], where: str, who: int) -> None:
    """A job in which one process fails at a point."""

    def fail(*arguments: Any, **keywords: Any) -> Any:
        raise InputError("The planted fault.") if who != 1 else RuntimeError("The planted fault.")

    if distributed.rank() == who:
        module, name = {
            "reading": ("align_pipeline.data.tasks.choice.ChoiceTask", "pairs"),
            "loading": ("align_pipeline.measurements.base", "load"),
            "extraction": ("align_pipeline.engine.forward", "pooled_pass"),
            "scoring": ("align_pipeline.engine.forward", "scored_pass"),
            "caching": ("align_pipeline.store.cache", "_write"),
            "writing": ("align_pipeline.store.tables.Table", "append"),
        }[where]
        setattr(pydoc.locate(module), name, fail)
    job(folder, overrides)


@pytest.mark.parametrize(
    ("where", "who"),
    [("reading", 1), ("extraction", 1), ("scoring", 2), ("caching", 0), ("writing", 0)],
)
def test_an_error_of_one_process_ends_all_with_its_sentence(
    base: list[str], tmp_path: Path, where: str, who: int
) -> None:
    arguments = (tmp_path / "out", [*base, f"cache={tmp_path / 'cache'}"], where, who)
    assert processes.join(processes.start(3, failing, arguments, tmp_path / "log"), 60) == [1] * 3
    for rank in range(3):
        text = (tmp_path / f"log.{rank}").read_text()
        assert "The planted fault." in text
        if rank not in (0, who):
            assert text.startswith("StoppedError: ")
    assert not (tmp_path / "out/predictions.parquet").exists()
    assert not list((tmp_path / "out").glob(".*.partial"))


def killed(folder: Path, overrides: list[str]) -> None:
    """A job whose last process dies at its first scored pass."""
    if distributed.rank() == 1:
        forward.scored_pass = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    job(folder, overrides)


def test_a_killed_process_ends_the_others(base: list[str], alone: Path, tmp_path: Path) -> None:
    arguments = (tmp_path / "out", [*base, f"cache={tmp_path / 'cache'}"])
    assert processes.join(processes.start(2, killed, arguments, tmp_path / "log"), 60) == [1, -signal.SIGKILL]
    assert "Another process of this job ended without an error message" in (tmp_path / "log.0").read_text()
    run_job_here(tmp_path / "out", *base, f"cache={tmp_path / 'cache'}")
    for table in TABLES:
        assert (tmp_path / "out" / table).read_bytes() == (alone / table).read_bytes()


def test_a_process_that_never_comes_is_not_waited_for(tmp_path: Path) -> None:
    children = processes.start(2, job, (tmp_path / "out", []), tmp_path / "log", meeting=3)
    children[0].kill()
    assert processes.join(children) == [-signal.SIGKILL, 1]
    assert "cannot connect to each other" in (tmp_path / "log.1").read_text()


@pytest.mark.parametrize(
    ("ending", "code", "said"),
    [
        ("", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('why')", 1, "why"),
        ("raise ValueError('why')", 1, "ValueError: why"),
    ],
)
def test_a_process_of_several_ends_before_python_cleans_up(ending: str, code: int, said: str) -> None:
    """The group's threads may abort it otherwise; what libraries registered for the end still runs."""
    script = (
        "import atexit, sys\nfrom align_pipeline import distributed\n"
        "class Late:\n    def __del__(self): print('cleaned up')\n"
        f"late = Late()\natexit.register(print, 'at exit')\nwith distributed.leaving():\n    {ending or 'pass'}\n"
    )
    for size in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            cwd=REPOSITORY,
            env={**os.environ, "WORLD_SIZE": size},
            check=False,
        )
        assert (found.returncode, found.stderr.strip().split("\n")[-1]) == (code, said)
        left_at_once = size == "2" and "raise" not in ending
        assert found.stdout.split("\n")[:-1] == ["at exit"] + ["cleaned up"] * (not left_at_once)


@pytest.mark.parametrize(("work", "code"), [("print('the program goes on')", 0), ("raise ValueError", 1)])
def test_a_process_of_another_program_ends_so_too(work: str, code: int) -> None:
    """As SLURM's tasks do, which end through submitit."""
    script = (
        "import atexit\nfrom align_pipeline import distributed\n"
        "class Late:\n    def __del__(self): print('cleaned up')\n"
        "late = Late()\nwith distributed.leaving_at_exit():\n"
        f"    atexit.register(print, 'at exit')\n    {work}\nprint('after it')\n"
    )
    for size in ("1", "2"):
        environment = {**os.environ, "WORLD_SIZE": size}
        found = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=False
        )
        assert found.returncode == code
        before = ["the program goes on", "after it", "at exit"] if code == 0 else ["at exit"]
        assert found.stdout.split("\n")[:-1] == before + ["cleaned up"] * (size == "1" or code == 1)


# ---- the launchers themselves


LAUNCHERS = {
    "torchrun": "torch.distributed.run --nproc_per_node 2 --master_port",
    # Without a GPU, accelerate starts one process unless it is told --multi_gpu.
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --main_process_port",
}


def launch(launcher: str, folder: Path, *overrides: str, **environment: str) -> subprocess.CompletedProcess[str]:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    command = [sys.executable, "-m", *LAUNCHERS[launcher].split(), port, "-m", "align_pipeline.run", *overrides]
    return subprocess.run(
        [*command, f"hydra.run.dir={folder}", f"hydra.sweep.dir={folder}"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "WANDB_MODE": "disabled", **environment},
        check=False,
        timeout=300,
    )


def test_torchrun_runs_a_sweep(base: list[str], alone: Path, tmp_path: Path) -> None:
    found = launch("torchrun", tmp_path, "-m", "layers=all,[99]", *base, "cache=null")
    assert found.returncode != 0
    assert found.stderr.count("1 jobs failed:") == 1
    sentence = "layers contains 99, but random has layers 0 to 4"
    assert sentence in found.stderr
    for table in TABLES:
        assert (tmp_path / "0_belebele_swh-spa_random" / table).read_bytes() == (alone / table).read_bytes()
    for name in ("align_pipeline.log", "align_pipeline.rank1.log"):
        assert sentence in (tmp_path / "1_belebele_swh-spa_random" / name).read_text()
        assert "[ERROR]" not in (tmp_path / "0_belebele_swh-spa_random" / name).read_text()
    assert sentence in (tmp_path / "1_belebele_swh-spa_random/error.txt").read_text()
    assert "layers contains 99" in (tmp_path / "report/report.html").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "0_belebele_swh-spa_random",
        "1_belebele_swh-spa_random",
        "multirun.yaml",
        "report",
    ]


def test_accelerate_launches_processes(base: list[str], alone: Path, tmp_path: Path) -> None:
    found = launch("accelerate", tmp_path, *base, "cache=null")
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("belebele: random on data from") == 1
    assert json.loads((tmp_path / "summary.json").read_text())["processes"] == 2
    for table in TABLES:
        assert (tmp_path / table).read_bytes() == (alone / table).read_bytes()
