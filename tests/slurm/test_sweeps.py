"""Sweeps on a SLURM cluster whose jobs fail in every way: each ends with the right report, and starts again from there.

The jobs are real (embedded data and model, a few items) and so are their endings: this test acts on their processes and
on the queue. A job is caught while Python imports, which takes it seconds, and held there with SIGSTOP where need be.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cluster import Cluster

from align_pipeline.sweep import slurm

REPOSITORY = Path(__file__).parents[2]
EMBEDDED = REPOSITORY / "align_pipeline" / "embedded" / "data"
BASE = ("task=belebele", "task.limit=12", "task.num_fewshot=1", "metric=dali", "wandb.mode=disabled")
JOBS = [f"{k}_belebele_{code}_tiny" for k, code in enumerate(("swh", "spa", "fra", "deu", "ita"))]
TABLES = ("alignment.parquet", "predictions.parquet")


@dataclass
class Sweep:
    """A sweep of this test: its command, running; `name` is its jobs'."""

    cluster: Cluster
    folder: Path
    name: str
    process: subprocess.Popen[str]

    def end(self, seconds: float = 900) -> tuple[int, str]:
        """Its exit code and all that it printed."""
        printed, _ = self.process.communicate(timeout=seconds)
        return self.process.returncode, printed

    def queue(self) -> dict[str, str]:
        """State by number, of its jobs that are not over."""
        lines = self.cluster.command("squeue", "--noheader", "--array", f"--name={self.name}", "--format=%i %T")
        return dict(line.split() for line in lines.splitlines())

    def task(self, index: int | None = None) -> tuple[str, int]:
        """SLURM's number and the process of a job, as soon as it runs; ``index`` is its place in the sweep's array."""

        def found() -> tuple[str, int] | None:
            for pid in python_processes():
                own = environment(pid)
                if own.get("SLURM_JOB_NAME") == self.name and (
                    index is None or own.get("SLURM_ARRAY_TASK_ID") == str(index)
                ):
                    # A task of an array goes by both numbers; its own, the last one's at least, means the whole array.
                    array = own.get("SLURM_ARRAY_JOB_ID")
                    return (f"{array}_{own['SLURM_ARRAY_TASK_ID']}" if array else own["SLURM_JOB_ID"]), pid
            return None

        return until(found, 240)


def python_processes() -> list[int]:
    """The processes that submitit runs jobs in."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"submitit.core._submit" in words and b"python" in Path(os.fsdecode(words[0])).name.encode():
            found.append(int(folder.name))
    return found


def environment(pid: int) -> dict[str, str]:
    try:
        text = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
    except OSError:
        return {}
    return dict(line.split("=", 1) for line in text.split("\0") if "=" in line)


def until(ask: Callable[[], Any], seconds: float) -> Any:
    """What is asked for, as soon as it is there."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = ask()
        if answer:
            return answer
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds:.0f} s")


