"""Group `patch`: activation patching."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from align_pipeline.config.pairs import PairsConfig
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


MAPS = ("shift", "linear", "procrustes")
"""Maps of the language's own activation towards English, learned from parallel sentences."""


_PLACEBOS = ("linear_shuffled", "procrustes_shuffled", "shift_random", "linear_random", "procrustes_random")


KEPT = "english+"
"""Prefix of a map condition: the language's map in the English runs, which it should leave right."""


MAP_CONDITIONS = (*MAPS, *_PLACEBOS, *(KEPT + name for name in MAPS))
"""The conditions that ``maps`` stands for."""


def map_of(condition: str) -> str:
    """The map that a condition uses, without prefix, placebo and strength; "" if it uses none."""
    name = condition.removeprefix(KEPT).partition("*")[0]
    return name.partition("_")[0] if name in (*MAPS, *_PLACEBOS) else ""


def with_strength(condition: str, strength: float) -> str:
    """A condition's name in the tables; that of a map with a strength other than 1 contains it, as in ``shift*0.5``."""
    return f"{condition}*{strength:.12g}" if map_of(condition) and strength != 1 else condition


def is_kept(condition: str) -> bool:
    """Whether a condition changes the English runs, to see if they stay right."""
    return condition.startswith(KEPT)


def is_placebo(condition: str) -> bool:
    """Whether a condition is a map learned from shuffled pairs, or a random direction."""
    return bool(map_of(condition)) and "_" in condition


def treatment_of(condition: str) -> str:
    """The condition that a control is compared with, of the same strength; "" if it is not a control."""
    if is_placebo(condition) and not is_kept(condition):
        return map_of(condition) + "".join(condition.partition("*")[1:])
    return "" if condition == TREATMENT or map_of(condition) else TREATMENT


@dataclass
class PatchConfig:
    """Activation patching: replace an activation of the language's run, then score the options or translate again."""

    conditions: Any = field(default_factory=list)
    """``all`` (the treatment and every control that the task supports) or a list of conditions; ``maps`` stands for the
    learned maps with their placebos; [] patches nothing."""
    layers: Any = "auto"
    """``all``, a list of layers, or ``auto``: all layers, or for translation nine from the first to the second last.
    Layer l of attn, mlp and head is block l, counted from 1."""
    items: PatchItems = PatchItems.tf
    """tf (right in English, wrong in the language), ts (right in both) or all; translation always patches all."""
    site: str = "last"
    """The token: last (of the context, or of the source sentence), passage, question, options (the ends of all options
    at once), option_1, option_2, ..."""
    component: Component = Component.resid
    """resid (residual stream after the block), attn, mlp or head (each head of the block separately)."""
    window: int = 1
    """Number of layers that are replaced at once, starting at the layer of the row."""
    strength: float = 1.0
    """How far a learned map moves an activation h: to h + strength * (map(h) - h)."""
    pairs: PairsConfig = field(default_factory=PairsConfig)
    """The parallel sentences that maps are learned from."""

    def __post_init__(self) -> None:
        if self.conditions != "all":
            given = self.conditions if isinstance(self.conditions, list) else [self.conditions]
            given = [one for name in given for one in (MAP_CONDITIONS if name == "maps" else (name,))]
            for name in map(str, given):
                _check_condition(name)
            self.conditions = list(dict.fromkeys(given))
        if not math.isfinite(self.strength):
            raise InputError(f"patch.strength={self.strength} is not a number; use 1 for the whole map.")
        if self.layers != "auto":
            self.layers = layer_list("patch.layers", self.layers)
        if self.window < 1:
            raise InputError(f"patch.window={self.window} is too small; use 1 or more layers.")
        if self.window > 1 and self.component is Component.head:
            raise InputError("patch.window is for resid, attn and mlp: heads of different blocks do not correspond.")
        if self.learned and self.component is Component.head:
            raise InputError(f"The map {self.learned[0]} is not learned for single heads; use patch.component=attn.")

    @property
    def learned(self) -> list[str]:
        """The conditions that use maps; `strength` and `pairs` matter only to them."""
        return [] if self.conditions == "all" else [name for name in self.conditions if map_of(name)]


def _check_condition(name: str) -> None:
    """Refuse a condition that does not exist.

    Raises:
        InputError: says which conditions there are.
    """
    if name.removeprefix(KEPT) == "shift_shuffled":
        raise InputError(
            "There is no shift_shuffled, because a shift does not depend on which sentences are paired; its placebo is "
            "shift_random."
        )
    known = (*CONDITIONS, *MAPS, *_PLACEBOS)
    if name in known or name.startswith(LANGUAGE_CONDITION) or (is_kept(name) and map_of(name) and "*" not in name):
        return
    raise unknown("condition", name, [*known, "maps", LANGUAGE_CONDITION + "<code>", KEPT + "<map>"], shown=24)


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
