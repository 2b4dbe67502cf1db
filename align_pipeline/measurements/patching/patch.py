"""Activation patching with controls: does misalignment cause wrong answers?

An activation of the language's run is replaced at one token and layer, and the options are scored again. The condition
defines the new activation. The treatment and its controls differ in what the new activation carries:

| condition | replaced by | language | concept | next token |
|---|---|---|---|---|
| parallel | the same item's English activation: the treatment | English | right | right |
| self | its own activation: nothing may change | own | right | own |
| random_item | another English item's | English | wrong | any |
| same_answer | another English item's, whose gold option begins with the same token | English | wrong | right |
| permuted_options | the same English item's with its options reordered, gold elsewhere | English | right | wrong |
| language=<code> | the same item's in another language | that | right | right |
| mean_english | mean over all other English items | English | none | none |
| noise | a random direction of the parallel activation's norm | none | none | none |
| zero, mean | zeros; mean over the language's other items: ablation | none, own | none | none |

With another pivot (``pivot=``), English stands for the pivot: its activations, its other items, items right in it.

Learned maps (`maps`, `learned`) move the item's own activation towards English instead of replacing it; ``english+``
conditions do this in the English runs, which should stay right.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align_pipeline.config.patch import TREATMENT, Component, PatchConfig, is_kept, map_of, with_strength
from align_pipeline.data.items import Item
from align_pipeline.data.tasks import Pair
from align_pipeline.engine.forward import Advance
from align_pipeline.engine.hooks import Branch, Scoring, activations, num_heads, patched_loglikelihoods, taps
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.scoring import encode_options, prediction
from align_pipeline.measurements.patching.conditions import (
    OF_ANOTHER_ITEM,
    Place,
    Plan,
    another_item,
    noise_like,
    permuted,
    site_positions,
)
from align_pipeline.measurements.patching.learned import Moved, move, places_of

log = logging.getLogger(__name__)


@dataclass
class Activations:
    """A cache of activations by text, so that each is read only once.

    Attributes:
        known: context and sites -> [K, S, D], on the CPU.
        places: the context and site of each item.
        answers: the first token of each item's gold option.
    """

    lm: LanguageModel
    component: Component
    site: str
    batch_tokens: int | None
    known: dict[Place, Tensor] = field(default_factory=dict)
    places: dict[Item, Place] = field(default_factory=dict)
    answers: dict[Item, tuple[int, ...]] = field(default_factory=dict)

    def place(self, item: Item, context: Sequence[int]) -> Place:
        """An item's context, and the positions of the site in it."""
        return tuple(context), tuple(site_positions(self.lm, item, context, self.site))

    def of(self, items: Sequence[Item]) -> list[Tensor]:
        """[K, S, D] per item, in the context of its first option."""
        self.tokenize(items)
        return self.at([self.places[item] for item in items])

    def tokenize(self, items: Sequence[Item]) -> None:
        """Fill `places` and `answers`."""
        for item in items:
            if item not in self.places:
                requests = encode_options(self.lm, item)
                self.places[item] = self.place(item, requests[0][0])
                self.answers[item] = tuple(requests[item.gold][1][:1])

    def at(self, places: Sequence[Place]) -> list[Tensor]:
        """[K, S, D] per place."""
        missing = [place for place in dict.fromkeys(places) if place not in self.known]
        if missing:
            contexts, sites = [list(context) for context, _ in missing], [sites for _, sites in missing]
            states = activations(self.lm, contexts, sites, self.component, self.batch_tokens)
            self.known.update(zip(missing, states, strict=True))
        return [self.known[place] for place in places]


def layers_of(lm: LanguageModel, config: PatchConfig) -> list[int]:
    """The layers to patch.

    Raises:
        InputError: one of them does not exist for the component.
    """
    return chosen_layers(config, list(taps(lm, config.component)), lm.name)


