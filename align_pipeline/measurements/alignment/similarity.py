"""Hidden states -> the few cosines that the metrics need, while the states stream past.

English states are kept once per English set; a language's states live for one batch.
Notation (METHOD): E is English, X the other language, c_ij = cos(E_i, X_j) over an item's options,
s_ij = cos(E_i, X_j) over the premises of all items.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.data.items import Item
from align_pipeline.data.tasks.parallel import ItemSet, Pair
from align_pipeline.engine.forward import Advance, hidden_states
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.pooling import POOLINGS

_EXCLUDED = -float("inf")


@dataclass(frozen=True)
class OptionCosines:
    """Cosines among an item's options, each [layers, items, n, n] in float32: E_i with X_j, within E, within X."""

    cross: Tensor
    english: Tensor
    language: Tensor


@dataclass(frozen=True)
class PremiseCosines:
    """Cosines among premises, each [layers, items] in float32.

    Attributes:
        own: s_ii.
        row: max_j s_ij, j != i: E_i's best other X.
        column: max_j s_ji, j != i: X_i's best other E.
    """

    own: Tensor
    row: Tensor
    column: Tensor


@dataclass(frozen=True)
class Similarities:
    """All that the metrics need of one language, by pooling, at all layers 0 to L; item order is `Pair.ids`."""

    options: dict[str, OptionCosines]
    premises: dict[str, PremiseCosines]

    def at(self, layers: Sequence[int]) -> Similarities:
        """These layers alone."""
        return Similarities(
            {p: OptionCosines(c.cross[layers], c.english[layers], c.language[layers]) for p, c in self.options.items()},
            {p: PremiseCosines(c.own[layers], c.row[layers], c.column[layers]) for p, c in self.premises.items()},
        )

    def tensors(self) -> dict[str, Tensor]:
        """As named tensors, for the cache."""
        options = {f"options.{p}.{name}": value for p, c in self.options.items() for name, value in vars(c).items()}
        premises = {f"premises.{p}.{name}": value for p, c in self.premises.items() for name, value in vars(c).items()}
        return options | premises

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Similarities:
        """The inverse of `tensors`."""
        parts: dict[str, dict[str, dict[str, Tensor]]] = {"options": {}, "premises": {}}
        for key, value in tensors.items():
            kind, pooling, name = key.split(".")
            parts[kind].setdefault(pooling, {})[name] = value
        return cls(
            {pooling: OptionCosines(**found) for pooling, found in parts["options"].items()},
            {pooling: PremiseCosines(**found) for pooling, found in parts["premises"].items()},
        )


@dataclass(frozen=True)
class EnglishStates:
    """Pooled states of an English set, kept for all languages that are paired with it.

    Attributes:
        position: row of each item id.
        tokens: the texts' token ids, to tell equal texts.
        states: by pooling [layers, items, texts, D] in the model's dtype, on the model's device or in host memory; an
            item's texts are its options, then its premise.
    """

    position: dict[str, int]
    tokens: list[list[Tokens]]
    states: dict[str, Tensor]


def english_states(lm: LanguageModel, english: ItemSet, batch_tokens: int | None, advance: Advance) -> EnglishStates:
    """Run an English set through the model; see `forward.hidden_states` for the errors."""
    tokens = text_tokens(lm, english.items)
    ids = [item.id for item in english.items]
    shape = (lm.num_layers + 1, len(ids), len(tokens[0]), lm.width)
    home = _home(lm, math.prod(shape) * len(POOLINGS))
    kept = {pooling: torch.zeros(shape, dtype=lm.model.dtype, device=home) for pooling in POOLINGS}
    for chosen, states in hidden_states(lm, tokens, ids, _every(lm), POOLINGS, batch_tokens, advance):
        for pooling, value in states.items():
            kept[pooling][:, chosen] = value.to(kept[pooling].device)
    for states_of_all in kept.values():
        distributed.filled(states_of_all)
    return EnglishStates({item_id: row for row, item_id in enumerate(ids)}, tokens, kept)


def _home(lm: LanguageModel, numbers: int) -> torch.device:
    """Where so many numbers of the model's dtype are kept: on its device, unless they take a third of what is free."""
    fits = True
    if lm.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(lm.device)
        fits = numbers * lm.model.dtype.itemsize <= free / 3
    return lm.device if distributed.least(fits) else torch.device("cpu")


def similarities(
    lm: LanguageModel, pair: Pair, english: EnglishStates, batch_tokens: int | None, advance: Advance
) -> Similarities:
    """Run a language through the model and keep its cosines with English; `forward.hidden_states` has the errors.

    Options and premises, both poolings and all layers come out of one pass: a premise is where its options begin, so
    it costs next to nothing, and any metric can then be had without another pass.
    """
    by_id = pair.language.by_id()
    items = [by_id[item_id] for item_id in pair.ids]
    rows = [english.position[item_id] for item_id in pair.ids]
    tokens = text_tokens(lm, items)
    english_tokens = [english.tokens[row] for row in rows]
    n = len(items[0].options)
    device = lm.device

    twins_e, twins_x = (_option_twins(texts, n).to(device) for texts in (english_tokens, tokens))
    groups_e, groups_x = (_equal([texts[-1] for texts in side]).to(device) for side in (english_tokens, tokens))
    premises = {p: PremiseStream(english.states[p][:, rows, -1].to(device), groups_e, groups_x) for p in POOLINGS}
    shape = (lm.num_layers + 1, len(items), n, n)
    blocks = {
        pooling: {name: torch.zeros(shape, device=device) for name in ("cross", "english", "language")}
        for pooling in POOLINGS
    }
    for chosen, states in hidden_states(lm, tokens, pair.ids, _every(lm), POOLINGS, batch_tokens, advance):
        for pooling, value in states.items():
            premises[pooling].add(chosen, value[:, :, -1])
            if not n:
                continue
            e = english.states[pooling][:, [rows[index] for index in chosen], :n].to(device)
            found = option_cosines(e, value[:, :, :n], twins_e[chosen], twins_x[chosen])
            for name, part in vars(found).items():
                blocks[pooling][name][:, chosen] = part
    return Similarities(
        {
            p: OptionCosines(**{name: distributed.filled(part) for name, part in f.items()})
            for p, f in blocks.items()
            if n
        },
        {pooling: stream.finish() for pooling, stream in premises.items()},
    )


