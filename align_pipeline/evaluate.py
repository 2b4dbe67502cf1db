"""Task accuracy: the option with the highest summed log-likelihood after a few-shot prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from align_pipeline.forward import Advance, loglikelihoods
from align_pipeline.model import LanguageModel, Tokens
from align_pipeline.records import Item, Prediction

BLOCK = 512
"""Items whose prompts are in memory at once: with their examples they are long."""


def predict(lm: LanguageModel, items: Sequence[Item], batch_tokens: int | None, advance: Advance) -> list[Prediction]:
    """Score every option of every item after its prompt.

    Raises:
        InputError: a prompt is too long for the model, or a log-likelihood is not finite.
    """
    blocks = [items[start : start + BLOCK] for start in range(0, len(items), BLOCK)]
    return [found for block in blocks for found in _predict(lm, block, batch_tokens, advance)]


def _predict(lm: LanguageModel, items: Sequence[Item], batch_tokens: int | None, advance: Advance) -> list[Prediction]:
    scored = [encode_options(lm, item) for item in items]
    requests = [request for item_requests in scored for request in item_requests]
    values = iter(loglikelihoods(lm, requests, batch_tokens, advance))
    premises = lm.encode([item.premise for item in items])
    return [
        Prediction(
            item_id=item.id,
            gold=item.gold,
            loglikelihoods=tuple(next(values) for _ in item.continuations),
            lengths=_lengths(item),
            prompt_tokens=len(item_requests[0][0]),
            item_tokens=len(premise),
        )
        for item, item_requests, premise in zip(items, scored, premises, strict=True)
    ]


def to_tensors(predictions: Sequence[Prediction]) -> dict[str, Tensor]:
    """What a model gave, as named tensors for the cache; the rest of a `Prediction` is the item's."""
    return {
        "loglikelihoods": torch.tensor([p.loglikelihoods for p in predictions], dtype=torch.float64),
        "tokens": torch.tensor([(p.prompt_tokens, p.item_tokens) for p in predictions]),
    }


def from_tensors(items: Sequence[Item], tensors: Mapping[str, Tensor]) -> list[Prediction]:
    """The inverse of `to_tensors`, given the items."""
    rows = zip(items, tensors["loglikelihoods"].tolist(), tensors["tokens"].tolist(), strict=True)
    return [Prediction(i.id, i.gold, tuple(values), _lengths(i), *tokens) for i, values, tokens in rows]


def _lengths(item: Item) -> tuple[int, ...]:
    return tuple(len(option.strip().encode()) for option in item.continuations)


def encode_options(lm: LanguageModel, item: Item) -> list[tuple[Tokens, Tokens]]:
    """(context, continuation) tokens of each option, split as lm-evaluation-harness splits them.

    The whole text is tokenized and cut after as many tokens as the context alone has; white space at the context's end
    belongs to the continuation, as tokenizers join it to the next word.
    """
    context = item.prompt.rstrip()
    gap = item.prompt[len(context) :]
    context_tokens, *wholes = lm.encode([context, *(context + gap + option for option in item.continuations)])
    requests = []
    for whole in wholes:
        continuation = whole[len(context_tokens) :]
        # The last token is only predicted, never read, so a text may be one token longer than the model's context.
        read = lm.limit(whole[: len(whole) - bool(continuation)], f"The prompt of item {item.id}")
        requests.append((read[: len(read) - max(len(continuation) - 1, 0)], continuation))
    return requests


def prediction(loglikelihoods: Sequence[float]) -> int:
    """The most likely option; the first of equals, as in lm-evaluation-harness."""
    return max(range(len(loglikelihoods)), key=lambda i: (loglikelihoods[i], -i))


def confidence(loglikelihoods: Sequence[float]) -> float:
    """Softmax over the options' log-likelihoods, at the most likely one."""
    best = max(loglikelihoods)
    return 1.0 / sum(math.exp(value - best) for value in loglikelihoods)