def chosen_layers(config: PatchConfig, able: Sequence[int], name: str) -> list[int]:
    """The layers to patch, out of a component's layers.

    Args:
        config: what to patch.
        able: the layers that the component has.
        name: the model's name.

    Raises:
        InputError: a requested layer is not among them, or the window is wider than all of them.
    """
    if config.window > len(able):
        raise InputError(
            f"patch.window={config.window} is too large: patch.component={config.component.value} of {name} has only "
            f"{len(able)} layers, {able[0]} to {able[-1]}."
        )
    if isinstance(config.layers, str):
        return list(able)
    outside = [k for k in config.layers if k not in able]
    if outside:
        raise InputError(
            f"patch.layers contains {outside[0]}, but patch.component={config.component.value} of {name} has layers "
            f"{able[0]} to {able[-1]}."
        )
    return list(config.layers)


@dataclass(frozen=True)
class Patched:
    """The options' scores after patching.

    Attributes:
        layers: K layers.
        loglikelihoods: float64 [C, n, K, H, options], nan where an item has no donor; H is 1 except for heads.
        donors: [C, n], index of the donor among the English items, -1 for none.
        donor_golds: [C, n], index of the donor's right option in the donor's prompt, -1 for none.
    """

    layers: Tensor
    loglikelihoods: Tensor
    donors: Tensor
    donor_golds: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """The fields as named tensors, for the cache."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def rows(self, asked: Plan, pair: Pair, ids: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The columns of `PATCHING` that differ between results, in one block per condition, layer and head."""
        gold = {item.id: item.gold for item in pair.english.items}
        for c, condition in enumerate(asked.conditions):
            given = torch.nonzero(~self.loglikelihoods[c].isnan().flatten(1).any(1)).flatten().tolist()
            donors = [int(self.donors[c, n]) for n in given]
            known = {
                "source_language": asked.source_language(condition, pair),
                "condition": with_strength(condition, asked.config.strength),
                "item_id": [ids[n] for n in given],
                "donor": [pair.english.items[d].id if d >= 0 else "" for d in donors],
                "donor_gold": [int(self.donor_golds[c, n]) if self.donor_golds[c, n] >= 0 else None for n in given],
                "gold": [gold[ids[n]] for n in given],
            }
            for k, layer in enumerate(self.layers.tolist()):
                for head in range(self.loglikelihoods.shape[3]):
                    values = self.loglikelihoods[c, given, k, head]
                    best = [prediction(value) for value in values.tolist()]
                    yield known | {
                        "layer": [layer] * len(given),
                        "head": [head if asked.config.component is Component.head else None] * len(given),
                        "prediction": best,
                        "correct": [int(b == g) for b, g in zip(best, known["gold"], strict=True)],
                        "loglikelihoods": values.tolist(),
                    }


