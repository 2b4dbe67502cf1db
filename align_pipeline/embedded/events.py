"""What happens to people: events with a cause and an effect, and the items and sentences made of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Literal

from align_pipeline.embedded.grammar import CODES, MEN, NAMES, WOMEN, Language, Phrase, language
from align_pipeline.embedded.world import FACTS, Fact, Portion, facts, portion, values

Events = tuple[str, str]

EVENTS: dict[str, tuple[str, ...]] = {
    "health": ("sleep", "hunger", "thirst", "fever"),
    "weather": ("rain", "snow", "sun", "clouds"),
    "accident": ("vase", "finger", "bicycle", "coffee"),
    "possession": ("wallet", "key", "gift", "lottery"),
    "travel": ("bus", "speed", "suitcase", "way"),
    "feeling": ("joke", "snake", "race", "film"),
    "home": ("dark", "fire", "bread"),
}
CATEGORY = {event: category for category, events in EVENTS.items() for event in events}
TIMES = ("", "yesterday", "morning", "week", "saturday")
SETTINGS = ("village", "city", "sea", "music")
OTHERS = ("friend", "sibling", "house")
LATER = ("visit", "home", "call", "park")


def clause(lang: Language, event: str, side: str, name: str, time: str = "", named: bool = True) -> str:
    """The ``cause`` or ``effect`` of an event as it happened to someone, without capital and full stop."""
    when = lang.noun("times", time) if time else Phrase("")
    who = lang.person(name) if named else lang.pronoun(name)
    return lang.fill(lang.lexicon["events"][event][side], {"S": who, "T": when})


@cache
def distinct(first: str, second: str) -> bool:
    """Whether two events can be options of one item: unlike in kind, and ending in different words in all languages."""
    if CATEGORY[first] == CATEGORY[second]:
        return False
    if second in AMBIGUOUS.get(first, ()) or first in AMBIGUOUS.get(second, ()):
        return False
    return all(
        clause(language(code), first, side, name, named=False).split()[-1]
        != clause(language(code), second, side, name, named=False).split()[-1]
        for code in CODES
        for side in ("cause", "effect")
        for name in ("Anna", "Omar")
    )


# Either cause could bring about either effect.
AMBIGUOUS: dict[str, tuple[str, ...]] = {
    "way": ("bicycle", "bus", "finger", "fire", "gift", "key", "sleep", "wallet"),
    "suitcase": ("bicycle", "bus", "finger", "rain", "sleep", "sun"),
    "fever": ("bicycle", "finger", "sleep", "snow", "sun"),
    "bus": ("rain", "sleep", "speed", "vase"),
    "race": ("gift", "sleep", "sun", "thirst"),
    "film": ("bicycle", "finger", "wallet"),
    "rain": ("clouds", "coffee", "snow"),
    "bread": ("hunger", "wallet"),
    "finger": ("bicycle", "fire"),
    "clouds": ("snow",),
    "fire": ("snake",),
    "gift": ("lottery",),
    "key": ("sleep",),
    "speed": ("wallet",),
    "sun": ("thirst",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """What happens to whom, and the events of its two options."""

    event: str
    name: str
    time: str
    options: Events

    @property
    def category(self) -> str:
        """What happens."""
        return CATEGORY[self.event]

    @property
    def gold(self) -> int:
        """Index of the right option."""
        return self.options.index(self.event)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice(Happening):
    """A premise and its two possible causes or effects."""

    asked: Literal["cause", "effect"]

    def text(self, lang: Language) -> str:
        """The premise."""
        given = "effect" if self.asked == "cause" else "cause"
        return lang.statement(clause(lang, self.event, given, self.name, self.time))

    def answers(self, lang: Language) -> list[str]:
        """The two options, without full stops: what an option says is then in its last token."""
        return [lang.statement(clause(lang, e, self.asked, self.name, named=False))[:-1] for e in self.options]


@dataclass(frozen=True, slots=True, kw_only=True)
class Story(Happening):
    """Four sentences, in the third of which something happens, and two endings."""

    friend: str
    setting: str
    other: str
    later: str

    def sentences(self, lang: Language) -> list[str]:
        """The story."""
        who = {"S": lang.person(self.name), "F": lang.person(self.friend)}
        story = lang.lexicon["story"]
        words = [
            lang.fill(story["setting"][self.setting], who),
            lang.fill(story["other"][self.other], who),
            clause(lang, self.event, "cause", self.name, self.time),
            lang.fill(story["later"][self.later], who),
        ]
        return [lang.statement(w) for w in words]

    def answers(self, lang: Language) -> list[str]:
        """The two endings, likewise."""
        return [lang.statement(clause(lang, e, "effect", self.name))[:-1] for e in self.options]


def event_pairs() -> list[Events]:
    """All pairs of events that can be options of one item."""
    return [(a, b) for a, b in combinations(CATEGORY, 2) if distinct(a, b)]


def someone(rng: random.Random, where: Portion, *events: str, among: Sequence[str] = NAMES) -> str | None:
    """A name that all these events of a portion can happen to; None if there is none."""
    names = [name for name in among if all(portion(event, name) == where for event in events)]
    return rng.choice(names) if names else None


def choices(rng: random.Random, pair: Events, asked: Literal["cause", "effect"], where: Portion) -> list[Choice]:
    """Two items with the same two options in the same order, each right once; none if luck runs out.

    Both are about a woman or both about a man: the options' pronouns are then the same too.
    """
    among = rng.choice((MEN, WOMEN))
    names = [someone(rng, where, event, among=among) for event in pair]
    options = pair if rng.random() < 0.5 else (pair[1], pair[0])
    return [
        Choice(
            event=event, name=name, time=rng.choice(TIMES) if asked == "effect" else "", options=options, asked=asked
        )
        for event, name in zip(pair, names, strict=True)
        if name
    ]


def stories(rng: random.Random, pair: Events, where: Portion) -> list[Story]:
    """Two stories with the same two endings in the same order, each right once; none if luck runs out."""
    name = someone(rng, where, *pair)
    options = pair if rng.random() < 0.5 else (pair[1], pair[0])
    return [story(rng, event, name, options) for event in pair] if name else []


def story(rng: random.Random, event: str, name: str, options: Events) -> Story:
    """A story around an event; the friend's gender is the other one, so that no language has two forms of "they"."""
    return Story(
        event=event,
        name=name,
        friend=rng.choice(MEN if name in WOMEN else WOMEN),
        time=rng.choice(TIMES),
        setting=rng.choice(SETTINGS),
        other=rng.choice(OTHERS),
        later=rng.choice(LATER),
        options=options,
    )


