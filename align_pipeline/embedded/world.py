"""What can be the case in the world, which of it is kept for testing, and how items are drawn from it.

Everything here and in `events` is a meaning: concepts and names, no words. `Passage`, `Choice` and `Story` are items of
the three tasks before any language; their methods give their texts in one.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, TypeVar

from align_pipeline.embedded.grammar import NAMES, Language, language

Portion = Literal["test", "dev", "train"]
Drawn = TypeVar("Drawn")

FACTS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    # kind: (semantic category, the lexicon's list of values, frames)
    "place": ("place", "rooms", ("is", "now")),
    "travel": ("travel", "destinations", ("went", "wants")),
    "possession": ("possession", "objects", ("bought", "found", "sold")),
    "food": ("food", "foods", ("eats", "wants")),
    "weekday": ("time", "weekdays", ("arrives", "leaves")),
    "month": ("time", "months", ("arrives", "leaves")),
    "cause": ("cause", "causes", ("woke", "stopped")),
}


@cache
def portion(*meaning: str) -> Portion:
    """Where a combination belongs: a fifth is only ever tested, a fifth kept for examples and development."""
    bucket = zlib.crc32("|".join(meaning).encode()) % 5
    return "test" if bucket == 0 else "dev" if bucket == 1 else "train"


# ---- facts


@dataclass(frozen=True, slots=True)
class Fact:
    """One value of one thing or person, such as (possession, bought, Anna, horse)."""

    kind: str
    frame: str
    entity: str
    value: str

    @property
    def portion(self) -> Portion:
        """Verbs aside, a thing and its value belong to one portion."""
        return portion(FACTS[self.kind][0], self.entity, self.value)

    def words(self, lang: Language, form: str, switched: Language | None = None) -> str:
        """As ``statement`` or ``question``, without capital and full stop; `switched`: with the value in its words."""
        category, values, _ = FACTS[self.kind]
        slots = {"V": (switched or lang).noun(values, self.value)}
        if self.kind == "place":
            slots["E"] = lang.noun("things", self.entity)
        else:
            slots["S"] = lang.person(self.entity)
        return lang.fill(lang.lexicon["facts"][category][self.frame][form], slots)

    def statement(self, lang: Language, switched: Language | None = None) -> str:
        """The fact as a sentence; `switched`: with the value in the words of that language."""
        return lang.statement(self.words(lang, "statement", switched))

    def question(self, lang: Language) -> str:
        """The question that its value answers."""
        return lang.question(self.words(lang, "question"))

    def answer(self, lang: Language) -> str:
        """Its value, as the answer to the question."""
        return said(self.kind, self.value, lang)


def said(kind: str, value: str, lang: Language) -> str:
    """A value as the answer to a question."""
    return lang.noun(FACTS[kind][1], value).text


@cache
def entities(kind: str) -> tuple[str, ...]:
    """Who or what facts of a kind are about."""
    return tuple(language("eng").lexicon["nouns"]["things"]) if kind == "place" else NAMES


@cache
def values(kind: str) -> tuple[str, ...]:
    """What facts of a kind say of it."""
    return tuple(language("eng").lexicon["nouns"][FACTS[kind][1]])


def facts(rng: random.Random, kind: str, chosen: Sequence[str], where: Portion) -> list[Fact] | None:
    """One fact of a portion for each of the chosen values, about different entities; None if luck runs out."""
    found: list[Fact] = []
    for value in chosen:
        free = [
            fact
            for entity in entities(kind)
            if entity not in {f.entity for f in found} and entity != value
            for fact in [Fact(kind, rng.choice(FACTS[kind][2]), entity, value)]
            if fact.portion == where
        ]
        if not free:
            return None
        found.append(rng.choice(free))
    return found


@dataclass(frozen=True, slots=True)
class Passage:
    """Four facts of a kind, and a question about one of them with the four values as options."""

    facts: tuple[Fact, ...]
    asked: int
    options: tuple[int, ...]

    @property
    def category(self) -> str:
        """What the question is about."""
        return FACTS[self.facts[0].kind][0]

    @property
    def gold(self) -> int:
        """Index of the right option."""
        return self.options.index(self.asked)

    def text(self, lang: Language) -> str:
        """The passage."""
        return " ".join(fact.statement(lang) for fact in self.facts)

    def question(self, lang: Language) -> str:
        """The question."""
        return self.facts[self.asked].question(lang)

    def answers(self, lang: Language) -> list[str]:
        """The four options."""
        return [self.facts[index].answer(lang) for index in self.options]


def passage_pairs(rng: random.Random, kind: str, where: Portion) -> list[Passage]:
    """Four questions over two passages that share their four values: each value is right exactly once.

    Nothing about the options alone can therefore tell the answer, nor can the place in the passage: each of the four
    is asked for once.
    """
    while True:
        chosen = rng.sample(values(kind), 4)
        both = [facts(rng, kind, chosen, where) for _ in range(2)]
        if both[0] and both[1] and not set(both[0]) & set(both[1]):
            break
    asked_first = rng.sample(range(4), 2)
    found = []
    order = rng.sample(range(4), 4)
    for passage_facts, asked in zip(both, (asked_first, [i for i in range(4) if i not in asked_first]), strict=True):
        assert passage_facts is not None
        # `chosen[order[p]]` stands at place p; the second passage asks for the other two values, at the other places.
        placed = tuple(passage_facts[i] for i in order)
        found += [Passage(placed, place, tuple(rng.sample(range(4), 4))) for place in asked]
    return found


def with_gold(rng: random.Random, passage: Passage, gold: int) -> Passage:
    """The passage with its options in an order that puts the right one at `gold`."""
    rest = [index for index in range(4) if index != passage.asked]
    rng.shuffle(rest)
    return Passage(passage.facts, passage.asked, (*rest[:gold], passage.asked, *rest[gold:]))


def distinctly(draw: Callable[[], Drawn], key: Callable[[Drawn], object], count: int) -> Iterator[Drawn]:
    """`count` draws with different keys."""
    seen: set[object] = set()
    while len(seen) < count:
        drawn = draw()
        if key(drawn) not in seen:
            seen.add(key(drawn))
            yield drawn