def _every(lm: LanguageModel) -> range:
    return range(lm.num_layers + 1)


def text_tokens(lm: LanguageModel, items: Sequence[Item]) -> list[list[Tokens]]:
    """Token ids of each item's texts: its options, then its premise.

    Raises:
        InputError: a text is too long for the model; names the item.
    """
    texts = [[*item.options, item.premise] for item in items]
    encoded = iter(lm.encode([text for group in texts for text in group]))
    return [
        [lm.limit(next(encoded), f"The text of item {item.id}") for _ in group]
        for item, group in zip(items, texts, strict=True)
    ]


# ---- cosines


def cosines(a: Tensor, b: Tensor) -> Tensor:
    """cos of every row of `a` [..., n, D] with every row of `b` [..., m, D], in float32; 0 where a vector is zero."""
    a, b = a.float(), b.float()
    return _over(a @ b.transpose(-1, -2), torch.linalg.vector_norm(a, dim=-1), torch.linalg.vector_norm(b, dim=-1))


def _over(dots: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Dot products [..., n, m] over the norms [..., n] and [..., m]; 0 where a norm is."""
    norms = norms_a[..., :, None] * norms_b[..., None, :]
    return torch.where(norms > 0, dots / norms, 0.0)


def option_cosines(english: Tensor, language: Tensor, twins_e: Tensor, twins_x: Tensor) -> OptionCosines:
    """Cosines among the options of some items.

    Args:
        english, language: [layers, items, n, D].
        twins_e, twins_x: [items, n], each option's first equal option: equal texts take one entry, so that rounding
            cannot break their tie.
    """

    def take(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
        items = torch.arange(len(first), device=values.device)[:, None, None]
        return values[:, items, first[:, :, None], second[:, None, :]]

    e, x = english.float(), language.float()
    within_e, within_x, cross = e @ e.transpose(-1, -2), x @ x.transpose(-1, -2), e @ x.transpose(-1, -2)
    norms_e, norms_x = (dots.diagonal(dim1=-2, dim2=-1).sqrt() for dots in (within_e, within_x))
    return OptionCosines(
        take(_over(cross, norms_e, norms_x), twins_e, twins_x),
        take(_over(within_e, norms_e, norms_e), twins_e, twins_e),
        take(_over(within_x, norms_x, norms_x), twins_x, twins_x),
    )


class PremiseStream:
    """Best other premise in both directions, from batches of X.

    Args:
        english: E's premises, [layers, N, D].
        groups_e, groups_x: [N], equal numbers for equal texts. An equal text ties with the own one exactly; rounding
            must not decide, so its entry is the own one's.
    """

    def __init__(self, english: Tensor, groups_e: Tensor, groups_x: Tensor) -> None:
        self.english, self.groups_e, self.groups_x = english, groups_e, groups_x
        shape = english.shape[:2]
        self.own, self.row, self.column = (
            torch.full(shape, _EXCLUDED, dtype=torch.float32, device=english.device) for _ in range(3)
        )

    def add(self, chosen: Sequence[int], language: Tensor) -> None:
        """Take in X's premises [layers, b, D] at the positions `chosen` of the N."""
        at = torch.tensor(chosen, device=self.english.device)
        same_e = self.groups_e[:, None] == self.groups_e[at]
        same_x = self.groups_x[:, None] == self.groups_x[at]
        for layer, (e, x) in enumerate(zip(self.english, language, strict=True)):  # a layer at a time bounds memory
            s = cosines(e, x)  # [N, b]
            self.own[layer, at] = s[at, torch.arange(len(at), device=at.device)]
            self.column[layer, at] = s.masked_fill(same_e, _EXCLUDED).amax(dim=0)
            self.row[layer] = torch.maximum(self.row[layer], s.masked_fill(same_x, _EXCLUDED).amax(dim=1))

    def finish(self) -> PremiseCosines:
        """The cosines, once every premise was added, each in one of the processes."""
        for found in (self.own, self.row, self.column):
            distributed.greatest(found)
        twin_e, twin_x = (g.bincount()[g] > 1 for g in (self.groups_e, self.groups_x))
        return PremiseCosines(
            self.own,
            torch.where(twin_x, torch.maximum(self.row, self.own), self.row),
            torch.where(twin_e, torch.maximum(self.column, self.own), self.column),
        )


def _option_twins(texts: Sequence[Sequence[Tokens]], n: int) -> Tensor:
    """[items, n]: each option's first equal option."""
    return torch.tensor([[group.index(group[i]) for i in range(n)] for group in texts], dtype=torch.long)


def _equal(texts: Sequence[Tokens]) -> Tensor:
    """[N]: a number for each text, equal for equal texts."""
    seen: dict[tuple[int, ...], int] = {}
    return torch.tensor([seen.setdefault(tuple(text), len(seen)) for text in texts])
