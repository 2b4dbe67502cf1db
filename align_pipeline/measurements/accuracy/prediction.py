"""TODO."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the model answered to one item.

    Attributes:
        item_id: the item's id.
        gold: index of the right option, from 0.
        loglikelihoods: sum over each option's tokens of log p(token | all before it), in nats.
        lengths: each option's length in UTF-8 bytes, separating space left out; `acc_norm` divides by it.
        prompt_tokens: tokens before the options, few-shot examples included.
        item_tokens: tokens of the premise, BOS included; X's over English's is the language's fertility.
    """

    item_id: str
    gold: int
    loglikelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    prompt_tokens: int
    item_tokens: int
