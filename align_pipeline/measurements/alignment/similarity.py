"""Reduce hidden states, batch by batch, to the cosines that the metrics need.

English states are kept in memory once per English set; a language's states only for one batch.
Notation (METHOD): E is English, X the other language, c_ij = cos(E_i, X_j) over an item's options,
s_ij = cos(E_i, X_j) over the premises of all items.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.data.items import Item
from align_pipeline.data.tasks.pairs import ItemSet, Pair
from align_pipeline.engine.forward import Advance, hidden_states
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.pooling import POOLINGS
from align_pipeline.engine.states import first_equal, pooled_states, shape_of

_EXCLUDED = -float("inf")
_BATCH = 64
"""Items whose kept states are compared at once."""


@dataclass(frozen=True)
class OptionCosines:
    """Cosines among an item's options, each [layers, items, n, n] in float32: E_i with X_j, within E, within X.

    Attributes:
        cross, english, language: between and within the item's own two versions.
        mismatched: [layers, items, K, n, n], the item's X options with the E options of K other items (`partners`).
    """

    cross: Tensor
    english: Tensor
    language: Tensor
    mismatched: Tensor


@dataclass(frozen=True)
class PremiseCosines:
    """Cosines among premises, each [layers, items] in float32.

    Attributes:
        own: s_ii.
        row: max_j s_ij, j != i: cosine of E_i with its closest other X.
        column: max_j s_ji, j != i: cosine of X_i with its closest other E.
        rivals: int32, number of j != i for which s_ij or s_ji is at least s_ii; i is aligned if it is 0.
        swapped: the probability that i counts as aligned after shuffling the X side: 1 / (N - 1) if X_i and the E of
            another item are strictly each other's closest, else 0; the mean over all shuffles without a fixed point.
    """

    own: Tensor
    row: Tensor
    column: Tensor
    rivals: Tensor
    swapped: Tensor


@dataclass(frozen=True)
class Similarities:
    """All cosines of one language that metrics need, by pooling, at layers 0 to L; items are in `Pair.ids` order."""

    options: dict[str, OptionCosines]
    premises: dict[str, PremiseCosines]

    def at(self, layers: Sequence[int]) -> Similarities:
        """Only these layers."""
        return Similarities.from_tensors({name: value[layers] for name, value in self.tensors().items()})

    def mismatched(self) -> Iterator[Similarities]:
        """The items' X options with the E options of another item, K times: the chance level of alignment."""
        for k, others in enumerate(partners(next(iter(self.options.values())).cross.shape[1])):
            yield Similarities(
                {
                    p: replace(c, cross=c.mismatched[:, :, k], english=c.english[:, others])
                    for p, c in self.options.items()
                },
                {},
            )

    def deranged(self) -> Iterator[Similarities]:
        """The items' X options reordered, in every way that leaves none in its place; see `derangements`."""
        n = next(iter(self.options.values())).cross.shape[-1]
        for order in derangements(n):
            yield Similarities(
                {
                    p: replace(c, cross=c.cross[..., order], language=c.language[..., order, :][..., order])
                    for p, c in self.options.items()
                },
                {},
            )

    def tensors(self) -> dict[str, Tensor]:
        """The cosines as named tensors, for the cache."""
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


MISMATCHES = 10
"""K: number of other items that an item's options are compared with, to estimate the chance level."""


def partners(n: int) -> Tensor:
    """[K, n]: for each item K other items, independent of model and language; K is smaller if there are fewer items.

    Each row is a permutation without a fixed point, and no two rows agree anywhere: rotations of one fixed order.
    """
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(n, generator=generator)
    shifts = torch.randperm(max(n - 1, 0), generator=generator)[:MISMATCHES] + 1
    found = torch.empty(len(shifts), n, dtype=torch.long)
    for row, shift in zip(found, shifts, strict=True):
        row[order] = order.roll(-int(shift))
    return found


def derangements(n: int) -> list[list[int]]:
    """All permutations of up to four options without a fixed point; for more options, the rotations."""
    if n > 4:
        return [[(i + shift) % n for i in range(n)] for shift in range(1, n)]
    return [list(order) for order in itertools.permutations(range(n)) if all(i != j for i, j in enumerate(order))]


@dataclass(frozen=True)
class EnglishStates:
    """Pooled states of an English set, kept for all languages paired with it; or of another side.

    Attributes:
        position: row of each item id.
        tokens: the texts' token ids, to detect equal texts.
        states: by pooling [layers, items, texts, D] in the model's dtype, on the model's device or in host memory; the
            texts of an item are its options, then its premise. Poolings other than `POOLINGS` have only the premise.
    """

    position: dict[str, int]
    tokens: list[list[Tokens]]
    states: dict[str, Tensor]

    def batches(self, ids: Sequence[str], device: torch.device) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """The states of items as `forward.hidden_states` gives them: indices in `ids`, and by pooling
        [layers, b, texts, D]. In the main process only, because a batch is given to one process."""
        for start in range(0, len(ids) if distributed.is_main() else 0, _BATCH):
            chosen = list(range(start, min(start + _BATCH, len(ids))))
            rows = [self.position[ids[index]] for index in chosen]
            yield chosen, {pooling: states[:, rows].to(device) for pooling, states in self.states.items()}


