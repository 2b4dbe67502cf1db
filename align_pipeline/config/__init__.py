"""Every config key, typed: what the YAML files under ``conf/`` are checked against, and what the code sees of them.

Hydra composes the files once; `from_hydra` turns the result into these dataclasses once; no DictConfig goes further.
Only standard-library and Hydra imports here: ``--help`` and a mistyped key must answer before torch is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from align_pipeline.config.lang import Language
from align_pipeline.config.messages import refuse_added
from align_pipeline.config.model import ModelConfig
from align_pipeline.config.patch import PatchConfig, layer_list
from align_pipeline.config.resolvers import codes, file_name, last_part, wandb_mode
from align_pipeline.config.wandb import WandbConfig
from align_pipeline.errors import InputError


@dataclass
class Config:
    """One job."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model (group `model`)."""
    task: Any = MISSING
    """The benchmark (group `task`): `_target_` is a class of align_pipeline.data.tasks, the rest its arguments."""
    languages: dict[str, Language] = field(default_factory=dict)
    """The languages (group `lang`), by code."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The alignment metrics (group `metric`), by name: `_target_` is a class of
    align_pipeline.measurements.alignment.metrics."""
    patch: PatchConfig = field(default_factory=PatchConfig)
    """Activation patching (group `patch`)."""
    data: str | None = None
    """``hub``, ``embedded`` or a folder with ``<hub id>/`` below it; null: embedded for model=tiny, else hub."""
    layers: Any = "all"
    """``all`` or a list of layers to report; 0 is the embedding output, L the output after the final norm."""
    evaluate: bool = True
    """Also measure task accuracy."""
    batch_tokens: int | None = None
    """Most tokens in one forward pass, a longer text runs alone; null: as many as the device's memory has room for."""
    cache: str | None = "outputs/cache"
    """Folder that keeps what forward passes gave, for later jobs; null keeps nothing."""
    seed: int = 0
    """Seed of whatever is drawn at random."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases (group `wandb`)."""
    named: list[str] = field(default_factory=list)
    """Set by run.py: languages asked for by name in a single run, which the task must have."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError("No language is selected; select some, such as lang=swh or lang=set/xcopa.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens={self.batch_tokens} is too small; use 1 or more.")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is not a valid seed; use 0 or more.")
        self.layers = layer_list("layers", self.layers)
        if not self.metrics and not self.evaluate:
            raise InputError(
                "There is nothing to do with metric=[] and evaluate=false; select a metric or set evaluate=true."
            )
        if self.patch.conditions and not self.evaluate:
            raise InputError("patch needs evaluate=true: items must be scored to find those that fail.")

    @property
    def source(self) -> str:
        """Where rows come from: ``hub``, ``embedded`` or a folder; demo data only ever with the demo model."""
        return self.data or ("embedded" if self.model.path.startswith("embedded:") else "hub")


def register() -> None:
    """Put the schema and the resolvers where ``conf`` finds them."""
    ConfigStore.instance().store(name="schema", node=Config, provider="align_pipeline")
    for resolver in (codes, file_name, last_part, wandb_mode):
        OmegaConf.register_new_resolver(f"align_pipeline_{resolver.__name__}", resolver, replace=True)


def from_hydra(composed: DictConfig, overrides: Sequence[str], multirun: bool) -> Config:
    """The composed config as dataclasses; `task` and `metrics` stay plain dicts until they are built.

    Args:
        composed: what Hydra composed.
        overrides: the command line's, such as ``lang=[swh,set/xcopa]``.
        multirun: whether the job is one of a sweep, where a (task, language) pair that does not exist is left out.

    Raises:
        InputError: a key does not exist, a value has the wrong type, or values contradict each other.
    """
    # Hydra's own record, runtime.choices, holds no group of which several options are selected.
    chosen = [name for o in overrides if o.startswith("lang=") for name in re.findall(r"[\w/]+", o[len("lang=") :])]
    refuse_added(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    config.named = [] if multirun else [code for code in chosen if not code.startswith("set/")]
    return config