@pytest.fixture
def start(cluster: Cluster, tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    """Starts a sweep on the cluster, with a name of its own for its jobs; nothing of it outlives the test."""
    running = []

    def sweep(*arguments: str, data: str | Path = "embedded", folder: Path = tmp_path / "sweep") -> Sweep:
        command = [sys.executable, "-m", "align_pipeline.run", "-m", "hydra/launcher=slurm", *BASE, f"data={data}"]
        command += ["hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1", f"hydra.launcher.name={tmp_path.name}"]
        command += [f"hydra.sweep.dir={folder}", f"cache={tmp_path / 'cache'}", *arguments]
        own = {**cluster.environment, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command,
            cwd=REPOSITORY,
            env=own,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            # Tests that a shell started in the background ignore Ctrl-C, and so would what they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        running.append(process)
        return Sweep(cluster, folder, tmp_path.name, process)

    yield sweep
    for process in running:
        process.kill()
        process.wait()
    cluster.command("scancel", f"--name={tmp_path.name}")


@pytest.fixture(scope="session")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two languages without a cluster, a sweep or a cache."""
    folder = tmp_path_factory.mktemp("alone")
    command = [sys.executable, "-m", "align_pipeline.run", *BASE, "lang=[swh,spa]"]
    command += ["cache=null", f"hydra.run.dir={folder}"]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return folder


def summary(job: Path) -> Any:
    return json.loads((job / "summary.json").read_text())


def test_every_ending_is_reported_and_the_same_command_finishes_what_is_missing(
    start: Callable[..., Sweep], tmp_path: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(EMBEDDED, data)
    broken = data / "facebook/belebele/data/spa_Latn.jsonl"
    whole = broken.read_text()
    broken.write_text(whole[:1000])  # its first line has no end

    # 0 ends well, 1 raises, 2 is killed, 3 is cancelled, 4 hangs until its time is over
    command = ("lang=swh,spa,fra,deu,ita", "hydra.launcher.signal_delay_s=0")  # 0: no warning before the time is over
    sweep = start(*command, data=data)
    hanging, process = sweep.task(4)
    os.kill(process, signal.SIGSTOP)
    sweep.cluster.command("scontrol", "update", f"JobId={hanging}", "TimeLimit=1")
    os.kill(sweep.task(2)[1], signal.SIGKILL)
    sweep.cluster.command("scancel", sweep.task(3)[0])
    code, printed = sweep.end()

    assert code == 1, printed
    reasons = {line.split()[0]: line for line in printed.split("4 jobs failed:")[1].strip().splitlines()}
    assert reasons.keys() == set(JOBS[1:])
    assert "lang=spa" in reasons[JOBS[1]]
    assert (sweep.folder / JOBS[1] / "error.txt").read_text().splitlines()[-1] in reasons[JOBS[1]]
    assert "it was killed by signal 9" in reasons[JOBS[2]]
    assert "it was cancelled" in reasons[JOBS[3]]
    assert "it ran out of time" in reasons[JOBS[4]]
    assert sweep.queue() == {}
    page = (sweep.folder / "report/report.html").read_text()
    assert all(reason.split("; see")[0].split(": ", 1)[1] in page for reason in reasons.values())
    first = sweep.folder / JOBS[0]
    assert {row["language"] for row in summary(first)["languages"]} == {"swh_Latn"}
    before = {path.name: path.stat().st_mtime_ns for path in first.iterdir()}

    broken.write_text(whole)
    code, printed = start(*command, data=data).end()
    assert code == 0, printed
    assert "1 of 5 jobs are finished" in printed
    assert "Submitted 4 jobs" in printed
    assert "Report over 5 of 5 jobs" in printed
    assert {path.name: path.stat().st_mtime_ns for path in first.iterdir()} == before
    languages = [summary(sweep.folder / job)["languages"][0]["language"] for job in JOBS]
    assert languages == ["swh_Latn", "spa_Latn", "fra_Latn", "deu_Latn", "ita_Latn"]
    assert "jobs failed" not in (sweep.folder / "report/report.html").read_text()

    code, printed = start(*command, data=data).end()
    assert code == 0
    assert "5 of 5 jobs are finished" in printed
    assert "Submitted" not in printed


def test_a_preempted_job_is_requeued_and_goes_on_from_the_cache(
    start: Callable[..., Sweep], alone: Path, tmp_path: Path
) -> None:
    def preempt(process: int, hold: bool) -> None:
        """Ask for the node; SLURM's signals wake the process, and if it is held it does not hear them."""

        def gone() -> bool:
            if hold and process in python_processes():
                os.kill(process, signal.SIGSTOP)
            return process not in python_processes()

        os.kill(process, signal.SIGSTOP)
        assert not (sweep.folder / "0_belebele_swh-spa_tiny/summary.json").exists()
        sweep.cluster.command("sbatch", "--partition=urgent", "--exclusive", "--output=/dev/null", "--wrap=true")
        until(gone, 120)
        until(lambda: sweep.queue() == {job: "PENDING"}, 60)

    sweep = start("lang=[swh,spa]", "hydra.launcher.timeout_min=60")
    job, process = sweep.task()
    preempt(process, hold=True)  # while it starts: SLURM itself requeues it
    _, process = sweep.task()
    until(lambda: list((tmp_path / "cache").rglob("*.json")), 240)
    preempt(process, hold=False)  # when something is finished
    code, printed = sweep.end()
    assert code == 0, printed
    assert "Restarts=2" in sweep.cluster.command("scontrol", "show", "job", job)
    again = sweep.folder / "0_belebele_swh-spa_tiny"
    assert "from the cache" in (again / "align_pipeline.log").read_text()
    assert 0 < sum(summary(again)["tokens"].values()) < sum(summary(alone)["tokens"].values())
    for name in TABLES:
        assert (again / name).read_bytes() == (alone / name).read_bytes()


def test_a_job_that_runs_out_of_time_goes_on_so_many_times(start: Callable[..., Sweep], tmp_path: Path) -> None:
    sweep = start("lang=swh", "hydra.launcher.timeout_min=5", "hydra.launcher.max_num_timeout=1")
    log = tmp_path / "sweep/0_belebele_swh_tiny/align_pipeline.log"
    for attempt in (1, 2):
        job, process = sweep.task()
        until(lambda: log.exists() and log.read_text().count("Data: ") == attempt, 240)  # noqa: B023
        sweep.cluster.command("scancel", "--signal=USR2", job)  # what SLURM sends before the end
        until(lambda: process not in python_processes(), 60)  # noqa: B023
    code, printed = sweep.end()
    assert code == 1, printed
    assert "timed-out too many times" in printed


def test_ctrl_c_cancels_the_jobs(start: Callable[..., Sweep]) -> None:
    sweep = start("lang=swh,spa")
    sweep.task(0)
    sweep.process.send_signal(signal.SIGINT)
    code, printed = sweep.end(60)
    assert code == 1
    assert "Stopped. What was computed is kept in" in printed
    until(lambda: sweep.queue() == {}, 60)
    assert (sweep.folder / JOBS[1] / "error.txt").read_text() == "the sweep was stopped\n"


def test_jobs_whose_sweep_was_killed_are_waited_for_by_the_next(start: Callable[..., Sweep]) -> None:
    sweep = start("lang=swh")
    _, process = sweep.task()
    os.kill(process, signal.SIGSTOP)
    until((sweep.folder / "0_belebele_swh_tiny/.hydra/slurm.json").exists, 60)
    sweep.process.kill()
    sweep.process.wait()
    again = start("lang=swh")
    assert again.process.stdout is not None
    assert again.process.stdout.readline().startswith("Already in the queue: ")
    os.kill(process, signal.SIGCONT)
    code, printed = again.end()
    assert code == 0, printed
    assert "Submitted" not in printed
    assert "Report over 1 of 1 jobs" in printed


def test_what_slurm_does_not_take_is_one_sentence(start: Callable[..., Sweep]) -> None:
    code, printed = start("lang=swh", "hydra.launcher.partition=gpus").end()
    assert code == 1
    assert "Traceback" not in printed
    assert "Error: SLURM refuses the jobs: " in printed
    assert "invalid partition specified: gpus" in printed


def test_tasks_of_a_job_share_its_items(start: Callable[..., Sweep], alone: Path, tmp_path: Path) -> None:
    sweep = start("lang=[swh,spa]", "hydra.launcher.tasks_per_node=2", "hydra.launcher.gpus_per_node=2")
    job, _ = sweep.task()
    shown = sweep.cluster.command("scontrol", "show", "job", job)
    assert "NumTasks=2 " in shown
    assert "TresPerNode=gres:gpu:2" in shown
    code, printed = sweep.end()
    assert code == 0, printed
    job = tmp_path / "sweep/0_belebele_swh-spa_tiny"
    for name in TABLES:
        assert (job / name).read_bytes() == (alone / name).read_bytes()
    assert (job / "align_pipeline.rank1.log").is_file()


def test_endings_are_the_same_from_the_controller_and_from_accounting(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in cluster.environment.items():
        monkeypatch.setenv(name, value)
    wraps = ["exit 3", "kill -9 $$", "true", "sleep 600"]
    jobs = [cluster.command("sbatch", "--parsable", "--output=/dev/null", f"--wrap={wrap}") for wrap in wraps]
    until(lambda: cluster.command("squeue", "--noheader", f"--job={jobs[3]}", "--format=%T") == "RUNNING", 60)
    cluster.command("scancel", jobs[3])
    assert sorted(slurm.as_over(jobs)) == sorted(jobs)
    from_controller = [slurm._ending(job) for job in jobs]
    assert from_controller[:3] == [("FAILED", 3, 0), ("FAILED", 0, 9), ("COMPLETED", 0, 0)]
    assert from_controller[3][0] == "CANCELLED"
    asked = slurm._run
    monkeypatch.setattr(slurm, "_run", lambda *command: None if command[0] == "scontrol" else asked(*command))
    assert [slurm._ending(job) for job in jobs[:3]] == from_controller[:3]
    assert slurm._ending(jobs[3])[0] == "CANCELLED"
