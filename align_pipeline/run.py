"""Run one job: config -> items -> forward passes -> metrics and predictions -> tables, plots, W&B.

Heavy imports stay out of the top of the file: `--help`, `--cfg job` and a mistyped key answer before torch is loaded.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from align_pipeline import distributed, machine
from align_pipeline.config import from_hydra, register
from align_pipeline.config.messages import one_sentence, refuse_no_names
from align_pipeline.config.paths import CONF
from align_pipeline.store import folders
from align_pipeline.sweep import jobs as sweep
from align_pipeline.tracking import logs

log = logging.getLogger(__name__)
machine.settle()
register()

_failed: list[Exception] = []
"""The error that ended this process's single job; `main` raises it, so that Hydra adds no lines of its own."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(composed: DictConfig) -> float | None:
    """Hydra's entry point: types the config, calls `pipeline.run`, returns the value that a sweep may optimise."""
    hydra_config = HydraConfig.get()
    multirun = hydra_config.mode is RunMode.MULTIRUN
    distributed.start()
    folder = Path(distributed.from_main(hydra_config.runtime.output_dir))
    os.chdir(hydra_config.runtime.cwd)  # the command's relative paths start here, whatever hydra.job.chdir says
    try:
        if not distributed.is_main():
            logs.to_own_file(folder, distributed.rank())
        with distributed.together():
            config = from_hydra(composed, list(hydra_config.overrides.task), multirun)
            if multirun and config.wandb.group is None:
                config.wandb.group = Path(hydra_config.sweep.dir).name
            settings = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
            assert isinstance(settings, dict)

            from align_pipeline.pipeline import run

            summary = run(config, folder, {str(key): value for key, value in settings.items()})
    except BaseException as error:
        logs.note_end(error)
        if not isinstance(error, Exception):
            raise
        if not multirun:
            _failed.append(error)
        elif distributed.is_main():
            sweep.note_failure(error, folder)  # the other jobs go on
        return None
    return None if summary is None else summary.mean_accuracy


def main() -> None:
    """The command line. A user's mistake ends in one sentence and exit code 1."""
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # without it, Hydra prints a traceback and exits before we can explain
    signal.signal(signal.SIGTERM, _terminated)
    main_process = distributed.is_main()
    try:
        if main_process:
            failed = _jobs()
        else:
            with tempfile.TemporaryDirectory() as scratch:  # Hydra's files of the other processes
                folders = [f"hydra.{kind}.dir={scratch}" for kind in ("run", "sweep")]
                sys.argv += [*folders, "hydra.output_subdir=null", "hydra/job_logging=none", "hydra/hydra_logging=none"]
                failed = _jobs()
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
        sys.exit("Stopped." if main_process else 1)


def _jobs() -> list[str]:
    """Run the jobs of the command line.

    Returns:
        One line for each failed job of a sweep.
    """
    try:
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


if __name__ == "__main__":
    main()
