"""The sentence pairs of a training: what is held out, and the order of the micro-batches."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from align_pipeline.config.lang import Language
from align_pipeline.config.tune import TuneConfig
from align_pipeline.data.items import Item
from align_pipeline.data.parallel import Pairs, normalised
from align_pipeline.errors import InputError
from align_pipeline.tune.objectives import Batch

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stream:
    """Micro-batches by number: the same for every number of processes, and after an interruption.

    Attributes:
        rows: English sentence, other sentence and the other language's name.
        size: pairs in a micro-batch.
        seed: of the order; every epoch has its own.
        examples: for `Batch`.
    """

    rows: Sequence[tuple[str, str, str]]
    size: int
    seed: int
    examples: Sequence[Item] = ()

    def __getitem__(self, number: int) -> Batch:
        """The micro-batch of this number; an epoch's last pairs that fill none are left out of the epoch."""
        per_epoch = len(self.rows) // self.size
        epoch, place = divmod(number, per_epoch)
        order = _order(len(self.rows), f"{self.seed}/{epoch}")
        chosen = [self.rows[i] for i in order[place * self.size : (place + 1) * self.size]]
        english, other, names = zip(*chosen, strict=True)
        return Batch(number, english, other, names, self.examples, self.seed)


@functools.lru_cache(maxsize=2)  # a million pairs take a second to shuffle
def _order(count: int, seed: str) -> list[int]:
    return random.Random(seed).sample(range(count), count)


def split(
    pairs: Mapping[str, Pairs], languages: Sequence[Language], config: TuneConfig, seed: int, examples: Sequence[Item]
) -> tuple[Stream, dict[str, Pairs]]:
    """The pairs to train on, mixed over languages, and the held-out pairs by FLORES code.

    Raises:
        InputError: too few pairs are left.
    """
    held_out = {}
    for own in (pairs[language.flores] for language in languages):
        if len(own) < config.held_out + 2:
            raise InputError(
                f"{own.name} has {len(own)} sentence pairs for {own.language}, of which tune.held_out="
                f"{config.held_out} are held out: too few are left; hold out fewer or use more pairs."
            )
        held_out[own.language] = own.at(range(len(own) - config.held_out, len(own)))
    unseen = {normalised(text) for own in held_out.values() for text in (*own.english, *own.other)}
    rows: list[tuple[str, str, str]] = []
    for language in languages:
        own = pairs[language.flores]
        first = zip(own.english[: -config.held_out], own.other[: -config.held_out], strict=True)
        kept = [pair for pair in first if unseen.isdisjoint(map(normalised, pair))]
        if repeated := len(own) - config.held_out - len(kept):
            told = "%d of the %s pairs of %s have a sentence that is held out, and are not trained on."
            log.warning(told, repeated, own.language, own.name)
        if len(kept) < 2:
            raise InputError(
                f"{own.name} has {len(kept)} pairs for {own.language} without a held-out sentence; use more."
            )
        other = [x for _, x in kept]
        if config.shuffled:
            other = _deranged(other, random.Random(f"{seed}/shuffled/{own.language}"))
        rows += [(e, x, language.name) for (e, _), x in zip(kept, other, strict=True)]
    if len(rows) < config.micro_batch:
        raise InputError(
            f"tune.micro_batch={config.micro_batch} is more than the {len(rows)} sentence pairs to train on; use "
            "fewer in a micro-batch, or more pairs."
        )
    return Stream(rows, config.micro_batch, seed, examples), held_out


def _deranged(values: Sequence[str], rng: random.Random) -> list[str]:
    """The values in a random order in which none is at its own place."""
    order = rng.sample(range(len(values)), len(values))
    found = [""] * len(values)
    for place, other in zip(order, [*order[1:], order[0]], strict=True):
        found[place] = values[other]
    return found
