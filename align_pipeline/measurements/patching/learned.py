"""Learned maps in use: their sentences are read and checked, and activations are moved by them.

A map is learned at each layer from the activations at the last token of bare sentences, and used at the tokens that are
patched.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.config.lang import Language
from align_pipeline.config.patch import KEPT, PatchConfig
from align_pipeline.data.parallel import Pairs, Prints, read, refuse_overlap
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair
from align_pipeline.engine.model import LanguageModel
from align_pipeline.errors import InputError
from align_pipeline.measurements.patching.conditions import Place, noise_like
from align_pipeline.measurements.patching.maps import learn

log = logging.getLogger(__name__)

FEWEST = 10
"""Sentence pairs below which nothing is learned: cross-validation needs some in every fold."""
_RANDOM = "_random"


def training(
    config: PatchConfig, pairs: Sequence[Pair], languages: Sequence[Language], source: Source
) -> dict[str, Pairs]:
    """The sentences to learn from, by FLORES code; none if no condition uses a map.

    Args:
        config: with all conditions listed.
        pairs: the evaluated items.
        languages: those of the pairs.
        source: where data sets are read.

    Raises:
        InputError: a language has no or too few sentence pairs, or some occur in the evaluated items.
    """
    if not config.learned:
        return {}
    found = {}
    for pair, language in zip(pairs, languages, strict=True):
        own = read(config.pairs, language, source)
        if len(own) < FEWEST:
            raise InputError(
                f"{own.name} has {len(own)} sentence pairs of {language.name} to learn a map from, but at least "
                f"{FEWEST} are needed; raise patch.pairs.limit or choose another patch.pairs.source."
            )
        prints, items = Prints.of([*own.english, *own.other]), [*pair.english.items, *pair.language.items]
        who, key = f"the map of {language.name}", "patch.pairs.allow_overlap"
        refuse_overlap(prints, items, who, key, config.pairs.allow_overlap)
        found[language.flores] = own
    return found


def places_of(lm: LanguageModel, sentences: Sequence[str]) -> list[Place]:
    """Each sentence's tokens without any prompt, and the position of its last token."""
    read = [
        lm.limit(tokens, f"The sentence '{sentence[:40]}'")
        for sentence, tokens in zip(sentences, lm.encode([sentence.strip() for sentence in sentences]), strict=True)
    ]
    return [(tuple(tokens), (len(tokens) - 1,)) for tokens in read]


@dataclass(frozen=True)
class Moved:
    """How far the maps move activations.

    Attributes:
        layers: the indices of the moved layers among the K layers of an activation.
        index: of each activation, by its place.
        displacements: map(h) - h by name of the map, float32 [activations, layers, S, D].
        strength: factor of all displacements.
        seed: of the random directions.
    """

    layers: Sequence[int]
    index: Mapping[Place, int]
    displacements: Mapping[str, Tensor]
    strength: float
    seed: int

    def value(self, condition: str, h: Tensor, place: Place, item_id: str) -> Tensor:
        """The activation h + strength * (map(h) - h), [K, S, D] as h; unchanged at layers that are not patched.

        For a random condition the displacement keeps its norm and gets a random direction, which depends on item, layer
        and seed.
        """
        moved = torch.zeros(h.shape, dtype=torch.float32)
        moved[list(self.layers)] = self.strength * self.displacements[_learned(condition)][self.index[place]]
        if condition.endswith(_RANDOM):
            moved = noise_like(moved, self.seed, f"map/{item_id}")
        return (h.float() + moved).to(h.dtype)


def _learned(condition: str) -> str:
    """The map that a condition needs, such as linear_shuffled."""
    return condition.removeprefix(KEPT).removesuffix(_RANDOM)


def move(
    conditions: Sequence[str],
    other: Tensor,
    english: Tensor,
    states: Mapping[Place, Tensor],
    layers: Sequence[int],
    strength: float,
    seed: int,
) -> Moved:
    """Learn the maps layer by layer and apply them, so that the maps of a single layer are in memory at a time.

    Args:
        conditions: those that use maps.
        other: the language's activations of the sentences, [n, K, D].
        english: those of their translations, [n, K, D].
        states: the activations to move, [K, S, D] each.
        layers: indices of the K layers at which they are moved.
        strength: of the maps.
        seed: of folds, shuffled pairs and random directions.
    """
    names = list(dict.fromkeys(map(_learned, conditions)))

    def run(k: int) -> tuple[Tensor, float]:
        found = learn(names, other[:, k], english[:, k], seed)
        h = torch.stack([state[k] for state in states.values()]).double()
        explained = found["linear"].explained if "linear" in found else float("nan")
        return torch.stack([(found[name](h) - h).float() for name in names]), explained

    done = distributed.each(list(layers), [1.0] * len(layers), run)
    held = [explained for _, explained in done if not math.isnan(explained)]
    if held:
        said = "The linear map explains %.2f to %.2f of the variance of held-out English activations, by layer."
        log.info(said, min(held), max(held))
    by_name = torch.stack([moved for moved, _ in done], dim=2)  # [names, activations, layers, S, D]
    index = {place: number for number, place in enumerate(states)}
    return Moved(layers, index, dict(zip(names, by_name, strict=True)), strength, seed)
