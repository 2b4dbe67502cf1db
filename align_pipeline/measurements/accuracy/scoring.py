"""Task accuracy: the answer is the option with the highest summed log-likelihood after a few-shot prompt."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jinja2 import TemplateError
from torch import Tensor

from align_pipeline.data.items import SHOT_SEPARATOR, Item
from align_pipeline.engine.forward import Advance, loglikelihoods
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError
from align_pipeline.measurements.accuracy.prediction import Prediction

log = logging.getLogger(__name__)

BLOCK = 512
"""Number of items whose prompts are in memory at once; prompts with few-shot examples are long."""


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
    """The model's outputs as named tensors for the cache; all other fields of `Prediction` come from the item."""
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
    """(context, continuation) tokens of each option, split as in lm-evaluation-harness.

    The whole text is tokenized and split after the number of tokens of the context alone. White space at the context's
    end moves to the continuation, because tokenizers join it to the next word.
    """
    item = templated(lm, item)
    context = item.prompt.rstrip()
    gap = item.prompt[len(context) :]
    context_tokens, *wholes = lm.encode([context, *(context + gap + option for option in item.continuations)])
    if not context_tokens:  # an empty prompt and a tokenizer without BOS: predict from the token that begins a text
        context_tokens, wholes = [_beginning(lm)], [[_beginning(lm), *whole] for whole in wholes]
    requests = []
    for whole in wholes:
        continuation = whole[len(context_tokens) :]
        # The last token is only predicted, not read, so a text may be one token longer than the model's context.
        read = lm.limit(whole[: len(whole) - bool(continuation)], f"The prompt of item {item.id}")
        requests.append((read[: len(read) - max(len(continuation) - 1, 0)], continuation))
    return requests


def _beginning(lm: LanguageModel) -> int:
    """The token that stands for an empty context, as in lm-evaluation-harness: BOS, or EOS where there is none.

    Raises:
        InputError: the tokenizer has neither.
    """
    tokenizer = lm.tokenizer
    found = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if found is None:
        raise InputError(f"The tokenizer of {lm.name} has neither BOS nor EOS; an empty prompt needs one of them.")
    return int(found)


def templated(lm: LanguageModel, item: Item) -> Item:
    """The item as the model reads it: with the chat template applied if ``model.chat_template`` is set.

    As in lm-evaluation-harness, each example is a turn of its own, and the answer is the assistant's turn, without the
    space that separates it in plain text. A description is the system's message, which some templates refuse.

    Raises:
        InputError: the template changes the prompt.
    """
    if not lm.chat:
        return item
    before = sum(len(question) + len(answer) + len(SHOT_SEPARATOR) for question, answer in item.shots)
    own = item.prompt[len(item.description) + before :]
    turns = [turn for question, answer in item.shots for turn in (("user", question), ("assistant", _bare(answer)))]
    turns = [*([("system", item.description)] if item.description else []), *turns, ("user", own)]
    prompt = _rendered(lm, [{"role": role, "content": content} for role, content in turns])
    at = prompt.rfind(own.strip())  # some templates strip messages
    if at < 0:
        raise InputError(f"The chat template of {lm.name} changes the prompt of item {item.id}.")
    behind = len(prompt) - (at - (len(own) - len(own.lstrip())) + len(own))
    parts = tuple((name, start - behind, end - behind) for name, start, end in item.parts)
    return replace(
        item, prompt=prompt, continuations=tuple(map(_bare, item.continuations)), parts=parts, shots=(), description=""
    )


def _rendered(lm: LanguageModel, messages: Sequence[Mapping[str, str]]) -> str:
    """The messages in the model's chat template; without the system's message, as in lm-evaluation-harness, where the
    template refuses it."""
    try:
        rendered: str = lm.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateError as error:
        turns = [message for message in messages if message["role"] != "system"]
        if len(turns) == len(messages):
            raise InputError(f"The chat template of {lm.name} cannot take the prompts: {error}.") from error
        _warn_of_system(lm.name)
        rendered = lm.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return rendered


@functools.cache
def _warn_of_system(name: str) -> None:
    said = "The chat template of %s takes no system message, so that prompts lack the task's description."
    log.warning(said, name)


def _bare(continuation: str) -> str:
    """A continuation without its separating space."""
    return continuation.removeprefix(" ")


def prediction(loglikelihoods: Sequence[float]) -> int:
    """Index of the most likely option; the first one of ties, as in lm-evaluation-harness."""
    return max(range(len(loglikelihoods)), key=lambda i: (loglikelihoods[i], -i))


def confidence(loglikelihoods: Sequence[float]) -> float:
    """The softmax over the options' log-likelihoods, at the most likely option."""
    best = max(loglikelihoods)
    return 1.0 / sum(math.exp(value - best) for value in loglikelihoods)
