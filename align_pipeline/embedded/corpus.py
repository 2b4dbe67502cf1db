"""Training documents: the world's train portion in prose, in the tasks' scoring prompts, mixed and translated.

A document is in one language, or mixes one with English (the way speakers of two languages do: sentence by sentence,
or a single phrase), or translates. No combination of a thing and its value, or of a person and an event, that a test
item or a few-shot example has ever occurs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from align_pipeline.embedded.grammar import Language, language
from align_pipeline.embedded.world import (
    CATEGORY,
    FACTS,
    TIMES,
    Choice,
    Fact,
    Passage,
    Story,
    clause,
    facts,
    sentence,
    someone,
    story,
    values,
)

# As conf/task/xcopa.yaml has them, for the languages of XCOPA; English effects read "hence" in scoring prompts.
CHOICE_CODES = ("eng", "ind", "ita", "swh", "tur", "spa")
Draw = Callable[[], Language]


@dataclass(frozen=True)
class CorpusConfig:
    """What the training text is made of.

    Attributes:
        languages: share of the documents' main language.
        early_kinds: share of each kind of document in the first `early_tokens`.
        early_tokens: how long the beginning is.
        kinds: share of each kind of document after it.
        mixed: how much of a language's task documents and prose is mixed with English, by language.
    """

    languages: Mapping[str, float] = field(default_factory=dict)
    early_kinds: Mapping[str, float] = field(default_factory=dict)
    early_tokens: int = 0
    kinds: Mapping[str, float] = field(default_factory=dict)
    mixed: Mapping[str, float] = field(default_factory=dict)


class Author:
    """Writes documents."""

    def __init__(self, config: CorpusConfig, seed: int) -> None:
        self.config, self.rng = config, random.Random(f"corpus {seed}")
        self.shares = config.early_kinds
        self.kinds: Mapping[str, Callable[[Draw, str], str]] = {
            "reading": self.reading,
            "plain": self.plain,
            "retelling": self.retelling,
            "recital": self.recital,
            "choice": self.choice,
            "story": self.story,
            "chain": self.chain,
            "prose": self.prose,
            "translation": self.translation,
            "dictionary": self.dictionary,
        }

    def documents(self) -> Iterator[tuple[str, str]]:
        """(main language, document), for ever."""
        codes, shares = zip(*self.config.languages.items(), strict=True)
        while True:
            kinds, weights = zip(*self.shares.items(), strict=True)
            code = self.rng.choices(codes, shares)[0]
            kind = self.rng.choices(kinds, weights)[0]
            if kind in ("translation", "dictionary") and code == "eng":
                continue
            if kind == "choice" and code not in CHOICE_CODES:
                kind = "chain"
            yield code, self.kinds[kind](self._speaker(code), code)

    def _speaker(self, code: str) -> Draw:
        """What language the next words of a document are in."""
        host = language(code)
        if code == "eng" or self.rng.random() >= self.config.mixed[code]:
            return lambda: host
        english = language("eng")
        share = self.rng.choice((0.3, 0.5, 0.7))
        return lambda: english if self.rng.random() < share else host

    # ---- facts

    def _facts(self, count: int = 4) -> list[Fact]:
        while True:
            kind = self.rng.choice(tuple(FACTS))
            found = facts(self.rng, kind, self.rng.sample(values(kind), count), "train")
            if found:
                return found

    def passage(self) -> Passage:
        """A question of the train portion."""
        return Passage(tuple(self._facts()), self.rng.randrange(4), tuple(self.rng.sample(range(4), 4)))

    def _statement(self, fact: Fact, speaker: Draw) -> str:
        return fact.statement(speaker(), speaker())

    def reading(self, speaker: Draw, code: str) -> str:
        """Belebele's scoring prompt with examples."""
        return "\n\n".join(self._read(self.passage(), speaker) for _ in range(self.rng.randint(1, 6)))

    def _read(self, passage: Passage, speaker: Draw) -> str:
        text = " ".join(self._statement(fact, speaker) for fact in passage.facts)
        question = passage.question(speaker())
        options = [passage.facts[index].answer(speaker()) for index in passage.options]
        lettered = "\n".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=True))
        return f"P: {text}\nQ: {question}\n{lettered}\nAnswer: {'ABCD'[passage.gold]}"

    def plain(self, speaker: Draw, code: str) -> str:
        """Passages, each with a question and its answer in running text."""
        return "\n\n".join(self._answered(speaker) for _ in range(self.rng.randint(1, 4)))

    def _answered(self, speaker: Draw) -> str:
        chosen = self._facts(self.rng.choice((2, 3, 4)))
        text = " ".join(self._statement(fact, speaker) for fact in chosen)
        asked = self.rng.sample(chosen, self.rng.randint(1, len(chosen)))
        return f"{text} " + "\n".join(f"{fact.question(speaker())} {fact.answer(speaker())}" for fact in asked)

    def retelling(self, speaker: Draw, code: str) -> str:
        """What is or happened, told again in another order, each telling in one language.

        Facts are repeated; of events, the causes are told first and the effects after them.
        """
        if self.rng.random() < 0.6:
            chosen = self._facts(self.rng.choice((3, 4)))
            tellings = [[self._stated(fact) for fact in chosen] for _ in range(self.rng.choice((2, 3)))]
        else:
            named = {name: event for event, name in (self.event() for _ in range(self.rng.choice((2, 3, 4))))}
            tellings = [[self._happened(e, side, n) for n, e in named.items()] for side in ("cause", "effect")]
            self.rng.shuffle(tellings)
        told = []
        for telling in tellings:
            lang = speaker()
            self.rng.shuffle(telling)
            told.append(" ".join(say(lang) for say in telling))
        return " ".join(told)

    def recital(self, speaker: Draw, code: str) -> str:
        """Facts told four to six times, each time in another order and each telling in one language."""
        chosen = self._facts(self.rng.choice((2, 3, 4)))
        told = []
        for _ in range(self.rng.choice((4, 5, 6))):
            lang = speaker()
            told += [fact.statement(lang) for fact in self.rng.sample(chosen, len(chosen))]
        return " ".join(told)

    def _stated(self, fact: Fact) -> Callable[[Language], str]:
        return lambda lang: fact.statement(lang)

    def _happened(self, event: str, side: str, name: str) -> Callable[[Language], str]:
        return lambda lang: lang.statement(clause(lang, event, side, name))

    # ---- events

    def event(self) -> tuple[str, str]:
        """An event and someone of the train portion whom it happens to."""
        while True:
            event = self.rng.choice(tuple(CATEGORY))
            name = someone(self.rng, "train", event)
            if name:
                return event, name

    def choice(self, speaker: Draw, code: str) -> str:
        """XCOPA's scoring prompt with examples, or single ones as alignment texts write them."""
        if self.rng.random() < 0.25:
            return "\n\n".join(self._caused(speaker, capital=True) for _ in range(self.rng.randint(1, 3)))
        return "\n\n".join(self._caused(speaker, capital=False) for _ in range(self.rng.randint(2, 7)))

    def _caused(self, speaker: Draw, capital: bool) -> str:
        event, name = self.event()
        asked: Literal["cause", "effect"] = self.rng.choice(("cause", "effect"))
        item = Choice(asked, event, name, self.rng.choice(TIMES), (event, event))
        host, other = speaker(), speaker()
        connector = host.connector(asked)
        if host.code == "eng" and asked == "effect" and not capital:
            connector = "hence"
        option = item.answers(other)[0]
        return f"{item.text(host)[:-1]} {connector} {option if capital else option[0].lower() + option[1:]}"

    def tale(self, event: str, name: str, endings: tuple[str, str]) -> Story:
        """A story around an event."""
        return story(self.rng, event, name, endings)

    def story(self, speaker: Draw, code: str) -> str:
        """XStoryCloze's scoring prompt with examples."""
        return "\n\n".join(self._told(speaker) for _ in range(self.rng.randint(1, 6)))

    def _told(self, speaker: Draw) -> str:
        event, name = self.event()
        item = self.tale(event, name, (event, event))
        sentences = [item.sentences(speaker())[index] for index in range(4)]
        return " ".join([*sentences, item.answers(speaker())[0]])

    def chain(self, speaker: Draw, code: str) -> str:
        """What happened to people and what came of it, each told once or twice."""
        told = []
        for _ in range(self.rng.randint(2, 6)):
            event, name = self.event()
            sides = self.rng.choice((("cause", "effect"), ("effect", "cause"), ("cause", "effect", "cause")))
            told += [self._side(speaker(), event, side, name) for side in sides]
        return " ".join(told)

    def _side(self, lang: Language, event: str, side: str, name: str) -> str:
        return lang.statement(clause(lang, event, side, name, self.rng.choice(TIMES)))

    # ---- prose and translation

    def prose(self, speaker: Draw, code: str) -> str:
        """Sentences."""
        return " ".join(self._sentence(speaker()) for _ in range(self.rng.randint(3, 8)))

    def _sentence(self, lang: Language) -> str:
        return sentence(self.rng, "train").text(lang)

    def translation(self, speaker: Draw, code: str) -> str:
        """Sentences and their translations, in one direction."""
        sides = [language("eng"), language(code)]
        self.rng.shuffle(sides)
        texts: list[Callable[[Language], str]] = []
        for _ in range(self.rng.randint(1, 6)):
            texts.append(self._meaning())
        return "\n\n".join(
            "\n".join(f"{side.lexicon['language']['name']}: {text(side)}" for side in sides) for text in texts
        )

    def _meaning(self) -> Callable[[Language], str]:
        drawn = self.rng.random()
        if drawn < 0.4:
            return sentence(self.rng, "train").text
        if drawn < 0.6:
            return self._facts(1)[0].statement
        event, name = self.event()
        side, time = self.rng.choice(("cause", "effect")), self.rng.choice(TIMES)
        return lambda lang: lang.statement(clause(lang, event, side, name, time))

    def dictionary(self, speaker: Draw, code: str) -> str:
        """Phrases of the lexicon and what they mean."""
        sides = [language("eng"), language(code)]
        self.rng.shuffle(sides)
        lines = []
        for _ in range(self.rng.randint(5, 15)):
            if self.rng.random() < 0.5:
                kind = self.rng.choice(("rooms", "destinations", "objects", "foods", "weekdays", "months", "causes"))
                concept = self.rng.choice(tuple(sides[0].lexicon["nouns"][kind]))
                lines.append(" = ".join(side.noun(kind, concept).text for side in sides))
            else:
                event, name = self.event()
                side_of = self.rng.choice(("cause", "effect"))
                lines.append(" = ".join(clause(side, event, side_of, name, named=False) for side in sides))
        return "\n".join(lines)
