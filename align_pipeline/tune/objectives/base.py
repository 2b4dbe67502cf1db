"""The interface of an objective."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from align_pipeline.data.items import Item
from align_pipeline.tune.passes import Trainee


@dataclass(frozen=True)
class Batch:
    """One micro-batch.

    Attributes:
        number: of the micro-batch in the whole training, from 0.
        english, other: sentences; those of one index are translations of each other.
        names: English name of each pair's other language.
        examples: the task's English examples; empty without a task.
        seed: of the training, for what an objective draws.
    """

    number: int
    english: Sequence[str]
    other: Sequence[str]
    names: Sequence[str]
    examples: Sequence[Item] = ()
    seed: int = 0


class Objective(Protocol):
    """A loss of one micro-batch.

    A class that reads `Batch.examples` sets ``uses_examples: ClassVar[bool] = True``, so that a training with other
    examples is another training.
    """

    weight: float
    """Factor of the loss."""

    def loss(self, trainee: Trainee, batch: Batch) -> Tensor:
        """A scalar, in nats, not yet multiplied by the weight.

        Raises:
            InputError: the model or the batch lacks something that the objective needs.
        """
        ...
