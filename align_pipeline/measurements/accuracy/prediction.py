"""The model's answer to one item."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's answer to one item.

    Attributes:
        item_id: the item's id.
        gold: index of the right option, from 0.
        loglikelihoods: per option, the sum over its tokens of log p(token | all previous tokens), in nats.
        lengths: each option's length in UTF-8 bytes, without the separating space; `acc_norm` divides by it.
        prompt_tokens: number of tokens before the options, few-shot examples included.
        item_tokens: number of tokens of the premise, with BOS; X's divided by English's is the language's fertility.
    """

    item_id: str
    gold: int
    loglikelihoods: tuple[float, ...]
    lengths: tuple[int, ...]
    prompt_tokens: int
    item_tokens: int
