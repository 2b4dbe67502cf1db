"""Group `wandb`: Weights & Biases."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class WandbMode(Enum):
    """Where runs are logged."""

    offline = "offline"
    online = "online"
    disabled = "disabled"


@dataclass
class WandbConfig:
    """Weights & Biases."""

    mode: WandbMode = WandbMode.offline
    """offline, online or disabled; the environment variable WANDB_MODE sets the default."""
    project: str = "align_pipeline"
    """Project of the runs."""
    entity: str | None = None
    """User or team; null is the account's default."""
    group: str | None = None
    """Group of the run; null: the sweep's folder in a sweep, no group in a single run."""
    required: bool = False
    """End the job with an error if W&B fails; otherwise a warning is logged. The results are written in both cases."""