def patch(
    lm: LanguageModel,
    asked: Plan,
    pair: Pair,
    ids: Sequence[str],
    kept: Sequence[str],
    foreign: Activations,
    seed: int,
    batch_tokens: int | None,
    advance: Advance = lambda items: None,
) -> Patched:
    """Replace activations of a language's items and score their options again, for every condition and layer.

    Args:
        lm: the model.
        asked: conditions, layers, site, component.
        pair: the language and its English.
        ids: the items to patch.
        kept: items whose English runs the ``english+`` conditions patch; they come after `ids` in the result.
        foreign: cache of English (and other languages') activations, shared between languages.
        seed: for donors and noise.
        batch_tokens: approximate maximum tokens per forward pass; None: as many as fit the memory.
        advance: called with the number of finished items.

    Raises:
        InputError: a layer is out of range.
    """
    config, layers = asked.config, layers_of(lm, asked.config)
    own = Activations(lm, config.component, config.site, batch_tokens)
    by_id, english = pair.language.by_id(), pair.english.by_id()
    items = [by_id[item_id] for item_id in ids] + [english[item_id] for item_id in kept]
    sources = _Sources(lm, asked, pair, foreign, own, seed)
    chosen = []
    for condition in asked.conditions:
        own_ids = range(len(ids), len(items)) if is_kept(condition) else range(len(ids))
        chosen.append([sources.donor(condition, item) if n in own_ids else None for n, item in enumerate(items)])
        lacking = sum(chosen[-1][n] is None for n in own_ids)
        if lacking:
            said = f"{lacking} of {len(ids)} items have no donor and are left out"
            log.warning("%s, %s: %s.", pair.language.language, condition, said)
    heads = num_heads(lm) if config.component is Component.head else 1
    result = torch.full(
        (len(chosen), len(items), len(layers), heads, len(items[0].continuations)), torch.nan, dtype=torch.float64
    )
    scorings, targets, places = [], [], []
    for index, item in enumerate(items):
        able = [(c, donor) for c, row in enumerate(chosen) if (donor := row[index]) is not None]
        given = [(asked.conditions[c], donor) for c, donor in able]
        requests = encode_options(lm, item)
        for context, options in _by_context(requests).items():
            place = own.place(item, context)
            branches = functools.partial(_branches, sources, item, place, given, layers, config, heads)
            scorings.append(Scoring(list(context), [requests[o][1] for o in options], place[1], branches))
            targets.append((index, [c for c, _ in able], options))
            places.append(place)
    sources.read(items, chosen, places)
    sources.learn(places, layers)
    for number, values in patched_loglikelihoods(lm, scorings, config.component, batch_tokens, advance).items():
        index, done, options = targets[number]
        shaped = values.reshape(len(done), len(layers), heads, len(options))
        for c, value in zip(done, shaped, strict=True):
            result[c, index][:, :, options] = value
    return Patched(
        layers=torch.tensor(layers),
        loglikelihoods=result,
        donors=torch.tensor([[-1 if d is None or d.item is None else d.index for d in row] for row in chosen]),
        donor_golds=torch.tensor([[-1 if d is None or d.item is None else d.item.gold for d in row] for row in chosen]),
    )


def _by_context(requests: Sequence[tuple[Tokens, Tokens]]) -> dict[tuple[int, ...], list[int]]:
    """The options by context; the tokenizer may split the context differently for different options."""
    found: dict[tuple[int, ...], list[int]] = {}
    for option, (context, _) in enumerate(requests):
        found.setdefault(tuple(context), []).append(option)
    return found


@dataclass(frozen=True)
class Donor:
    """The source of an activation.

    Attributes:
        index: the item's index among the English items; -1 for none.
        item: the text to read; None if the activation is not that of a single item.
    """

    index: int = -1
    item: Item | None = None


