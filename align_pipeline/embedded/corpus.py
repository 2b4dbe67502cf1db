"""Training documents: the world's train portion in prose, in the tasks' scoring prompts, mixed and translated.

A document is in one language, or mixes one with English (the way speakers of two languages do: sentence by sentence,
or a single phrase), or translates. No combination of a thing and its value, or of a person and an event, that a test
item or a few-shot example has ever occurs.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from align_pipeline.embedded.events import CATEGORY, TIMES, Choice, clause, sentence, someone, story
from align_pipeline.embedded.grammar import NAMES, Language, language
from align_pipeline.embedded.world import FACTS, Fact, Passage, facts, said, values

# As conf/task/xcopa.yaml has them, for the languages of XCOPA; English effects read "hence" in scoring prompts.
CHOICE_CODES = ("eng", "ind", "ita", "swh", "tur", "spa")
Draw = Callable[[], Language]
Say = Callable[[Language], str]


def briefly(answer: str) -> str:
    """Its last word: what answers is then said at once, not after an article that any answer could have."""
    return answer.split()[-1]


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Attributes:
        languages: share of the documents' main language.
        kinds: share of each kind of document.
        batch: tokens in a step at most, padding included.
        tokens: after how many tokens it ends at the latest, padding included.
        enough: share of answers right, a running mean, at which it ends before.
        blocks: how many of the model's blocks run; those above them are not there yet. None: all.
        frozen: how many of them, from below, stay as they are.
        answer: how much an answer counts in the loss: a letter, or the first token of what stands in its place.
    """

    languages: Mapping[str, float]
    kinds: Mapping[str, float]
    batch: int
    tokens: float = float("inf")
    enough: float = float("inf")
    blocks: int | None = None
    frozen: int = 0
    answer: float = 10.0


@dataclass(frozen=True)
class CorpusConfig:
    """What the training text is made of.

    Attributes:
        stages: by name, in their order; the last one has no end.
        mixed: how much of a language's task documents and prose is mixed with English, by language.
    """

    stages: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    mixed: Mapping[str, float] = field(default_factory=dict)

    def last(self) -> CorpusConfig:
        """Its last stage alone."""
        name, stage = [*self.stages.items()][-1]
        return replace(self, stages={name: stage})


