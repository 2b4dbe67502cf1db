"""Group `patch`: activation patching."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from align_pipeline.errors import InputError, unknown


class Component(Enum):
    """What is replaced: the residual stream, or what one attention, MLP or attention head adds to it."""

    resid = "resid"
    attn = "attn"
    mlp = "mlp"
    head = "head"


class PatchItems(Enum):
    """Which items are patched: right in English and wrong (tf) or right (ts) in the language, or all."""

    tf = "tf"
    ts = "ts"
    all = "all"


TREATMENT = "parallel"


UNPATCHED = "unpatched"


CONDITIONS = (
    TREATMENT,
    "self",
    "random_item",
    "same_answer",
    "permuted_options",
    "mean_english",
    "noise",
    "zero",
    "mean",
)
"""What an activation can be replaced by; `measurements.patching.conditions` says what each is. ``language=<code>`` is
another."""


LANGUAGE_CONDITION = "language="


@dataclass
class PatchConfig:
    """Activation patching: replace an activation of the language's run; score the options, or translate, again."""

    conditions: Any = field(default_factory=list)
    """``all`` (the treatment and every control the task can have) or a list of conditions; [] patches nothing."""
    layers: Any = "auto"
    """``all``, a list, numbered as everywhere, or ``auto``: all, for translation nine from the first to the last but
    one; attn, mlp and head of block l are layer l, from 1."""
    items: PatchItems = PatchItems.tf
    """tf (right in English, wrong in the language), ts (right in both) or all; translation has but all."""
    site: str = "last"
    """Token: last (of the context; of the sentence to be translated), passage, question, options (ends of all at once),
    option_1, option_2, ..."""
    component: Component = Component.resid
    """resid (residual stream after the block), attn, mlp or head (each head of the block alone)."""
    window: int = 1
    """Replace in this many layers at once, from the row's layer on."""

    def __post_init__(self) -> None:
        if self.conditions != "all":
            given = self.conditions if isinstance(self.conditions, list) else [self.conditions]
            for name in given:
                if name not in CONDITIONS and not str(name).startswith(LANGUAGE_CONDITION):
                    raise unknown("condition", str(name), [*CONDITIONS, LANGUAGE_CONDITION + "<code>"])
            self.conditions = list(dict.fromkeys(given))
        if self.layers != "auto":
            self.layers = layer_list("patch.layers", self.layers)
        if self.window < 1:
            raise InputError(f"patch.window={self.window} is too small; use 1 or more layers.")
        if self.window > 1 and self.component is Component.head:
            raise InputError("patch.window is for resid, attn and mlp: heads of different blocks do not correspond.")


def layer_list(key: str, given: Any) -> Any:
    """``all``, or layer numbers in order.

    Raises:
        InputError: it is neither.
    """
    if given == "all":
        return given
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(isinstance(k, int) and not isinstance(k, bool) for k in numbers):
        raise InputError(f"{key}={given} is neither 'all' nor a list of layer numbers such as [0,4,8].")
    return sorted(set(numbers))
