"""FLORES+ (NLLB Team 2022; OLDI): the same sentences in about 200 languages, translated in both directions."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from align_pipeline.config.lang import Language
from align_pipeline.data.items import ENGLISH, SHOT_SEPARATOR, Item
from align_pipeline.data.source import Row, Source
from align_pipeline.data.tasks.pairs import ItemSet, Pair
from align_pipeline.data.tasks.parallel import ParallelTask, texts_of
from align_pipeline.errors import InputError, is_whole

log = logging.getLogger(__name__)

DIRECTIONS = ("en-xx", "xx-en")


@dataclass(frozen=True)
class Translation:
    """One language's sentences in one direction.

    Attributes:
        direction: ``en-xx`` or ``xx-en``.
        language: X's FLORES code.
        target: FLORES code of the language to translate into.
        ids: item ids.
        sources: sentences to translate.
        references: human translations.
        prompts: few-shot examples and source; the model continues with a space and the translation.
        ending: text of a prompt after its source.
    """

    direction: str
    language: str
    target: str
    ids: tuple[str, ...]
    sources: tuple[str, ...]
    references: tuple[str, ...]
    prompts: tuple[str, ...]
    ending: str

    def prompt_of(self, index: int, source: str) -> tuple[str, int, int]:
        """The prompt with another source, and the start and end of that source in it, in characters."""
        before = self.prompts[index].removesuffix(self.sources[index] + self.ending)
        return before + source + self.ending, len(before), len(before) + len(source)


@dataclass(frozen=True)
class Flores(ParallelTask):
    """Translation; MEXA is also measured on its sentences."""

    direction: str = "both"
    """``en-xx``, ``xx-en`` or ``both``."""
    max_new_tokens: int = 256
    """Maximum length of a translation, in tokens; longer ones are cut off and counted."""
    resamples: int = 1000
    """Bootstrap resamples for the intervals of corpus scores; 0 for none."""

    columns: ClassVar[tuple[str, ...]] = ("id", "text")
    texts: ClassVar[tuple[str, ...]] = ("text",)
    offers: ClassVar[frozenset[str]] = frozenset({"sentences"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.direction not in (*DIRECTIONS, "both"):
            raise InputError(
                f"task.direction={self.direction} does not exist; available: {', '.join(DIRECTIONS)}, both."
            )
        if not is_whole(self.max_new_tokens, 1):
            raise InputError(f"task.max_new_tokens={self.max_new_tokens} is too small; use 1 or more.")
        if not is_whole(self.resamples, 0) or self.resamples == 1:
            raise InputError(
                f"task.resamples={self.resamples} gives no interval; use 2 or more, or 0 for no intervals."
            )

    @property
    def directions(self) -> tuple[str, ...]:
        """The requested directions."""
        return DIRECTIONS if self.direction == "both" else (self.direction,)

    def item(self, row: Row, config: str) -> Item:
        """See `ParallelTask.item`; a sentence is a premise without options."""
        (text,) = texts_of(row, ("text",))
        if "\n" in text:
            raise ValueError("text has more than one line.")
        return Item(str(row["id"]), options=(), premise=text, prompt="", continuations=(), gold=-1)

    def config_of(self, language: Language, present: Collection[str] | None) -> str | None:
        """See `ParallelTask.config_of`; version 2.0 renamed some configs, and local copies may use either name."""
        config = super().config_of(language, present)
        if config is None and present is not None and self.name in language.codes and language.flores in present:
            return language.flores
        return config

    def pairs(self, languages: Sequence[Language], source: Source) -> list[Pair]:
        """See `ParallelTask.pairs`; the benchmark is parallel, so every sentence must exist in every language.

        Raises:
            InputError: sentences are missing on one side.
        """
        pairs = super().pairs(languages, source)
        for pair in pairs:
            if pair.left_out:
                reasons = ", ".join(f"{number} {reason}" for reason, number in pair.left_out.items())
                raise InputError(
                    f"{self.dataset} ({self.split}) does not have the same sentences in {pair.language.language} "
                    f"({len(pair.language.items)}) and {pair.english.language} ({len(pair.english.items)}): {reasons}."
                )
        sides = {side.language: side for pair in pairs for side in (pair.english, pair.language)}
        for side in sides.values():
            _warn_of_repeated(side)
        return pairs

    def translations(
        self, pairs: Sequence[Pair], languages: Sequence[Language], source: Source
    ) -> dict[str, list[Translation]]:
        """The sentences to translate, by X's FLORES code, in the order of `directions`.

        Args:
            pairs: from `pairs`.
            languages: the same languages, for their names and configs.
            source: where the few-shot examples are read.

        Raises:
            InputError: the examples' split is not parallel, or too small.
        """
        present = source.configs(self.dataset)
        english = (
            self._read(source, str(self.pivot), self.fewshot_split)[: self.num_fewshot] if self.num_fewshot else []
        )
        if len(english) < self.num_fewshot:
            raise InputError(
                f"The split {self.fewshot_split} of {self.dataset} ({self.pivot}) has {len(english)} sentences, too "
                f"few for task.num_fewshot={self.num_fewshot}."
            )
        found = {}
        for pair, language in zip(pairs, languages, strict=True):
            config = self.config_of(language, present)
            assert config is not None, "supported() keeps only languages that the task has"
            shots = {x.id: x for x in self._read(source, config, self.fewshot_split)} if english else {}
            missing = next((shot.id for shot in english if shot.id not in shots), None)
            if missing is not None:
                raise InputError(f"{self.dataset} ({config}, {self.fewshot_split}) has no sentence {missing}.")
            examples = [(shot.premise, shots[shot.id].premise) for shot in english]
            found[language.flores] = [self._translation(d, pair, language, examples) for d in self.directions]
        return found

    def _translation(
        self, direction: str, pair: Pair, language: Language, examples: Iterable[tuple[str, str]]
    ) -> Translation:
        sides = [(other.premise, own.premise) for own, other in pair.items()]
        names = ("English", language.name)
        if direction == "xx-en":
            sides, examples, names = [s[::-1] for s in sides], [e[::-1] for e in examples], names[::-1]
        before, after = names
        beginning = "".join(f"{before}: {a}\n{after}: {b}{SHOT_SEPARATOR}" for a, b in examples)
        return Translation(
            direction=direction,
            language=language.flores,
            target=language.flores if direction == "en-xx" else ENGLISH,
            ids=pair.ids,
            sources=tuple(a for a, _ in sides),
            references=tuple(b for _, b in sides),
            prompts=tuple(f"{beginning}{before}: {a}\n{after}:" for a, _ in sides),
            ending=f"\n{after}:",
        )


def _warn_of_repeated(side: ItemSet) -> None:
    count = Counter(item.premise for item in side.items)
    repeated = [item.id for item in side.items if count[item.premise] > 1]
    if repeated:
        log.warning(
            "%s: %d sentences occur more than once (ids %s); MEXA counts such ties as not aligned.",
            side.language,
            len(repeated),
            ", ".join(repeated[:10]) + (", ..." if len(repeated) > 10 else ""),
        )
