"""The conditions of patching: the replacement activation, its position, and the items to patch."""

from __future__ import annotations

import dataclasses
import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from torch import Tensor

from align_pipeline.config.lang import Language, known_languages
from align_pipeline.config.patch import (
    CONDITIONS,
    LANGUAGE_CONDITION,
    PatchConfig,
    PatchItems,
    is_kept,
    map_of,
)
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.parallel import Pairs
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import ItemSet, Pair, ParallelTask
from align_pipeline.engine.model import LanguageModel
from align_pipeline.errors import InputError, unknown
from align_pipeline.measurements.accuracy.scoring import templated

OF_ANOTHER_ITEM = ("random_item", "same_answer")


OF_ALL_ITEMS = ("mean_english", "mean")


_NO_CONTROL = ("zero", "mean")  # left out of `all`, because ablations answer another question


Place = tuple[tuple[int, ...], tuple[int, ...]]
"""The tokens of a context, and the positions of a site in it."""


@dataclass(frozen=True)
class Plan:
    """The requested patching, checked against the task.

    Attributes:
        config: the user's config, with all `conditions` listed.
        others: the items of the language of each ``language=<code>`` condition.
        training: the sentences that maps are learned from, by the language's FLORES code; none without maps.
    """

    config: PatchConfig
    others: Mapping[str, ItemSet]
    training: Mapping[str, Pairs] = field(default_factory=dict)

    @property
    def conditions(self) -> list[str]:
        """The conditions, in the user's order."""
        return list(self.config.conditions)

    def source_language(self, condition: str, pair: Pair) -> str:
        """The language of a condition's activations; "" for none."""
        if condition in self.others:
            return self.others[condition].language
        if condition in ("noise", "zero"):
            return ""
        is_own = condition in ("self", "mean") or (map_of(condition) and not is_kept(condition))
        return pair.language.language if is_own else pair.english.language


def plan(config: PatchConfig, task: ParallelTask, pairs: Sequence[Pair], source: Source) -> Plan:
    """Check the requested patching against the task and its items, before any model is loaded.

    Raises:
        InputError: the task does not support a condition or site, lacks a language, or has too few items for donors.
    """
    item = pairs[0].english.items[0]
    if not item.continuations:
        raise InputError(
            f"{task.name} cannot be patched, because it has no answer options; use belebele, xcopa or xstorycloze."
        )
    parts = [name for name, _, _ in item.parts]
    reorders = any(name.startswith("option_") for name in parts)
    conditions = config.conditions
    if conditions == "all":
        conditions = [c for c in CONDITIONS if c not in _NO_CONTROL and (reorders or c != "permuted_options")]
    if "permuted_options" in conditions and not reorders:
        raise InputError(
            f"patch.conditions has permuted_options, but the prompts of {task.name} show no options to reorder; "
            "those of belebele do."
        )
    sites = ["last", *parts, *(["options"] if reorders else [])]
    if config.site not in sites:
        raise unknown(f"patch.site of {task.name}", config.site, sites)
    for condition in conditions:
        for pair in pairs:
            need_several(condition, pair.language.items if condition == "mean" else pair.english.items)
    others = others_of(conditions, task, source)
    layers = "all" if config.layers == "auto" else config.layers
    return Plan(dataclasses.replace(config, conditions=conditions, layers=layers), others)


def without_maps(asked: Plan) -> Plan:
    """The same without learned maps, which move towards English only."""
    config = dataclasses.replace(asked.config, conditions=[name for name in asked.conditions if not map_of(name)])
    return dataclasses.replace(asked, config=config, training={})


def others_of(conditions: Sequence[str], task: ParallelTask, source: Source) -> dict[str, ItemSet]:
    """The items in the language of each ``language=<code>`` condition.

    Raises:
        InputError: the language does not exist, or the task lacks it.
    """
    others = {}
    for condition in conditions:
        if condition.startswith(LANGUAGE_CONDITION):
            code = condition.removeprefix(LANGUAGE_CONDITION)
            if code not in known_languages():
                raise unknown("language", code, known_languages())
            language = Language(**known_languages()[code])
            task.supported([language], source, {language.flores})
            others[condition] = task.pairs([language], source)[0].language
    return others


def need_several(condition: str, items: Sequence[Item]) -> None:
    """Refuse a condition that takes activations from other items if there are no others."""
    if condition in (*OF_ANOTHER_ITEM, *OF_ALL_ITEMS) and len(items) < 2:
        raise InputError(
            f"The condition {condition} needs activations of other items, but there is only one item; raise task.limit."
        )


def is_answered(pair: Pair, predictions: pd.DataFrame) -> bool:
    """Whether the predictions have both sides of a pair."""
    known = set() if predictions.empty else set(zip(predictions["language"], predictions["pivot"], strict=True))
    return {(side.language, side.pivot) for side in (pair.language, pair.english)} <= known


def chosen_items(which: PatchItems, pair: Pair, predictions: pd.DataFrame) -> list[str]:
    """Ids of the paired items to patch, in English order.

    Args:
        which: all items, or those that are right in English and right (ts) or wrong (tf) in the language.
        pair: the language and its English.
        predictions: as `PREDICTIONS`, with both sides.
    """
    right = {}
    for side in (pair.language, pair.english):
        own = predictions[(predictions["language"] == side.language) & (predictions["pivot"] == side.pivot)]
        right[side] = dict(zip(own["item_id"], own["correct"] == 1, strict=True))
    return [
        item_id
        for item_id in pair.ids
        if which is PatchItems.all
        or (right[pair.english][item_id] and right[pair.language][item_id] == (which is PatchItems.ts))
    ]


