"""Language modelling: of sentences, of translations, and of a task's English answers."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from align_pipeline.errors import InputError
from align_pipeline.tune.objectives.base import Batch
from align_pipeline.tune.passes import Trainee

SIDES = ("english", "other", "both")


@dataclass(frozen=True)
class Sentences:
    """Predict every token of the sentences."""

    side: str = "english"
    """english, other or both."""
    weight: float = 1.0
    """Factor of the loss."""

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise InputError(f"side={self.side} does not exist; available: {', '.join(SIDES)}.")

    def loss(self, trainee: Trainee, batch: Batch) -> Tensor:
        """See `Objective`."""
        texts = [*(batch.english if self.side != "other" else ()), *(batch.other if self.side != "english" else ())]
        return trainee.next_token_loss(trainee.encode(texts), [1] * len(texts))


@dataclass(frozen=True)
class Translations:
    """Predict a sentence after its translation; every second micro-batch translates out of English."""

    weight: float = 1.0
    """Factor of the loss."""

    def loss(self, trainee: Trainee, batch: Batch) -> Tensor:
        """See `Objective`; only the tokens of the second sentence are predicted."""
        into = batch.number // 2 % 2 == 0  # of two objectives that take turns, one sees only even numbers
        prompts, texts = [], []
        for english, other, name in zip(batch.english, batch.other, batch.names, strict=True):
            sides = [("English", english), (name, other)]
            (source, given), (target, wanted) = sides[::-1] if into else sides
            prompts.append(f"{source}: {given}\n{target}:")
            texts.append(f"{prompts[-1]} {wanted}")
        starts = [len(tokens) for tokens in trainee.encode(prompts, 2)]
        return trainee.next_token_loss(trainee.encode(texts, 2), starts)


@dataclass(frozen=True)
class Answers:
    """Predict the right answer of the task's English examples, which are not part of its evaluated items."""

    uses_examples: ClassVar[bool] = True
    weight: float = 1.0
    """Factor of the loss."""
    max_length: int = 1024
    """Maximum length of a prompt with its answer, in tokens; the beginning of a longer text is cut off."""

    def loss(self, trainee: Trainee, batch: Batch) -> Tensor:
        """See `Objective`; as many examples as the batch has pairs, drawn by seed and number."""
        if not batch.examples:
            raise InputError(
                "The objective Answers needs a task that has English examples outside its evaluated items: task=xcopa "
                "or task=xstorycloze."
            )
        drawn = random.Random(f"{batch.seed}/answers/{batch.number}").choices(batch.examples, k=len(batch.english))
        texts, starts = [], []
        prompts = trainee.lm.encode([item.prompt for item in drawn])
        wholes = trainee.lm.encode([item.prompt + item.continuations[item.gold] for item in drawn])
        for prompt, whole in zip(prompts, wholes, strict=True):
            excess = max(0, len(whole) - self.max_length)
            texts.append(whole[excess:])
            starts.append(max(1, len(prompt) - excess))
        return trainee.next_token_loss(texts, starts)
