"""Run one job: config -> items -> forward passes -> metrics and predictions -> tables, plots, W&B.

Only light imports at the top: `--help`, `--cfg job` and a mistyped key answer before torch is loaded.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from align_pipeline import sweep
from align_pipeline.config import CONF, from_hydra, one_sentence, register

log = logging.getLogger(__name__)
register()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(composed: DictConfig) -> float | None:
    """Hydra's entry point: types the config, calls `pipeline.run`, and returns what a sweep may optimise."""
    hydra_config = HydraConfig.get()
    multirun = hydra_config.mode is RunMode.MULTIRUN
    config = from_hydra(composed, list(hydra_config.overrides.task), multirun)
    if multirun and config.wandb.group is None:
        config.wandb.group = Path(hydra_config.sweep.dir).name
    settings = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
    assert isinstance(settings, dict)
    folder = Path(hydra_config.runtime.output_dir)
    try:
        from align_pipeline.pipeline import run

        summary = run(config, folder, {str(key): value for key, value in settings.items()})
    except Exception as error:
        if not multirun:
            raise
        sweep.note_failure(error, folder)  # the other jobs go on
        return None
    return None if summary is None else summary.mean_accuracy


def main() -> None:
    """The command line: every mistake of the user's ends in one sentence and an exit code of 1."""
    full = os.environ.get("HYDRA_FULL_ERROR")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # or Hydra prints a traceback and exits before we can explain
    try:
        try:
            job()
        finally:
            failed = sweep.finish()
        if failed:
            sys.exit("\n".join([f"{len(failed)} jobs failed:", *failed]))
    except BrokenPipeError:  # --help | head
        sys.stderr.close()
    except Exception as error:
        sentence = one_sentence(error)
        if full or sentence is None:
            raise
        sys.exit(f"Error: {sentence}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