@dataclass
class _Sources:
    """The replacement activations for one language's items."""

    lm: LanguageModel
    asked: Plan
    pair: Pair
    foreign: Activations
    own: Activations
    seed: int
    moved: Moved = field(init=False)

    def __post_init__(self) -> None:
        self.pool = self.pair.english.items
        self.index = {item.id: index for index, item in enumerate(self.pool)}
        self.others = {c: side.by_id() for c, side in self.asked.others.items()}

    @functools.cached_property
    def means(self) -> dict[str, tuple[Tensor, int]]:
        """Sum of the activations of all items, float64 [K, S, D], and their number."""
        sides = {"mean_english": (self.foreign, self.pool), "mean": (self.own, self.pair.language.items)}
        wanted = {c: side for c, side in sides.items() if c in self.asked.conditions}
        return {
            condition: (functools.reduce(lambda a, b: a + b.double(), states, torch.zeros(())), len(states))
            for condition, (memory, items) in wanted.items()
            for states in [memory.of(items)]
        }

    def donor(self, condition: str, item: Item) -> Donor | None:
        """The source of the item's replacement activation; None if no suitable item exists."""
        own = self.index[item.id]
        if condition == TREATMENT:
            return Donor(own, self.pool[own])
        if condition == "self" or map_of(condition):
            return Donor(own, item)
        if condition == "permuted_options":
            return Donor(own, permuted(self.pool[own], self.seed))
        if condition in OF_ANOTHER_ITEM:
            if condition == "same_answer":
                self.foreign.tokenize(self.pool)
            keys = [self.foreign.answers.get(other) for other in self.pool]
            found = another_item(condition, self.pool[own], self.pool, keys, self.seed)
            return None if found is None else Donor(found, self.pool[found])
        if condition in self.others:
            return Donor(own, self.others[condition][item.id]) if item.id in self.others[condition] else None
        return Donor()

    def read(self, items: Sequence[Item], chosen: Sequence[Sequence[Donor | None]], places: Sequence[Place]) -> None:
        """Read all activations in one call, so that texts share their prefixes."""
        wanted = [
            donor.item
            for condition, donors in zip(self.asked.conditions, chosen, strict=True)
            for donor in donors
            if not (condition == "self" or map_of(condition)) and donor is not None and donor.item is not None
        ]
        if "mean_english" in self.asked.conditions:
            wanted += self.pool
        if "noise" in self.asked.conditions:
            wanted += [self.english(item) for item in items]
        self.foreign.of(wanted)
        if {"self", "zero"} & set(self.asked.conditions) or self.asked.training:
            self.own.at(places)

    def learn(self, places: Sequence[Place], layers: Sequence[int]) -> None:
        """Learn the maps from the language's sentences, if any condition uses them."""
        config = self.asked.config
        if not config.learned:
            return
        learnt = self.asked.training[self.pair.language.language]
        other, english = (
            torch.stack(memory.at(places_of(self.lm, sentences)))[:, :, 0]
            for memory, sentences in ((self.own, learnt.other), (self.foreign, learnt.english))
        )
        able = list(taps(self.lm, config.component))
        patched = {k for layer in layers for k in range(layer, layer + config.window)}
        states = {place: self.own.at([place])[0] for place in dict.fromkeys(places)}
        index = [k for k, layer in enumerate(able) if layer in patched]
        self.moved = move(config.learned, other, english, states, index, config.strength, self.seed)

    def english(self, item: Item) -> Item:
        """The English version of an item."""
        return self.pool[self.index[item.id]]

    def value(self, condition: str, item: Item, donor: Donor, place: Place) -> Tensor:
        """The replacement activation, [K, S, D]."""
        if condition == "self":
            return self.own.at([place])[0]
        if map_of(condition):
            return self.moved.value(condition, self.own.at([place])[0], place, item.id)
        if condition in self.means:
            total, count = self.means[condition]
            (own,) = self.own.of([item]) if condition == "mean" else self.foreign.of([self.english(item)])
            return ((total - own.double()) / (count - 1)).to(own.dtype)
        if condition == "noise":
            return noise_like(self.foreign.of([self.english(item)])[0], self.seed, item.id)
        if condition == "zero":
            return torch.zeros_like(self.own.at([place])[0])
        assert donor.item is not None
        return self.foreign.of([donor.item])[0]


def _branches(
    sources: _Sources,
    item: Item,
    place: Place,
    donors: Sequence[tuple[str, Donor]],
    layers: Sequence[int],
    config: PatchConfig,
    heads: int,
) -> list[Branch]:
    """One branch per condition, layer and head, in this order."""
    able = {layer: k for k, layer in enumerate(taps(sources.lm, config.component))}
    branches = []
    for condition, donor in donors:
        value = sources.value(condition, item, donor, place)
        for layer in layers:
            if config.component is Component.head:
                parts = value[able[layer]].view(len(value[able[layer]]), heads, -1)
                branches += [Branch({layer: parts[:, head]}, head) for head in range(heads)]
            else:
                window = [k for k in range(layer, layer + config.window) if k in able]
                branches.append(Branch({k: value[able[k]] for k in window}))
    return branches