def english_states(
    lm: LanguageModel, english: ItemSet, batch_tokens: int | None, advance: Advance, also: Sequence[str] = ()
) -> EnglishStates:
    """Run an English set through the model; for errors see `forward.hidden_states`.

    Args:
        also: further poolings, of the premises alone.
    """
    tokens = text_tokens(lm, english.items)
    ids = [item.id for item in english.items]
    only = dict.fromkeys(also, -1)
    states = pooled_states(lm, tokens, ids, (*POOLINGS, *also), batch_tokens, advance, only)
    return EnglishStates({item_id: row for row, item_id in enumerate(ids)}, tokens, states)


def similarities(
    lm: LanguageModel,
    pair: Pair,
    english: EnglishStates,
    batch_tokens: int | None,
    advance: Advance,
    also: Sequence[str] = (),
    seen: Callable[[dict[str, Tensor], dict[str, Tensor]], None] | None = None,
    kept: EnglishStates | None = None,
) -> Similarities:
    """Run a language through the model and compute its cosines with English; for errors see `forward.hidden_states`.

    Args:
        lm: the model.
        pair: the language and its English side.
        english: the states of the English side.
        batch_tokens: see `forward.hidden_states`.
        advance: likewise.
        also: further poolings of the premises, which `english` has too.
        seen: called in the end with E's and X's premises by pooling, ``last`` and those of `also`, [layers, N, D].
        kept: the language's own states at all layers, if they were computed before; then nothing is run.

    One pass gives options and premises, both poolings and all layers. The premise is a prefix of the options, so it is
    almost free, and any metric can then be computed without another pass.
    """
    items = [own for own, _ in pair.items()]
    rows = [english.position[item_id] for item_id in pair.ids]
    tokens = text_tokens(lm, items) if kept is None else [kept.tokens[kept.position[i]] for i in pair.ids]
    english_tokens = [english.tokens[row] for row in rows]
    n = len(items[0].options)
    device = lm.device

    twins_e, twins_x = (option_twins(texts, n).to(device) for texts in (english_tokens, tokens))
    groups_e, groups_x = (equal_texts([texts[-1] for texts in side]).to(device) for side in (english_tokens, tokens))
    premises = {p: PremiseStream(english.states[p][:, rows, -1].to(device), groups_e, groups_x) for p in POOLINGS}
    others = partners(len(items))
    shape = (lm.num_layers + 1, len(items), n, n)
    shapes = dict.fromkeys(("cross", "english", "language"), shape) | {"mismatched": (*shape[:2], len(others), n, n)}
    blocks = {pooling: {name: torch.zeros(of, device=device) for name, of in shapes.items()} for pooling in POOLINGS}
    more = {}
    for pooling in also:
        (layers, *_, width), dtype = shape_of(lm, pooling, len(items), 1)
        more[pooling] = torch.zeros(layers, len(items), width, dtype=dtype, device=english.states[pooling].device)
    passes = (
        hidden_states(lm, tokens, pair.ids, range(lm.num_layers + 1), (*POOLINGS, *also), batch_tokens, advance)
        if kept is None
        else kept.batches(pair.ids, device)
    )
    for chosen, states in passes:
        for pooling, value in states.items():
            if pooling in more:
                more[pooling][:, chosen] = value[:, :, -1].to(more[pooling])
                continue
            premises[pooling].add(chosen, value[:, :, -1])
            if not n:
                continue
            x = value[:, :, :n].float()

            def e(of: Sequence[int], pooling: str = pooling) -> Tensor:
                return english.states[pooling][:, [rows[index] for index in of], :n].to(device).float()

            for name, part in option_cosines(e(chosen), x, twins_e[chosen], twins_x[chosen]).items():
                blocks[pooling][name][:, chosen] = part
            for k, other in enumerate(others[:, chosen].tolist()):
                cross = cross_cosines(e(other), x, twins_e[other], twins_x[chosen])
                blocks[pooling]["mismatched"][:, chosen, k] = cross
    finished = {pooling: stream.finish() for pooling, stream in premises.items()}
    if seen is not None:
        further = {pooling: distributed.filled(value) for pooling, value in more.items()}
        seen(
            {"last": premises["last"].english} | {pooling: english.states[pooling][:, rows, 0] for pooling in also},
            {"last": premises["last"].language} | further,
        )
    return Similarities(
        {
            p: OptionCosines(**{name: distributed.filled(part) for name, part in f.items()})
            for p, f in blocks.items()
            if n
        },
        finished,
    )


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
    """cos of every row of `a` [..., n, D] with every row of `b` [..., m, D], in float32; 0 if a vector is zero."""
    a, b = a.float(), b.float()
    return _over(a @ b.transpose(-1, -2), torch.linalg.vector_norm(a, dim=-1), torch.linalg.vector_norm(b, dim=-1))


