"""What the commands share: a job in one or several processes, errors in one sentence, exit codes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from align_pipeline import distributed
from align_pipeline.config.messages import flags_last, one_sentence, refuse_no_names
from align_pipeline.config.wandb import WandbConfig
from align_pipeline.errors import InputError
from align_pipeline.store import folders
from align_pipeline.sweep import jobs as sweep
from align_pipeline.tracking import logs

_failed: list[Exception] = []
"""The error that ended this process's single job; `main` raises it, so that Hydra adds no lines of its own."""


@contextmanager
def working() -> Iterator[Path]:
    """Context of a job's work: yields its folder, joins its processes and keeps its error for `main`."""
    hydra_config = HydraConfig.get()
    distributed.start()
    folder = Path(distributed.from_main(hydra_config.runtime.output_dir))
    os.chdir(hydra_config.runtime.cwd)  # the command's relative paths start here, whatever hydra.job.chdir says
    try:
        if not distributed.is_main():
            logs.to_own_file(folder, distributed.rank())
        with distributed.together():
            yield folder
    except BaseException as error:
        logs.note_end(error)
        if not isinstance(error, Exception):
            raise
        if hydra_config.mode is not RunMode.MULTIRUN:
            _failed.append(error)
        elif distributed.is_main():
            sweep.note_failure(error, folder)  # the other jobs go on


def group(config: WandbConfig) -> None:
    """Give the jobs of a sweep its folder's name as their W&B group, unless the user named one."""
    hydra_config = HydraConfig.get()
    if hydra_config.mode is RunMode.MULTIRUN and config.group is None:
        config.group = Path(hydra_config.sweep.dir).name


def main(job: Callable[[], Any], kept: Callable[[], str]) -> None:
    """A command line. A user's mistake ends in one sentence and exit code 1.

    Args:
        job: decorated with `hydra.main`.
        kept: says what an interruption leaves, and how to go on.
    """
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it, Hydra prints a traceback and exits before we can explain
    signal.signal(signal.SIGTERM, _terminated)
    logging.captureWarnings(True)  # libraries' warnings go to the log
    main_process = distributed.is_main()
    try:
        if main_process and not is_dry_run():
            failed = _jobs(job)
        else:
            with tempfile.TemporaryDirectory() as scratch:  # Hydra's files of dry runs and of the other processes
                sys.argv += [f"hydra.{kind}.dir={scratch}" for kind in ("run", "sweep")] + ["hydra.output_subdir=null"]
                if not main_process:
                    sys.argv += ["hydra/job_logging=none", "hydra/hydra_logging=none"]
                if is_dry_run():  # the jobs are planned here, not sent to a cluster
                    sys.argv = [one for one in sys.argv if not one.startswith(("hydra/launcher=", "hydra.launcher."))]
                failed = _jobs(job)
        if failed:
            sys.exit("\n".join([f"{len(failed)} jobs failed:", *failed]))
    except BrokenPipeError:  # --help | head
        sys.stderr.close()
    except Exception as error:
        sentence = one_sentence(error)
        if full or sentence is None:
            raise
        sys.exit(f"Error: {sentence}" if main_process else 1)  # only the main process prints it
    except KeyboardInterrupt:
        sys.exit(f"Stopped. {kept()}" if main_process else 1)


def is_dry_run() -> bool:
    """Whether the command line asks for a dry run, for which Hydra must not make folders."""
    given = [one.partition("=")[2].lower() for one in sys.argv[1:] if one.startswith("dry_run=")]
    return bool(given) and given[-1] in ("true", "yes", "on", "1")


def refuse_hidden_dry_run() -> None:
    """Refuse a dry run for which Hydra has already made folders.

    Raises:
        InputError: the command line does not say ``dry_run=true``.
    """
    if not is_dry_run():
        raise InputError("dry_run=true works only on the command line, not in a config file and not in a sweep.")


def _jobs(job: Callable[[], Any]) -> Sequence[str]:
    """Run the jobs of the command line.

    Returns:
        One line for each failed job of a sweep.
    """
    try:
        sys.argv[1:] = flags_last(sys.argv[1:])
        refuse_no_names(sys.argv[1:])
        job()
        if _failed:
            raise _failed.pop()
    finally:
        failed = sweep.finish() if distributed.is_main() else []
        folders.release_all()
        distributed.stop()
    return failed


def _terminated(number: int, frame: FrameType | None) -> None:
    raise SystemExit(f"Terminated by signal {number}.")
