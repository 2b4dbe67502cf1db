"""SLURM for sweeps: the process group of a job's tasks, which jobs have ended, and how they ended.

The queue says which jobs have ended, and the jobs' own folders say which have a result. This needs neither SLURM's
accounting database, which not every cluster has, nor any action of a job after it is killed.
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
"""Python command of a job: it ignores SLURM's warning signal, which could otherwise kill it during startup."""
_POLL_SECONDS = (2.0, 30.0)
"""Seconds between two queries to SLURM: at first, and at most."""


def set_process_group() -> int:
    """Set the variables for torch.distributed (and Accelerate) in a job's tasks, as torchrun would.

    Call it in a submitit job before a process group is created. A job with one task does not need it.

    Returns:
        This task's rank.
    """
    from submitit import JobEnvironment
    from submitit.helpers import TorchDistributedEnvironment

    job = JobEnvironment()
    if job.num_tasks > 1:
        # Each task sees all GPUs of its node and uses the one of its local rank.
        TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
    return job.global_rank


def as_over(jobs: Collection[str]) -> Iterator[str]:
    """Yields SLURM job ids (12, or 12_3 in an array) as soon as each job has ended and will not run again."""
    waiting = list(jobs)
    start, answered = time.monotonic(), True
    while waiting:
        least, most = _POLL_SECONDS
        time.sleep(min(most, max(least, (time.monotonic() - start) / 20)))
        queued = queue()
        if queued is None:  # its controller is restarting or busy
            if answered:
                log.warning("squeue does not answer; waiting for it.")
            answered = False
            continue
        answered = True
        yield from (job for job in waiting if job not in queued)
        waiting = [job for job in waiting if job in queued]


def queue() -> set[str] | None:
    """The user's pending and running jobs, with each array task listed separately; None if SLURM does not answer."""
    asked = _run("squeue", "--me", "--noheader", "--array", "--format=%i")
    return None if asked is None else set(asked.split())


def how_it_ended(job: str, errors: Path) -> str:
    """The reason why an ended job has no result, on one line.

    Args:
        job: SLURM's job id.
        errors: the error stream file of its first task.
    """
    state, code, signal = _ending(job)
    if state == "CANCELLED":
        reason = "it was cancelled"
    elif state == "TIMEOUT":
        reason = "it ran out of time (hydra.launcher.timeout_min)"
    elif state == "OUT_OF_MEMORY":
        reason = "it ran out of memory (hydra.launcher.mem_gb)"
    elif signal or code > 128:  # a shell's exit code for a process that was killed by a signal
        reason = f"it was killed by signal {signal or code - 128}"
    elif state == "COMPLETED":
        reason = "it ended without a result"
    elif state == "FAILED":
        reason = _last_words(errors) or f"it failed with exit code {code}"
    else:
        reason = f"SLURM reports {state}"
    return f"{reason}; see {errors}"


def _ending(job: str) -> tuple[str, int, int]:
    """State, exit code and signal: from the controller, which forgets jobs minutes after they end, or the database."""
    shown = _run("scontrol", "--oneliner", "show", "job", job)
    found = re.search(r"\bJobState=(\w+).*?\bExitCode=(\d+):(\d+)", shown or "")
    if found is None:
        shown = _run("sacct", "-X", "--noheader", "--parsable2", "--format=State,ExitCode", f"--jobs={job}")
        found = re.search(r"^(\w+)[^|]*\|(\d+):(\d+)", shown or "")
    return (found[1], int(found[2]), int(found[3])) if found else ("nothing about it any more", 0, 0)


def _last_words(errors: Path) -> str:
    """The last line of a log, apart from SLURM's own lines."""
    if not errors.exists():
        return ""
    lines = errors.read_text(encoding="utf-8", errors="replace").splitlines()
    own = [line.strip() for line in lines if line.strip() and not re.match(r"srun:|slurmstepd:|submitit ", line)]
    return own[-1] if own else ""


def cancel(jobs: Collection[str]) -> None:
    """Cancel jobs, pending or running."""
    _run("scancel", *jobs)


def _run(*command: str) -> str | None:
    """The output of a command; None if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, env=os.environ)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else done.stdout