class Author:
    """Writes documents."""

    def __init__(self, config: CorpusConfig, seed: int) -> None:
        self.config, self.rng = config, random.Random(f"corpus {seed}")
        self.stages = [Stage(**stage) for stage in config.stages.values()]
        self.stage = self.stages[-1]

    def documents(self) -> Iterator[tuple[str, str]]:
        """(main language, document), for ever; a stage's kind of document is the name of the method that writes it."""
        while True:
            code, kind = (
                self.rng.choices(tuple(shares), tuple(shares.values()))[0]
                for shares in (self.stage.languages, self.stage.kinds)
            )
            if kind in ("translation", "dictionary") and code == "eng":
                continue
            if kind == "choice" and code not in CHOICE_CODES:
                kind = "chain"
            yield code, getattr(self, kind)(self._speaker(code), code)

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

    def spelled(self, speaker: Draw, code: str) -> str:
        """The same with the answer in place of its letter, and some options or none: what is far is met near first."""
        return "\n\n".join(self._read(self.passage(), speaker, spelled=True) for _ in range(self.rng.randint(1, 6)))

    def quiz(self, speaker: Draw, code: str) -> str:
        """A passage whose values may recur, four values with letters, and question after question its letter.

        No question is asked twice, and any letter may be right again: no answer follows from other answers.
        """
        first = self._facts()
        shown = [fact.value for fact in first]
        told = {
            fact.entity: fact
            for _ in range(3)
            for fact in facts(self.rng, first[0].kind, self.rng.sample(shown, 4), "train") or first
        }
        chosen = self.rng.sample([*told.values()], min(len(told), self.rng.randint(4, 8)))
        lines = [f"P: {' '.join(self._statement(fact, speaker) for fact in chosen)}"]
        lines.append(self._lettered([said(first[0].kind, value, speaker()) for value in shown]))
        for fact in self.rng.sample(chosen, len(chosen)):
            lines.append(f"Q: {fact.question(speaker())}\nAnswer: {'ABCD'[shown.index(fact.value)]}")
        return "\n".join(lines)

    def naming(self, speaker: Draw, code: str) -> str:
        """Four names with letters, and for one name after another its letter."""
        shown = self.rng.sample(NAMES, 4)
        return self._matched([partial(str, name) for name in shown])

    def pairing(self, speaker: Draw, code: str) -> str:
        """Who goes with whom: pairs of names, over and over in another order."""
        names = self.rng.sample(NAMES, 2 * self.rng.choice((3, 4, 5)))
        pairs = [f"{a} {b}" for a, b in zip(names[::2], names[1::2], strict=True)]
        return "\n".join("; ".join(self.rng.sample(pairs, len(pairs))) for _ in range(self.rng.choice((3, 4, 5))))

    def matching(self, speaker: Draw, code: str) -> str:
        """The same with values of facts, each in the words of one language."""
        kind = self.rng.choice(tuple(FACTS))
        shown = self.rng.sample(values(kind), 4)

        def worded(value: str) -> str:
            return said(kind, value, speaker())

        return self._matched([partial(worded, value) for value in shown])

    def _matched(self, options: list[Callable[[], str]]) -> str:
        lines = [self._lettered([say() for say in options])]
        for index in (self.rng.randrange(4) for _ in range(self.rng.randint(4, 8))):
            lines.append(f"Q: {options[index]()}\nAnswer: {'ABCD'[index]}")
        return "\n".join(lines)

    def _lettered(self, options: list[str]) -> str:
        return "\n".join(f"{letter}: {option}" for letter, option in zip("ABCD", options, strict=True))

    def _read(self, passage: Passage, speaker: Draw, spelled: bool = False) -> str:
        others = [index for index in range(4) if index != passage.asked]
        # An easier question says less: what it asks for is then easily found.
        left_out = self.rng.sample(others, self.rng.choice((0, 0, 0, 1, 2, 3)))
        text = " ".join(
            self._statement(fact, speaker) for index, fact in enumerate(passage.facts) if index not in left_out
        )
        lines = [f"P: {text}", f"Q: {passage.question(speaker())}"]
        word = briefly(passage.facts[passage.asked].answer(speaker()))
        options = self._lettered([passage.facts[index].answer(speaker()) for index in passage.options])
        if spelled:
            lines += [*options.split("\n")[: self.rng.randint(0, 4)], f"Answer: {word}"]
        else:
            lines += [options, f"Answer: {'ABCD'[passage.gold]}"]
        return "\n".join(lines)

    def plain(self, speaker: Draw, code: str) -> str:
        """Passages, each with questions and their answers in running text, now and then with a gloss."""
        return "\n\n".join(self._answered(speaker) for _ in range(self.rng.randint(1, 4)))

    def _answered(self, speaker: Draw) -> str:
        chosen = self._facts(self.rng.choice((2, 3, 4)))
        text = " ".join(self._statement(fact, speaker) for fact in chosen)
        asked = self.rng.sample(chosen, self.rng.randint(1, len(chosen)))
        glossed = self.rng.random() < 0.5
        return f"{text} " + "\n".join(
            f"{fact.question(speaker())} {self._answer(fact, speaker, glossed)}" for fact in asked
        )

    def _answer(self, fact: Fact, speaker: Draw, glossed: bool) -> str:
        lang, other = speaker(), speaker()
        gloss = f" ({fact.answer(other)})" if glossed and other is not lang else ""
        return (briefly(fact.answer(lang)) if self.rng.random() < 0.7 else fact.answer(lang)) + gloss

    def list(self, speaker: Draw, code: str) -> str:
        """Who goes with what, listed over and over in another order, each list in one language, some value first."""
        chosen = {
            fact.entity: fact
            for _ in range(self.rng.choice((1, 2)))
            for fact in self._facts(self.rng.choice((2, 3, 4)))
        }
        lines = []
        for _ in range(self.rng.choice((3, 4, 5))):
            lang, backwards = speaker(), self.rng.random() < 0.3
            entries = []
            for fact in self.rng.sample([*chosen.values()], len(chosen)):
                pair = [self._entity(fact, lang), fact.answer(lang)]
                entries.append(" ".join(pair[::-1] if backwards else pair))
            lines.append("; ".join(entries))
        return "\n".join(lines)

    def _entity(self, fact: Fact, lang: Language) -> str:
        return lang.noun("things", fact.entity).text if fact.kind == "place" else fact.entity

    def retelling(self, speaker: Draw, code: str) -> str:
        """What is or happened, told again in another order, each telling in one language.

        Facts are repeated; of events, the causes are told first and the effects after them.
        """
        if self.rng.random() < 0.6:
            chosen = self._facts(self.rng.choice((3, 4)))
            tellings: list[list[Say]] = [[fact.statement for fact in chosen] for _ in range(self.rng.choice((2, 3)))]
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

    def _happened(self, event: str, side: str, name: str, time: str = "") -> Say:
        return lambda lang: lang.statement(clause(lang, event, side, name, time))

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
        item = Choice(event=event, name=name, time=self.rng.choice(TIMES), options=(event, event), asked=asked)
        host, other = speaker(), speaker()
        connector = host.connector(asked)
        if host.code == "eng" and asked == "effect" and not capital:
            connector = "hence"
        option = item.answers(other)[0]
        return f"{item.text(host)[:-1]} {connector} {option if capital else option[0].lower() + option[1:]}"

    def story(self, speaker: Draw, code: str) -> str:
        """XStoryCloze's scoring prompt with examples."""
        return "\n\n".join(self._told(speaker) for _ in range(self.rng.randint(1, 6)))

    def _told(self, speaker: Draw) -> str:
        event, name = self.event()
        item = story(self.rng, event, name, (event, event))
        sentences = [item.sentences(speaker())[index] for index in range(4)]
        return " ".join([*sentences, item.answers(speaker())[0]])

    def chain(self, speaker: Draw, code: str) -> str:
        """What happened to people and what came of it, each told once or twice."""
        told = []
        for _ in range(self.rng.randint(2, 6)):
            event, name = self.event()
            sides = self.rng.choice((("cause", "effect"), ("effect", "cause"), ("cause", "effect", "cause")))
            told += [(speaker(), self._happened(event, side, name, self.rng.choice(TIMES))) for side in sides]
        return " ".join(say(lang) for lang, say in told)

    # ---- prose and translation

    def prose(self, speaker: Draw, code: str) -> str:
        """Sentences."""
        drawn = [(speaker(), sentence(self.rng, "train")) for _ in range(self.rng.randint(3, 8))]
        return " ".join(one.text(lang) for lang, one in drawn)

    def translation(self, speaker: Draw, code: str) -> str:
        """Sentences and their translations, in one direction."""
        sides = [language("eng"), language(code)]
        self.rng.shuffle(sides)
        texts = [self._meaning() for _ in range(self.rng.randint(1, 6))]
        return "\n\n".join(
            "\n".join(f"{side.lexicon['language']['name']}: {text(side)}" for side in sides) for text in texts
        )

    def _meaning(self) -> Say:
        drawn = self.rng.random()
        if drawn < 0.4:
            return sentence(self.rng, "train").text
        if drawn < 0.6:
            return self._facts(1)[0].statement
        event, name = self.event()
        return self._happened(event, self.rng.choice(("cause", "effect")), name, self.rng.choice(TIMES))

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
