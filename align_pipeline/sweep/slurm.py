"""What a sweep must know of SLURM: the process group of a job's tasks, which jobs are over, and how they ended.

The queue says which jobs are over and the jobs' own folders say which have a result: neither needs SLURM's accounting
database, which not every cluster has, nor anything that a job would have to do after it was killed.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

log = logging.getLogger(__name__)

PYTHON = f"""sh -c 'trap "" USR2; exec "$0" "$@"' {shlex.quote(sys.executable)}"""
"""Python in a job's process: SLURM's warning does not kill it before it can listen."""
_POLL_SECONDS = (2.0, 30.0)
"""Time between two questions to SLURM: at first, and at most."""


def set_process_group() -> int:
    """Tell torch.distributed, and so Accelerate, of a job's tasks: what torchrun would have set.

    To be called in a job of submitit, before a process group is made. A job of one task needs none.

    Returns:
        This task's rank.
    """
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    job = JobEnvironment()
    if job.num_tasks > 1:
        # Every task sees all GPUs of its node, and takes the one of its local rank.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return job.global_rank


def as_over(jobs: Collection[str]) -> Iterator[str]:
    """SLURM's numbers of jobs (12, or 12_3 in an array), each as soon as it is over: it will not run again."""
    waiting = list(jobs)
    start, answered = time.monotonic(), True
    while waiting:
        least, most = _POLL_SECONDS
        time.sleep(min(most, max(least, (time.monotonic() - start) / 20)))
        queued = queue()
        if queued is None:  # its controller restarts or is busy
            if answered:
                log.warning("squeue does not answer; waiting for it.")
            answered = False
            continue
        answered = True
        yield from (job for job in waiting if job not in queued)
        waiting = [job for job in waiting if job in queued]


def queue() -> set[str] | None:
    """The user's jobs that are not over, in arrays each by itself; None if SLURM does not answer."""
    asked = _run("squeue", "--me", "--noheader", "--array", "--format=%i")
    return None if asked is None else set(asked.split())


def how_it_ended(job: str, errors: Path) -> str:
    """Why a job that is over has no result, in one line.

    Args:
        job: SLURM's number.
        errors: the file of its first task's error stream.
    """
    state, code, signal = _ending(job)
    if state == "CANCELLED":
        reason = "it was cancelled"
    elif state == "TIMEOUT":
        reason = "it ran out of time (hydra.launcher.timeout_min)"
    elif state == "OUT_OF_MEMORY":
        reason = "it ran out of memory (hydra.launcher.mem_gb)"
    elif signal or code > 128:  # a shell's exit code for a process that a signal ended
        reason = f"it was killed by signal {signal or code - 128}"
    elif state == "COMPLETED":
        reason = "it ended without a result"
    elif state == "FAILED":
        reason = _last_words(errors) or f"it failed with exit code {code}"
    else:
        reason = f"SLURM reports {state}"
    return f"{reason}; see {errors}"


def _ending(job: str) -> tuple[str, int, int]:
    """State, exit code and signal: from the controller, which forgets a job minutes after its end, or the database."""
    shown = _run("scontrol", "--oneliner", "show", "job", job)
    found = re.search(r"\bJobState=(\w+).*?\bExitCode=(\d+):(\d+)", shown or "")
    if found is None:
        shown = _run("sacct", "-X", "--noheader", "--parsable2", "--format=State,ExitCode", f"--jobs={job}")
        found = re.search(r"^(\w+)[^|]*\|(\d+):(\d+)", shown or "")
    return (found[1], int(found[2]), int(found[3])) if found else ("nothing about it any more", 0, 0)


def _last_words(errors: Path) -> str:
    """The last line of a log that is not SLURM's own."""
    if not errors.exists():
        return ""
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    own = [line.strip() for line in lines if line.strip() and not re.match(r"srun:|slurmstepd:|submitit ", line)]
    return own[-1] if own else ""


def cancel(jobs: Collection[str]) -> None:
    """End jobs, whether they run or wait."""
    _run("scancel", *jobs)


def _run(*command: str) -> str | None:
    """What a command printed; None if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
