"""The command `python -m align_pipeline.tune`: train a model to align other languages with English."""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from align_pipeline import command, distributed, machine
from align_pipeline.config import register, resolved, tuning_from_hydra
from align_pipeline.config.paths import CONF

machine.settle()
register()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="tuning")
def job(composed: DictConfig) -> None:
    """Hydra's entry point: types the config and calls `tune.tune`."""
    with command.working() as folder:
        config = tuning_from_hydra(composed)
        command.group(config.wandb)

        from align_pipeline.tune.tune import tune

        tune(config, folder, resolved(composed))


def main() -> None:
    """The command line."""
    with distributed.leaving():
        command.main(job, lambda: "The last checkpoint is kept: the same command goes on from it.")


if __name__ == "__main__":
    main()
