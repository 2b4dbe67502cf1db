"""Group `patch`: activation patching."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from align_pipeline.errors import InputError, unknown


class Component(Enum):
    """What is replaced: the residual stream, or the output of an attention block, an MLP or an attention head."""

    resid = "resid"
    attn = "attn"
    mlp = "mlp"
    head = "head"


class PatchItems(Enum):
    """Which items are patched: right in English and wrong (tf) or right (ts) in the language, or all items."""

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
"""What an activation can be replaced by, besides ``language=<code>``; see `measurements.patching.conditions`."""


LANGUAGE_CONDITION = "language="


@dataclass
class PatchConfig:
    """Activation patching: replace an activation of the language's run, then score the options or translate again."""

    conditions: Any = field(default_factory=list)
    """``all`` (the treatment and every control that the task supports) or a list of conditions; [] patches nothing."""
    layers: Any = "auto"
    """``all``, a list of layers, or ``auto``: all layers; for translation nine, from first to second last. Layer l of
    attn, mlp and head is block l, counted from 1."""
    items: PatchItems = PatchItems.tf
    """tf (right in English, wrong in the language), ts (right in both) or all; translation always patches all."""
    site: str = "last"
    """The token: last (of the context, or of the source sentence), passage, question, options (the ends of all options
    at once), option_1, option_2, ..."""
    component: Component = Component.resid
    """resid (residual stream after the block), attn, mlp or head (each head of the block separately)."""
    window: int = 1
    """Number of layers that are replaced at once, starting at the layer of the row."""

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
    """``all``, or sorted layer numbers.

    Raises:
        InputError: the value is neither.
    """
    if given == "all":
        return given
    numbers = given if isinstance(given, list) else [given]
    if not numbers or not all(isinstance(k, int) and not isinstance(k, bool) for k in numbers):
        raise InputError(f"{key}={given} is neither 'all' nor a list of layer numbers such as [0,4,8].")
    return sorted(set(numbers))
