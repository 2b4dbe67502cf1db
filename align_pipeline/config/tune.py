"""Group `tune`: how a model is trained, and the config of `python -m align_pipeline.tune`."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from align_pipeline.config.lang import Language
from align_pipeline.config.model import ModelConfig
from align_pipeline.config.pairs import PairsConfig
from align_pipeline.config.tuned import source_of
from align_pipeline.config.wandb import WandbConfig
from align_pipeline.errors import InputError


class Role(Enum):
    """The role of a training in a comparison: the treatment, a placebo, or a baseline with another objective."""

    treatment = "treatment"
    placebo = "placebo"
    baseline = "baseline"


class Method(Enum):
    """Which weights are trained: low-rank adapters beside all linear maps of the blocks, or all weights."""

    lora = "lora"
    full = "full"


@dataclass
class LoraSettings:
    """Low-rank adapters (Hu et al. 2022)."""

    r: int = 8
    """Rank."""
    alpha: int = 16
    """The update is scaled by alpha / r."""
    dropout: float = 0.1
    """Dropout of the adapters' input."""


@dataclass
class TuneConfig:
    """One way of training."""

    name: str = MISSING
    """Name of the preset, part of the tuned model's name."""
    role: Role = Role.treatment
    """treatment, placebo or baseline; it decides how the report compares the tuned model."""
    objectives: dict[str, Any] = field(default_factory=dict)
    """The losses, by name: `_target_` is a class of align_pipeline.tune.objectives, other keys its arguments."""
    together: bool = False
    """Sum all losses on every micro-batch; otherwise the objectives take micro-batches in turn."""
    shuffled: bool = False
    """Pair every sentence with the translation of another one: a placebo."""
    method: Method = Method.lora
    """lora or full."""
    lora: LoraSettings = field(default_factory=LoraSettings)
    """Settings of method lora."""
    learning_rate: float = 5e-4
    """Peak learning rate of Adam."""
    weight_decay: float = 0.0
    """Decoupled weight decay."""
    scheduler: str = "inverse_sqrt"
    """Name of a schedule of transformers: inverse_sqrt, linear, cosine, constant_with_warmup, ..."""
    warmup: float = 0.03
    """Share of the steps in which the learning rate rises from 0."""
    max_grad_norm: float = 1.0
    """Maximum norm of the gradient; a larger gradient is scaled down to it."""
    steps: int = 200
    """Number of optimizer steps."""
    micro_batch: int = 32
    """Sentence pairs in one pass; with N pairs, a contrastive loss has N - 1 negatives."""
    accumulation: int = 4
    """Micro-batches in one optimizer step, over all processes."""
    max_length: int = 128
    """Longer texts are cut off at this number of tokens."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass, which saves memory and takes about a third longer."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """The sentence pairs to learn from."""
    held_out: int = 64
    """The last N pairs of each language are not trained on; alignment is measured on them."""
    evaluate_every: int = 50
    """Steps between measurements of the held-out alignment; 0: only before and after the training."""
    save_every: int = 50
    """Steps between checkpoints; 0: no checkpoints."""

    def __post_init__(self) -> None:
        least = {"steps": 1, "micro_batch": 1, "accumulation": 1, "max_length": 2, "held_out": 2}
        least |= {"evaluate_every": 0, "save_every": 0}
        for key, lowest in least.items():
            if getattr(self, key) < lowest:
                raise InputError(f"tune.{key}={getattr(self, key)} is too small; use {lowest} or more.")
        for key in ("learning_rate", "max_grad_norm"):
            if not getattr(self, key) > 0:
                raise InputError(f"tune.{key}={getattr(self, key)} is too small; use more than 0.")
        if not self.weight_decay >= 0:
            raise InputError(f"tune.weight_decay={self.weight_decay} is too small; use 0 or more.")
        if not 0 <= self.warmup <= 1:
            raise InputError(f"tune.warmup={self.warmup} is not a share of the steps; use 0 to 1.")
        if self.objectives and self.accumulation % len(self.objectives) and not self.together:
            raise InputError(
                f"tune.accumulation={self.accumulation} gives the {len(self.objectives)} objectives unequal numbers of "
                "micro-batches in a step; use a multiple of their number."
            )


@dataclass
class TuningConfig:
    """One training run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    """The model (group `model`)."""
    tune: TuneConfig = field(default_factory=TuneConfig)
    """The training (group `tune`)."""
    languages: dict[str, Language] = field(default_factory=dict)
    """The languages whose pairs are trained on (group `lang`), by code."""
    task: Any = None
    """The benchmark (group `task`) that the tuned model will be evaluated on: alignment is measured on its items, the
    objective Answers trains on its English examples, and sentence pairs that occur in its texts are refused."""
    metrics: dict[str, Any] = field(default_factory=dict)
    """The metrics (group `metric`) measured on the task's items while training; held-out sentences are
    measured with MEXA."""
    task_items: int = 100
    """Number of the task's items on which the metrics are measured."""
    data: str | None = None
    """``hub``, ``embedded`` or a folder that contains ``<hub id>/``, as for `python -m align_pipeline.run`."""
    batch_tokens: int | None = None
    """Maximum tokens in one forward pass of a measurement; null: as many as fit the device's memory."""
    seed: int = 0
    """Random seed of the order of the data, the adapters' first weights and dropout."""
    wandb: WandbConfig = field(default_factory=WandbConfig)
    """Weights & Biases (group `wandb`)."""

    def __post_init__(self) -> None:
        if not self.languages:
            raise InputError("No language is selected; select some, such as lang=swh or lang=[swh,ind].")
        if self.seed < 0:
            raise InputError(f"seed={self.seed} is not a valid seed; use 0 or more.")
        if self.batch_tokens is not None and self.batch_tokens < 1:
            raise InputError(f"batch_tokens={self.batch_tokens} is too small; use 1 or more.")
        if self.task_items < 2:
            raise InputError(f"task_items={self.task_items} is too small; use 2 or more.")

    @property
    def source(self) -> str:
        """Where rows come from: ``hub``, ``embedded`` or a folder; embedded is the default only for embedded models."""
        return source_of(self.data, self.model)
