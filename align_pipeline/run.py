"""Run one job: config -> items -> forward passes -> metrics and predictions -> tables, plots, W&B.

Heavy imports stay out of the top of the file: `--help`, `--cfg job` and a mistyped key answer before torch is loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from align_pipeline import command, distributed, machine
from align_pipeline.config import Config, from_hydra, register, resolved
from align_pipeline.config.paths import CONF
from align_pipeline.sweep import jobs as sweep

machine.settle()
register()
_begun: list[Config] = []
"""The configs of this process's jobs."""
_at_end: list[Callable[[], None]] = []
"""What is said after the jobs of a sweep."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
def job(composed: DictConfig) -> float | None:
    """Hydra's entry point: types the config, calls `pipeline.run`, returns the value that a sweep may optimise."""
    hydra_config = HydraConfig.get()
    multirun = hydra_config.mode is RunMode.MULTIRUN
    summary = None
    with command.working() as folder:
        config = from_hydra(composed, list(hydra_config.overrides.task), multirun)
        command.group(config.wandb)
        _begun.append(config)

        if config.dry_run:
            from align_pipeline.dry_run import dry_run, tell_total

            command.refuse_hidden_dry_run()
            if multirun and not _at_end:
                _at_end.append(tell_total)
            dry_run(config, int(hydra_config.job.num) if multirun else None)
            return None

        from align_pipeline.pipeline import run

        summary = run(config, folder, resolved(composed))
    return None if summary is None else summary.mean_accuracy


def _kept() -> str:
    """What an interruption leaves, and how to go on."""
    claimed = sweep.claimed()
    if claimed is None and (not _begun or _begun[-1].dry_run):
        return "Nothing was computed."
    cache = _begun[-1].cache if claimed is None else claimed[1]
    if cache is None:
        kept = "Nothing of the unfinished job is kept, because cache=null; the same command starts it again."
    else:
        kept = f"What was computed is kept in {cache}: the same command goes on after the last finished language."
    return kept if claimed is None else f"{kept} Add hydra.sweep.dir={claimed[0]} to go on in the sweep's folder."


def main() -> None:
    """The command line; ``--info task=xcopa`` says what there is instead of running it."""
    given = sys.argv[1:]
    if "--info" in given:
        from align_pipeline import info

        if info.is_asked(given):
            command.main(lambda: info.info([one for one in given if one != "--info"]), str)
            return
    with distributed.leaving():
        try:
            command.main(job, _kept)
        finally:
            for tell in _at_end:
                tell()


if __name__ == "__main__":
    main()
