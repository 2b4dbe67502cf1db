"""What a sweep knows of SLURM, on stand-ins for its commands; tests/slurm tries the same on a cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY
from hydra import compose, initialize_config_dir

from align_pipeline.config import register
from align_pipeline.config.paths import CONF
from align_pipeline.errors import InputError
from align_pipeline.sweep import jobs as sweep
from align_pipeline.sweep import slurm


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder first on the path."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(slurm, "_POLL_SECONDS", (0.0, 0.0))
    return folder


def write(path: Path, script: str) -> None:
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_jobs_are_over_when_the_queue_no_longer_has_them(commands: Path) -> None:
    """The queue's answers, one after the other; `!` is no answer."""
    answers = commands.parent / "answers"
    answers.write_text("7_0 7_1 7_2\n!\n7_1 7_2\n7_2 8\n!\n7_2\n8\n")
    write(
        commands / "squeue",
        f"answer=$(head -n 1 {answers}); sed -i 1d {answers}\n"
        '[ "$answer" = "!" ] && exit 1\nfor job in $answer; do echo $job; done',
    )
    assert list(slurm.as_over(["7_0", "7_1", "7_2"])) == ["7_0", "7_1", "7_2"]
    assert answers.read_text() == ""


@pytest.mark.parametrize(
    ("state", "code", "errors", "reason"),
    [
        ("CANCELLED", "0:15", "", "it was cancelled"),
        ("TIMEOUT", "0:0", "", "it ran out of time (hydra.launcher.timeout_min)"),
        ("OUT_OF_MEMORY", "0:125", "", "it ran out of memory (hydra.launcher.mem_gb)"),
        ("FAILED", "137:0", "", "it was killed by signal 9"),
        ("FAILED", "0:9", "", "it was killed by signal 9"),
        ("FAILED", "2:0", "", "it failed with exit code 2"),
        ("FAILED", "1:0", "ImportError: no x\nsrun: error: node: task 0", "ImportError: no x"),
        ("NODE_FAIL", "0:0", "", "SLURM reports NODE_FAIL"),
        ("COMPLETED", "0:0", "", "it ended without a result"),
    ],
)
@pytest.mark.parametrize("known_to", ["scontrol", "sacct"])
def test_how_a_job_ended(commands: Path, state: str, code: str, errors: str, reason: str, known_to: str) -> None:
    write(commands / "scontrol", "exit 1")
    answer = {"scontrol": f"JobId=7 JobState={state} Reason=None ExitCode={code} RunTime=0", "sacct": f"{state}|{code}"}
    write(commands / known_to, f"echo '{answer[known_to]}'")
    log = commands.parent / "log.err"
    log.write_text(errors)
    assert slurm.how_it_ended("7", log) == f"{reason}; see {log}"


def test_a_job_that_slurm_forgot(commands: Path) -> None:
    write(commands / "scontrol", "exit 1")
    write(commands / "sacct", "exit 1")
    assert slurm.how_it_ended("7", commands / "none").startswith("SLURM reports nothing about it any more; see ")


@pytest.mark.parametrize("tasks", [1, 4])
def test_the_process_group_of_a_job(tasks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    own = {
        "SUBMITIT_EXECUTOR": "slurm",
        "SLURM_JOB_ID": "12",
        "SLURM_NTASKS": str(tasks),
        "SLURM_JOB_NUM_NODES": str(min(tasks, 2)),
        "SLURM_NODEID": "1",
        "SLURM_JOB_NODELIST": "gpu[07-08]",
        "SLURM_PROCID": str(tasks - 1),
        "SLURM_LOCALID": "1",
    }
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        monkeypatch.setenv(name, "")  # so that they are put back
        monkeypatch.delenv(name)
    gpus = os.environ.get("CUDA_VISIBLE_DEVICES")
    assert slurm.set_process_group() == tasks - 1
    if tasks == 1:
        assert "RANK" not in os.environ
    else:
        found = [os.environ[name] for name in ("MASTER_ADDR", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")]
        assert found == ["gpu07", "3", "4", "1", "2"]
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == gpus


def test_a_job_is_finished_if_its_folder_has_the_result_of_its_config(tmp_path: Path) -> None:
    settings = {"layers": "all", "task": {"limit": 8}}
    job = sweep.Planned(0, ["lang=swh"], tmp_path, settings)
    assert not job.is_finished()
    rows = [{"accuracy": 0.5}, {"accuracy": None}, {"accuracy": 0.25}]
    (tmp_path / "summary.json").write_text(json.dumps({"config": settings, "languages": rows}))
    assert job.is_finished()
    assert job.outcome().return_value == 0.375
    assert not sweep.Planned(0, ["lang=swh"], tmp_path, {**settings, "layers": [1]}).is_finished()


def test_a_job_that_never_ran_is_in_the_report(tmp_path: Path) -> None:
    job = sweep.Planned(3, ["lang=swh", "layers=[1]"], tmp_path / "3_belebele", {"layers": [1]})
    sweep.begin(job)
    assert sweep.failed_jobs(tmp_path) == ["3_belebele (lang=swh layers=[1]): it did not finish"]
    sweep.note_reason("it was cancelled", job.folder)
    assert sweep.failed_jobs(tmp_path) == ["3_belebele (lang=swh layers=[1]): it was cancelled"]
    sweep.begin(job)
    assert sweep.failed_jobs(tmp_path) == ["3_belebele (lang=swh layers=[1]): it did not finish"]


def test_a_folder_with_the_result_of_another_config_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"config": {"layers": "all"}}))
    sweep.refuse_others(sweep.Planned(0, [], tmp_path, {"layers": "all", "wandb": {"mode": "online"}}))
    with pytest.raises(InputError, match=r"another job \(layers is all there and \[1\] here\)"):
        sweep.refuse_others(sweep.Planned(0, [], tmp_path, {"layers": [1]}))


def test_the_launcher_composes() -> None:
    register()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        overrides = ["hydra/launcher=slurm", "hydra.launcher.partition=gpu", "hydra.launcher.setup=[module load cuda]"]
        launcher = compose("config", overrides=overrides, return_hydra_config=True).hydra.launcher
    assert launcher.partition == "gpu"
    assert launcher.setup == ["module load cuda"]
    assert launcher.account is None


def test_without_the_extra_it_is_one_sentence(tmp_path: Path) -> None:
    """A config store without what hydra-submitit-launcher registers there."""
    script = (
        "import hydra_plugins.hydra_submitit_launcher.config; from hydra.core.config_store import ConfigStore;"
        "from hydra.core.plugins import Plugins; Plugins.instance();"
        "del ConfigStore.instance().repo['hydra']['launcher']['submitit_slurm.yaml'];"
        "import sys; sys.argv += ['-m', 'hydra/launcher=slurm']; from align_pipeline.run import main; main()"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, env=here())
    assert done.returncode == 1
    assert done.stderr == "Error: hydra/launcher=slurm needs the extra 'slurm': pip install 'align_pipeline[slurm]'.\n"


def here(**changes: str) -> dict[str, str]:
    """This process's environment, with this checkout's package."""
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **changes}


def test_without_slurm_it_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "align_pipeline.run", "-m", "hydra/launcher=slurm", f"hydra.sweep.dir={tmp_path}"]
    own = here(PATH=str(tmp_path))
    done = subprocess.run(command, cwd=REPOSITORY, env=own, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "needs SLURM's sbatch" in done.stderr
    assert "Traceback" not in done.stderr