def _over(dots: Tensor, norms_a: Tensor, norms_b: Tensor) -> Tensor:
    """Dot products [..., n, m] divided by the norms [..., n] and [..., m]; 0 where a norm is 0."""
    norms = norms_a[..., :, None] * norms_b[..., None, :]
    return torch.where(norms > 0, dots / norms, 0.0)


def _take(values: Tensor, first: Tensor, second: Tensor) -> Tensor:
    items = torch.arange(len(first), device=values.device)[:, None, None]
    return values[:, items, first[:, :, None], second[:, None, :]]


def cross_cosines(english: Tensor, language: Tensor, twins_e: Tensor, twins_x: Tensor) -> Tensor:
    """[layers, items, n, n]: cosines of E's options with X's only; arguments as in `option_cosines`."""
    return _take(cosines(english, language), twins_e, twins_x)


def option_cosines(english: Tensor, language: Tensor, twins_e: Tensor, twins_x: Tensor) -> dict[str, Tensor]:
    """Cosines among the options of a set of items: cross, english and language of `OptionCosines`.

    Args:
        english, language: [layers, items, n, D].
        twins_e, twins_x: [items, n], index of each option's first equal option. Equal texts share one entry, so that
            rounding cannot break their tie.
    """
    e, x = english.float(), language.float()
    within_e, within_x, cross = e @ e.transpose(-1, -2), x @ x.transpose(-1, -2), e @ x.transpose(-1, -2)
    norms_e, norms_x = (dots.diagonal(dim1=-2, dim2=-1).sqrt() for dots in (within_e, within_x))
    return {
        "cross": _take(_over(cross, norms_e, norms_x), twins_e, twins_x),
        "english": _take(_over(within_e, norms_e, norms_e), twins_e, twins_e),
        "language": _take(_over(within_x, norms_x, norms_x), twins_x, twins_x),
    }


class PremiseStream:
    """Collect X's premises from batches, then compute what MEXA needs of all s_ij, one layer at a time.

    Args:
        english: E's premises, [layers, N, D].
        groups_e, groups_x: [N], equal numbers for equal texts. Equal texts must tie exactly, despite rounding, so the
            entry of an equal text is set to the item's own. So must equal states: in layer 0, texts with the same last
            token have the same last state.
    """

    def __init__(self, english: Tensor, groups_e: Tensor, groups_x: Tensor) -> None:
        self.english, self.groups_e, self.groups_x = english, groups_e, groups_x
        self.language = torch.zeros_like(english)

    def add(self, chosen: Sequence[int], language: Tensor) -> None:
        """Add X's premises [layers, b, D] at the positions `chosen` of the N."""
        self.language[:, chosen] = language.to(self.language)

    def finish(self) -> PremiseCosines:
        """The cosines, after all premises were added; each premise was run in one of the processes."""
        distributed.filled(self.language)
        return self.cosines()

    def cosines(self) -> PremiseCosines:
        """The cosines, in a process that has all premises."""
        layers = [self._layer(e, x) for e, x in zip(self.english, self.language, strict=True)]
        return PremiseCosines(*(torch.stack(parts) for parts in zip(*layers, strict=True)))

    def _layer(self, e: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        """The fields of `PremiseCosines` for one layer's E and X, [N, D]."""
        s = cosines(e, x)
        n = len(s)
        own = s.diagonal().clone()
        twins_e, twins_x = (
            (texts[:, None] == texts) | (equal[:, None] == equal)
            for texts, equal in ((self.groups_e, first_equal(e)), (self.groups_x, first_equal(x)))
        )
        twin_e, twin_x = (twins.sum(dim=1) > 1 for twins in (twins_e, twins_x))
        row, column = (
            torch.where(twin, torch.maximum(best, own), best)
            for twin, best in (
                (twin_x, s.masked_fill(twins_x, _EXCLUDED).amax(dim=1)),
                (twin_e, s.masked_fill(twins_e, _EXCLUDED).amax(dim=0)),
            )
        )
        rivals = (s >= own[:, None]) | twins_x | (own[:, None] <= s.T) | twins_e
        highest_row, highest_column = s.amax(dim=1), s.amax(dim=0)
        sure_row, sure_column = (
            ((s == highest_row[:, None]).sum(dim=1) == 1) & ~twin_e,
            ((s == highest_column).sum(dim=0) == 1) & ~twin_x,
        )
        mutual = (s == highest_row[:, None]) & (s == highest_column) & sure_row[:, None] & sure_column
        mutual.fill_diagonal_(False)
        swapped = mutual.any(dim=0) / max(n - 1, 1)
        return own, row, column, (rivals.sum(dim=1) - 1).to(torch.int32), swapped.float()


def option_twins(texts: Sequence[Sequence[Tokens]], n: int) -> Tensor:
    """[items, n]: index of each option's first equal option."""
    return torch.tensor([[group.index(group[i]) for i in range(n)] for group in texts], dtype=torch.long)


def equal_texts(texts: Sequence[Tokens]) -> Tensor:
    """[N]: a number for each text, equal for equal texts."""
    seen: dict[tuple[int, ...], int] = {}
    return torch.tensor([seen.setdefault(tuple(text), len(seen)) for text in texts])
