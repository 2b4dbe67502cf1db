"""A second checkpoint: the first one, trained on with an explicit alignment term at a middle layer.

Parallel texts of the train portion, written as METHOD's alignment texts, are run in English and in another language.
The term asks that an option's last-token state at that layer be closer to its translation than to the other options
(cross entropy over the cosines of an item, both ways), and that a premise's weighted state, and the last-token state
that an answer is read from, be closer to their translations than to other items' (likewise over the items of a step).
The language-modelling loss goes on beside it.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from align_pipeline.embedded.corpus import CHOICE_CODES, Author
from align_pipeline.embedded.events import Choice, Story, distinct, story
from align_pipeline.embedded.grammar import Language, language
from align_pipeline.embedded.world import Passage, portion

Parallel = Passage | Choice | Story


def premise(item: Parallel, lang: Language) -> str:
    """What METHOD embeds for MEXA_T."""
    if isinstance(item, Passage):
        return f"{item.text(lang)} {item.question(lang)}"
    return item.text(lang) if isinstance(item, Choice) else " ".join(item.sentences(lang))


def context(item: Parallel, lang: Language) -> str:
    """What the options follow."""
    start = premise(item, lang)
    return f"{start[:-1]} {lang.connector(item.asked)}" if isinstance(item, Choice) else start


def options(item: Parallel, lang: Language) -> list[str]:
    """What METHOD embeds for DALI, one text per option."""
    return [f"{context(item, lang)} {answer}" for answer in item.answers(lang)]


class Parallels:
    """Draws items of the train portion; both events of a choice are the person's to train on."""

    def __init__(self, author: Author, seed: int) -> None:
        self.author, self.rng = author, random.Random(f"parallel {seed}")

    def items(self, code: str, count: int) -> list[Parallel]:
        """`count` items of one task, which the language must have."""
        kinds = ("passage", "choice", "story") if code in CHOICE_CODES else ("passage", "story")
        kind = self.rng.choice(kinds)
        if kind == "passage":  # in twos that differ in the question only
            drawn = [self.author.passage() for _ in range(count // 2)]
            return [Passage(p.facts, asked, p.options) for p in drawn for asked in (p.asked, (p.asked + 1) % 4)]
        return [self._choice() if kind == "choice" else self._story() for _ in range(2 * count)]

    def _events(self) -> tuple[str, str, str]:
        while True:
            first, name = self.author.event()
            second, _ = self.author.event()
            if portion(second, name) == "train" and distinct(first, second):
                return first, second, name

    def _choice(self) -> Choice:
        first, second, name = self._events()
        asked: Literal["cause", "effect"] = self.rng.choice(("cause", "effect"))
        return Choice(event=first, name=name, time="", options=(first, second), asked=asked)

    def _story(self) -> Story:
        first, second, name = self._events()
        return story(self.author.rng, first, name, (first, second))


def pooled(model: Any, tokenizer: Any, texts: Sequence[str], layer: int) -> tuple[Tensor, Tensor]:
    """Last-token and weighted states at a layer, each [texts, D]."""
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    lengths = torch.tensor([len(tokens) for tokens in encoded])
    batch = torch.zeros(len(encoded), int(lengths.max()), dtype=torch.long)
    for row, tokens in enumerate(encoded):
        batch[row, : len(tokens)] = torch.tensor(tokens)
    device = next(model.parameters()).device
    hidden = model(input_ids=batch.to(device), use_cache=False, output_hidden_states=True).hidden_states[layer]
    steps = torch.arange(1, batch.shape[1] + 1)
    weights = torch.where(steps <= lengths[:, None], steps, 0).float()
    weights = (weights / weights.sum(dim=1, keepdim=True)).to(device)
    return hidden[torch.arange(len(encoded)), lengths - 1], torch.einsum("bt,btd->bd", weights, hidden)


def term(model: Any, tokenizer: Any, items: Sequence[Parallel], code: str, layer: int, temperature: float) -> Tensor:
    """The alignment term of some parallel items in English and in another language."""
    sides = [language("eng"), language(code)]
    grouped = [[[*options(item, lang), premise(item, lang), context(item, lang)] for item in items] for lang in sides]
    n = len(grouped[0][0])
    texts = [text for side in grouped for group in side for text in group]
    last, weighted = (
        torch.nn.functional.normalize(states.reshape(2, len(items), n, -1), dim=-1)
        for states in pooled(model, tokenizer, texts, layer)
    )
    cross = torch.einsum("and,amd->anm", last[0, :, :-2], last[1, :, :-2]) / temperature
    premises = weighted[0, :, -2] @ weighted[1, :, -2].T / temperature
    contexts = last[0, :, -1] @ last[1, :, -1].T / temperature
    return _both_ways(cross) + _global(cross) + 0.5 * _both_ways(torch.stack([premises, contexts]))


def _both_ways(scores: Tensor) -> Tensor:
    """Cross entropy of the diagonal of [a, n, n] among its row and among its column."""
    target = torch.arange(scores.shape[-1], device=scores.device).repeat(len(scores))
    rows = torch.nn.functional.cross_entropy(scores.flatten(0, 1), target)
    columns = torch.nn.functional.cross_entropy(scores.transpose(1, 2).flatten(0, 1), target)
    return (rows + columns) / 2


def _global(scores: Tensor) -> Tensor:
    """DALI's global criterion made smooth: every own cosine above all others of the item."""
    own = scores.diagonal(dim1=1, dim2=2)
    other = scores.masked_fill(torch.eye(scores.shape[-1], dtype=torch.bool, device=scores.device), -torch.inf)
    return torch.nn.functional.softplus(-own.amin(dim=1) + other.flatten(1).logsumexp(dim=1)).mean()
