"""Group `wandb`: Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class WandbMode(Enum):
    """Where Weights & Biases runs go."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    """offline, online or disabled; the environment variable WANDB_MODE sets the default."""
    project: str = "align_pipeline"
    """Project that runs are logged to."""
    entity: str | None = None
    """User or team; null is the account's default."""
    group: str | None = None
    """Group of the run; null is the sweep's folder in a multirun, none in a single run."""
    required: bool = False
    """Fail a job that W&B does not take; off: a line says so, and the results are in the output folder all the same."""