# ---- sentences


@dataclass(frozen=True, slots=True)
class Sentence:
    """Two things that are the case, joined by ``and`` or ``but``."""

    joined: Literal["and", "but"]
    parts: tuple[Fact | tuple[str, str, str], Fact | tuple[str, str, str]]

    @property
    def category(self) -> str:
        """What its first part is about."""
        first = self.parts[0]
        return FACTS[first.kind][0] if isinstance(first, Fact) else CATEGORY[first[0]]

    def text(self, lang: Language) -> str:
        """The sentence."""
        first, second = (
            part.words(lang, "statement")
            if isinstance(part, Fact)
            else clause(lang, part[0], "cause", part[1], part[2])
            for part in self.parts
        )
        return lang.statement(f"{first}{lang.connector(self.joined)} {second}")


def sentence(rng: random.Random, where: Portion) -> Sentence:
    """A sentence of which both parts belong to a portion."""

    def part() -> Fact | tuple[str, str, str]:
        if rng.random() < 0.4:
            event = rng.choice(tuple(CATEGORY))
            name = someone(rng, where, event)
            assert name is not None
            return event, name, rng.choice(TIMES)
        while True:
            kind = rng.choice(tuple(FACTS))
            found = facts(rng, kind, [rng.choice(values(kind))], where)
            if found:
                return found[0]

    def about(p: Fact | tuple[str, str, str]) -> str:
        return p.entity if isinstance(p, Fact) else p[1]

    first, second = part(), part()
    while about(second) == about(first):
        second = part()
    return Sentence(rng.choice(("and", "but")), (first, second))
