"""Every config key with its type. The YAML files in ``conf/`` are checked against these dataclasses.

Hydra composes the files once and `from_hydra` converts the result once; the rest of the code sees no DictConfig.
Only standard-library and Hydra imports here: ``--help`` and mistyped keys must be answered before torch is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf

from align_pipeline.config.lang import Language
from align_pipeline.config.messages import refuse_added
from align_pipeline.config.model import ModelConfig
from align_pipeline.config.patch import PatchConfig, layer_list
from align_pipeline.config.paths import CONF
from align_pipeline.config.pivots import ENGLISH_ONLY, pivot_list, with_pivots
from align_pipeline.config.representations import representation_list
from align_pipeline.config.resolvers import codes, file_name, last_part, options, revised, wandb_mode
from align_pipeline.config.tune import TuningConfig
from align_pipeline.config.tuned import source_of, tuned
from align_pipeline.config.wandb import WandbConfig
from align_pipeline.errors import InputError


@dataclass
class Config:
    """One job."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model (group `model`)."""
    task: Any = MISSING
    """The benchmark (group `task`): `_target_` is a class of align_pipeline.data.tasks, other keys its arguments."""
    languages: dict[str, Language] = field(default_factory=dict)
    """The languages (group `lang`), by code."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The alignment metrics (group `metric`), by name: `_target_` is a class of
    align_pipeline.measurements.alignment.metrics."""
    pivot: Any = "eng"
    """The languages that others are compared with: ``eng``, other codes of ``lang`` such as ``[spa,zho_Hans]`` (English
    is always added), or ``all`` for every selected language. A pivot is also one of the languages."""
    patch: PatchConfig = field(default_factory=PatchConfig)
    """Activation patching (group `patch`)."""
    representations: Any = field(default_factory=list)
    """What to measure of the premises' hidden states: ``all`` or a list of cosine, mexa, cka, retrieval, hubness,
    anisotropy, neighbours, neurons, ilo, neuronxa; [] measures nothing."""
    logit_lens: bool = False
    """Also read each layer's prediction of the answer with the logit lens; for tasks with answer options."""
    data: str | None = None
    """``hub``, ``embedded`` or a folder that contains ``<hub id>/``; null: embedded for embedded models, else hub."""
    layers: Any = "all"
    """Layers to report: ``all`` or a list; 0 is the embedding output, L the output after the final norm."""
    evaluate: bool = True
    """Also measure the task: accuracy or translation."""
    batch_tokens: int | None = None
    """Maximum tokens in one forward pass; a longer text runs alone. null: as many as fit the device's memory."""
    cache: str | None = "outputs/cache"
    """Folder that keeps results of forward passes for later jobs; null turns the cache off."""
    seed: int = 0
    """Random seed."""
    allow_overlap: bool = False
    """Allow texts with sentences that a tuned model was trained on; otherwise this is an error."""
    dry_run: bool = False
    """Only say what would be computed, how long it would take, and what is missing; nothing is computed or written."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases (group `wandb`)."""
    named: list[str] = field(default_factory=list)
    """Set by run.py: languages selected by name in a single run, which the task must have."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError("No language is selected; select some, such as lang=swh or lang=set/xcopa.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens={self.batch_tokens} is too small; use 1 or more.")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is not a valid seed; use 0 or more.")
        self.pivot = pivot_list(self.pivot, self.languages)
        self.languages = with_pivots(self.languages, self.pivot)
        if self.pivot != ENGLISH_ONLY and not self.metrics:
            raise InputError("pivot compares alignment with other languages, so it needs a metric: metric=dali.")
        self.layers = layer_list("layers", self.layers)
        self.representations = representation_list(self.representations)
        if not self.metrics and not self.evaluate and not self.representations and not self.logit_lens:
            raise InputError(
                "There is nothing to do with metric=[] and evaluate=false; select a metric or set evaluate=true."
            )
        if self.patch.conditions and not self.evaluate:
            raise InputError("patch needs evaluate=true: items must be scored to find those that fail.")

    @property
    def source(self) -> str:
        """Where rows come from: ``hub``, ``embedded`` or a folder; embedded is the default only for embedded models."""
        return source_of(self.data, self.model)


def register() -> None:
    """Register the schema and the resolvers that ``conf`` uses."""
    ConfigStore.instance().store(name="schema", node=Config, provider="align_pipeline")
    ConfigStore.instance().store(name="tuning_schema", node=TuningConfig, provider="align_pipeline")
    for resolver in (codes, file_name, last_part, options, revised, tuned, wandb_mode):
        OmegaConf.register_new_resolver(f"align_pipeline_{resolver.__name__}", resolver, replace=True)


def composed(overrides: Sequence[str]) -> DictConfig:
    """Compose ``conf/config.yaml`` with overrides, as a command line does, where no Hydra application runs."""
    register()
    GlobalHydra.instance().clear()  # of a notebook's or an earlier call's
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides))


def resolved(config: DictConfig) -> dict[str, Any]:
    """A config as plain values, for records."""
    found = OmegaConf.to_container(config, resolve=True, enum_to_str=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}


def from_hydra(composed: DictConfig, overrides: Sequence[str], multirun: bool) -> Config:
    """The composed config as dataclasses; `task` and `metrics` stay plain dicts until they are instantiated.

    Args:
        composed: the config that Hydra composed.
        overrides: command-line overrides, such as ``lang=[swh,set/xcopa]``.
        multirun: whether the job belongs to a sweep, where (task, language) pairs that do not exist are left out.

    Raises:
        InputError: a key does not exist, a value has the wrong type, or values contradict each other.
    """
    # Hydra's own record, runtime.choices, does not contain groups with several selected options.
    chosen = [name for o in overrides if o.startswith("lang=") for name in re.findall(r"[\w/]+", o[len("lang=") :])]
    refuse_added(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, Config)
    given = [code for code in chosen if not code.startswith("set/")]
    asked = composed.pivot if isinstance(composed.pivot, ListConfig) else [composed.pivot]
    config.named = [] if multirun else [*given, *(str(code) for code in asked if code not in ("all", *ENGLISH_ONLY))]
    return config


def tuning_from_hydra(composed: DictConfig) -> TuningConfig:
    """The composed config of a training as dataclasses; `task` and the objectives stay plain dicts.

    Raises:
        InputError: a key does not exist, a value has the wrong type, or values contradict each other.
    """
    refuse_added(composed)
    config = OmegaConf.to_object(composed)
    assert isinstance(config, TuningConfig)
    return config
