"""Checkpoints of a training: written whole or not at all, without pickle, and resumed to the same weights."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from align_pipeline.errors import InputError, writing

FOLDER = "checkpoint"
Weights = Mapping[str, nn.Parameter]
_STATE, _WEIGHTS, _OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"


@dataclass
class Progress:
    """What a training has done so far.

    Attributes:
        step: number of finished optimizer steps.
        tokens: through the model in training, in all processes.
        seconds: spent in training steps.
        losses: one row per step and objective.
        held_out: rows of `HeldOut.measure` with their step.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    losses: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[dict[str, Any]] = field(default_factory=list)


def save(folder: Path, identity: str, progress: Progress, weights: Weights, optimizer: torch.optim.Optimizer) -> None:
    """Replace the checkpoint in a folder by that of this moment.

    Args:
        folder: the training's folder.
        identity: of the training.
        progress: so far.
        weights, optimizer: to save.
    """
    making, place = folder / f".{FOLDER}", folder / FOLDER
    with writing(folder):
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(parents=True)
        save_file({name: weight.detach().cpu().contiguous() for name, weight in weights.items()}, making / _WEIGHTS)
        moments = {
            f"{key}/{name}": value.detach().cpu().contiguous()
            for name, weight in weights.items()
            for key, value in optimizer.state.get(weight, {}).items()
            if isinstance(value, Tensor)
        }
        save_file(moments, making / _OPTIMIZER)
        (making / _STATE).write_text(json.dumps({"identity": identity, **vars(progress)}), encoding="utf-8")
        old = folder / f".{FOLDER}.old"
        shutil.rmtree(old, ignore_errors=True)
        if place.exists():
            os.replace(place, old)
        os.replace(making, place)
        shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, identity: str, weights: Weights, optimizer: torch.optim.Optimizer) -> Progress | None:
    """Set weights and optimizer to those of the folder's checkpoint; None if there is none.

    Raises:
        InputError: it belongs to another training, or is damaged.
    """
    place = folder / FOLDER
    if not place.is_dir() and (folder / f".{FOLDER}.old").is_dir():  # killed between two renames
        os.replace(folder / f".{FOLDER}.old", place)
    if not place.is_dir():
        return None
    try:
        state = json.loads((place / _STATE).read_text(encoding="utf-8"))
        kept, moments = load_file(place / _WEIGHTS), load_file(place / _OPTIMIZER)
    except Exception as error:  # safetensors has its own errors for damaged files
        raise InputError(f"The checkpoint {place} is damaged ({error}); remove the folder to start again.") from error
    if state.pop("identity") != identity:
        raise InputError(
            f"{folder} holds the checkpoint of another training (other settings, model or sentence pairs); give this "
            "one another folder with hydra.run.dir=<folder>, or remove that one."
        )
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(kept[name])
            optimizer.state[weight] = {
                key: moments[f"{key}/{name}"].to("cpu" if key == "step" else weight.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    return Progress(**state)


def remove(folder: Path) -> None:
    """Remove the checkpoint of a finished training."""
    for name in (FOLDER, f".{FOLDER}", f".{FOLDER}.old"):
        shutil.rmtree(folder / name, ignore_errors=True)