def kept_items(pair: Pair, predictions: pd.DataFrame, count: int, seed: int) -> list[str]:
    """Ids of items whose English runs the maps are tried on: up to `count` paired items that are right in English,
    drawn at random, in English order."""
    english = predictions[(predictions["language"] == ENGLISH) & (predictions["pivot"] == pair.english.pivot)]
    right = set(english.loc[english["correct"] == 1, "item_id"])
    able = [item_id for item_id in pair.ids if item_id in right]
    drawn = set(random.Random(f"{seed}/kept").sample(able, min(count, len(able))))
    return [item_id for item_id in able if item_id in drawn]


def digest(asked: Plan, pair: Pair, ids: Sequence[str], kept: Sequence[str], seed: int) -> str:
    """Digest of everything, except the model, that a language's patched log-likelihoods depend on."""
    config = asked.config
    texts = [
        [(item.id, item.prompt, item.continuations, item.gold) for item in side.items]
        for side in (pair.language, pair.english, *asked.others.values())
    ]
    settings = (config.conditions, config.layers, config.site, config.component.value, config.window, seed)
    every: tuple[object, ...] = (settings, list(ids), texts)
    learned = asked.training.get(pair.language.language)
    if learned is not None:  # else the digest is that of versions without maps
        every = (*every, config.strength, list(kept), learned.english, learned.other)
    return hashlib.sha256(repr(every).encode()).hexdigest()


def permuted(item: Item, seed: int) -> Item:
    """The item with its options reordered, in the prompt too, so that the gold option is at another place."""
    listed = [(name, start, end) for name, start, end in item.parts if name.startswith("option_")]
    shift = random.Random(f"{seed}/permuted_options/{item.id}").randrange(1, len(listed))
    order = [(place + shift) % len(listed) for place in range(len(listed))]
    parts = [part for part in item.parts if part not in listed]  # those before the options
    prompt, at = "", -len(item.prompt)
    for (name, start, end), other in zip(listed, order, strict=True):
        prompt += _cut(item.prompt, at, start)
        text = _cut(item.prompt, *listed[other][1:])
        parts.append((name, len(prompt) - len(item.prompt), len(prompt) + len(text) - len(item.prompt)))
        prompt += text
        at = end
    prompt += _cut(item.prompt, at, 0)
    options = tuple(item.options[k] for k in order)
    return dataclasses.replace(item, prompt=prompt, options=options, gold=order.index(item.gold), parts=tuple(parts))


def _cut(text: str, start: int, end: int) -> str:
    return text[len(text) + start : len(text) + end]


def another_item(condition: str, item: Item, pool: Sequence[Item], keys: Sequence[object], seed: int) -> int | None:
    """The index of another item to take an activation from, deterministic for a seed; None if there is none.

    Args:
        condition: random_item or same_answer.
        item: the item to patch, one of the pool.
        pool: all English items.
        keys: the answer of each item: the first token of its gold option.
        seed: of the random choice.
    """
    own = next(index for index, other in enumerate(pool) if other.id == item.id)
    passage = _passage(pool[own])
    able = [
        index
        for index, other in enumerate(pool)
        # Two questions on one passage share half of their concept.
        if index != own
        and (passage is None or _passage(other) != passage)
        and (condition != "same_answer" or keys[index] == keys[own])
    ]
    return random.Random(f"{seed}/{condition}/{item.id}").choice(able) if able else None


def _passage(item: Item) -> str | None:
    return next((_cut(item.prompt, start, end) for name, start, end in item.parts if name == "passage"), None)


def noise_like(activation: Tensor, seed: int, item_id: str) -> Tensor:
    """A random direction with the activation's norm along its last axis, deterministic for seed and item."""
    digest = hashlib.sha256(f"{seed}/noise/{item_id}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
    direction = torch.randn(activation.shape, generator=generator)
    norm = activation.float().norm(dim=-1, keepdim=True)
    noise: Tensor = direction / direction.norm(dim=-1, keepdim=True) * norm
    return noise.to(activation.dtype)


def site_positions(lm: LanguageModel, item: Item, context: Sequence[int], site: str) -> list[int]:
    """Positions of a site's tokens in the item's context, ascending.

    The token of a part is the last one that contains any of its characters, so that every language has it.

    Raises:
        InputError: the tokenizer gives no character offsets, or the part was truncated by ``model.too_long``.
    """
    if site == "last":
        return [len(context) - 1]
    if not lm.tokenizer.is_fast:
        raise InputError(f"patch.site={site} needs a tokenizer with character offsets; that of {lm.name} has none.")
    item = templated(lm, item)
    prompt = item.prompt.rstrip()
    offsets = lm.offsets(prompt)
    names = [name for name, _, _ in item.parts if name == site or (site == "options" and name.startswith("option_"))]
    positions: list[int] = []
    for name, _, end in item.parts:
        if name not in names:
            continue
        stop = min(len(item.prompt) + end, len(prompt))
        last = max(i for i, (a, b) in enumerate(offsets) if a < stop and b > a)
        # Counted from the end, because truncation drops tokens from the beginning.
        positions.append(len(context) - len(offsets) + last)
        if positions[-1] < 0:
            raise InputError(f"The {name} of item {item.id} was cut off; raise model.max_length or use fewer examples.")
    return sorted(positions)
