"""Common code of the multiple-choice benchmarks: few-shot prompts and gold labels."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from align_pipeline.config.lang import Language
from align_pipeline.data.items import SHOT_SEPARATOR, Item
from align_pipeline.data.source import Source
from align_pipeline.data.tasks.parallel import ParallelTask
from align_pipeline.errors import InputError

# lm-evaluation-harness seeds each task's few-shot sampler with this value, whatever seed the user sets.
LM_EVAL_FEWSHOT_SEED = 1234


@dataclass(frozen=True)
class ChoiceTask(ParallelTask):
    """A multiple-choice benchmark."""

    fewshot: str = "fixed"
    """``fixed``: the first items of the split; ``lm_eval``: sampled as in lm-evaluation-harness."""

    offers: ClassVar[frozenset[str]] = frozenset({"options", "premises"})
    lm_eval_draws: ClassVar[bool] = True
    """Whether lm-evaluation-harness samples the task's examples at random; if not, it takes the first ones."""
    lm_eval_spare: ClassVar[int] = 0
    """How many unused examples it samples in addition; they advance its random generator."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.fewshot not in ("fixed", "lm_eval"):
            raise InputError(f"task.fewshot={self.fewshot} is not a sampler; use fixed or lm_eval.")

    def examples(self, language: Language, source: Source) -> list[Item]:
        """The English items that few-shot examples come from, zero-shot; none if they are evaluated themselves.

        Args:
            language: the language whose English side is read.
            source: where it is read.
        """
        if self.fewshot_split == self.split:
            return []
        return self._read(source, self.english_of(language)[1], self.fewshot_split)

    def _prompted(self, items: Sequence[Item], every: Sequence[Item], source: Source, config: str) -> Iterable[Item]:
        shots = every if self.fewshot_split == self.split else self._read(source, config, self.fewshot_split)
        return self._with_shots(items, shots, f"{self.dataset} ({config})")

    def _with_shots(self, items: Sequence[Item], pool: Sequence[Item], where: str) -> Iterable[Item]:
        """The items with few-shot examples before their prompts; an item is never an example for itself."""
        if self.num_fewshot == 0:
            return items
        # As in the harness, one example more than needed is drawn where the item itself may be among them.
        spare = max(int(self.split == self.fewshot_split), self.lm_eval_spare)
        if len(pool) < self.num_fewshot + spare:
            raise InputError(
                f"The split {self.fewshot_split} of {where} has {len(pool)} items, too few for "
                f"task.num_fewshot={self.num_fewshot}."
            )
        generator = random.Random(LM_EVAL_FEWSHOT_SEED)
        prompted = []
        for item in items:
            if self.fewshot == "lm_eval" and self.lm_eval_draws:
                drawn = generator.sample(list(pool), self.num_fewshot + spare)
            else:
                drawn = list(pool[: self.num_fewshot + 1])
            others = [shot for shot in drawn if self.split != self.fewshot_split or shot.id != item.id]
            shots = others[: self.num_fewshot]
            turns = tuple((shot.prompt, shot.continuations[shot.gold]) for shot in shots)
            prompt = SHOT_SEPARATOR.join([*(question + answer for question, answer in turns), item.prompt])
            prompted.append(dataclasses.replace(item, prompt=prompt, shots=turns))
        return prompted


def index_of(value: object, first: int, options: int, column: str) -> int:
    """A gold label as an index from 0.

    Raises:
        ValueError: the label is not one of the options.
    """
    try:
        index = int(str(value)) - first
    except ValueError:
        index = -1
    if not 0 <= index < options:
        raise ValueError(f"{column} is {value!r}, not one of {first} to {first + options - 1}.")
    return index
