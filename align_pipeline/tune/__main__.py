"""The command `python -m align_pipeline.tune`: train a model to align other languages with English."""

from __future__ import annotations

from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from align_pipeline import command, machine
from align_pipeline.config import register, tuning_from_hydra
from align_pipeline.config.paths import CONF

machine.settle()
register()


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="tuning")
def job(composed: DictConfig) -> None:
    """Hydra's entry point: types the config and calls `tune.tune`."""
    hydra_config = HydraConfig.get()
    with command.working() as folder:
        config = tuning_from_hydra(composed)
        if hydra_config.mode is RunMode.MULTIRUN and config.wandb.group is None:
            config.wandb.group = Path(hydra_config.sweep.dir).name
        settings = OmegaConf.to_container(composed, resolve=True, enum_to_str=True)
        assert isinstance(settings, dict)

        from align_pipeline.tune.tune import tune

        tune(config, folder, {str(key): value for key, value in settings.items()})


def main() -> None:
    """The command line."""
    command.main(job, "The last checkpoint is kept: the same command goes on from it.")


if __name__ == "__main__":
    main()
