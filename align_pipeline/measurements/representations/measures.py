"""Measures of one layer's states of N parallel sentences; docs/method.md has formulas and sources.

E and X are the states of English and of the other language, [N, D] each, row i of one the translation of row i of the
other. Products are computed in float32 or better, sums in float64. A comparison is strict, so ties are never right.
States that are equal are made to tie exactly, whatever the rounding of a matrix product: in layer 0, sentences with the
same last token have the same state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from align_pipeline.engine.states import first_equal

NEIGHBOURS = 10
"""k of CSLS, hubness and the overlap of neighbourhoods; N - 1 if there are fewer sentences."""
SHUFFLES = 10
"""Shuffled pairings whose mean is CKA's chance level."""
_NONE = math.nan

Value = tuple[float, float]
"""A value and its chance level."""


def measures(english: Tensor, language: Tensor) -> dict[str, Value]:
    """All measures of a layer's hidden states, in the order of the table.

    Args:
        english, language: E and X, of any float dtype, on the same device.
    """
    e, x = centred(english), centred(language)
    twins_e, twins_x = first_equal(english), first_equal(language)
    unit_e, unit_x, unit_ce, unit_cx = (unit(states) for states in (english, language, e, x))
    raw, raw_t = both_ways(cosines(unit_e, unit_x, twins_e, twins_x))
    moved, moved_t = both_ways(cosines(unit_ce, unit_cx, twins_e, twins_x), 2)
    within_e = apart(cosines(unit_e, unit_e, twins_e, twins_e))
    within_x = apart(cosines(unit_x, unit_x, twins_x, twins_x))
    corrected, corrected_t = both_ways(csls(raw, raw_t), 2)
    by_chance = 1 / len(e)
    return {
        "cosine": cosine(unit_e, unit_x),
        "cosine_centred": cosine(unit_ce, unit_cx),
        "mexa": mexa(raw, raw_t),
        "mexa_centred": mexa(moved, moved_t),
        "cka": cka(e, x),
        "retrieval_en_xx": (found(raw), by_chance),
        "retrieval_xx_en": (found(raw_t), by_chance),
        "csls_en_xx": (found(corrected), by_chance),
        "csls_xx_en": (found(corrected_t), by_chance),
        "hubness_en_xx": hubness(raw),
        "hubness_xx_en": hubness(raw_t),
        "anisotropy": (cosine(unit_x, unit_x)[1], _NONE),
        "anisotropy_english": (cosine(unit_e, unit_e)[1], _NONE),
        "neighbours": overlap(within_e, within_x),
        "neurons": neurons(e, x),
        "margin": margin(raw, raw_t),
        "margin_centred": margin(moved, moved_t),
        "neurons_absolute": neurons_absolute(e, x),
        "ilo": bridge(within_x, raw_t),
    }


def active_measures(english: Tensor, language: Tensor) -> dict[str, Value]:
    """The measures of a layer's neuron states [N, F], `engine.pooling.ACTIVE`."""
    twins_e, twins_x = first_equal(english), first_equal(language)
    unit_e, unit_x = unit(english), unit(language)
    return {
        "neuronxa": mexa(*both_ways(cosines(unit_e, unit_x, twins_e, twins_x), 2)),
        "neuron_overlap": cosine(unit_e, unit_x),
    }


# ---- states


def centred(states: Tensor) -> Tensor:
    """States [N, D] minus their mean, in float32.

    A dimension with only one value becomes exactly 0, because float64 holds its sum without rounding.
    """
    exact = states.double()
    return (exact - exact.mean(dim=0)).float()


def unit(states: Tensor) -> Tensor:
    """States [N, D] of length 1, in float32; a zero vector stays zero, so that its cosines are 0."""
    states = states.float()
    lengths = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
    return torch.where(lengths > 0, states / lengths, 0.0)


# ---- cosines and their order


def cosines(a: Tensor, b: Tensor, twins_a: Tensor, twins_b: Tensor) -> Tensor:
    """[N, N] of states from `unit`; `twins_a` and `twins_b`, from `first_equal`, make equal states tie."""
    s = a @ b.T
    order = torch.arange(len(s), device=s.device)
    s = s if torch.equal(twins_a, order) else s[twins_a]
    return s if torch.equal(twins_b, order) else s[:, twins_b]


@dataclass(frozen=True)
class Ranked:
    """Scores [N, M], the largest of each row in descending order [N, at least 2 if M > 1], and the first's column."""

    scores: Tensor
    best: Tensor
    closest: Tensor

    @property
    def sure(self) -> Tensor:
        """[N]: whether no other column has the row's largest score."""
        return (self.best[:, 0] > self.best[:, 1]) if self.best.shape[1] > 1 else self.best[:, 0] == self.best[:, 0]


def ranked(scores: Tensor, most: int | None = None) -> Ranked:
    """Sort the `most` largest scores of each row; None: as many as any measure needs. At least two, if there are."""
    most = max(_k(scores), 2) if most is None else most
    best = scores.topk(min(most, scores.shape[1]), dim=1)
    return Ranked(scores, best.values, best.indices[:, 0])


def both_ways(scores: Tensor, most: int | None = None) -> tuple[Ranked, Ranked]:
    """The rows of [N, N], and those of its transpose."""
    return ranked(scores, most), ranked(scores.T.contiguous(), most)


def apart(scores: Tensor) -> Ranked:
    """Cosines [N, N] within a side, where no text is its own neighbour."""
    return ranked(scores.clone().fill_diagonal_(-math.inf))


# ---- measures


def cosine(e: Tensor, x: Tensor) -> Value:
    """Mean cosine of translations, and of all pairs of different items; `e` and `x` are from `unit`.

    The sum over all pairs is the product of the two sums.
    """
    n = len(e)
    own = (e * x).sum(dim=-1, dtype=torch.float64)
    every = e.sum(dim=0, dtype=torch.float64) @ x.sum(dim=0, dtype=torch.float64)
    return own.mean().item(), ((every - own.sum()) / (n * (n - 1))).item() if n > 1 else _NONE


def mexa(s: Ranked, t: Ranked) -> Value:
    """Share of items whose cosine in s [N, N] is the largest of its row and column, and its mean over all shuffles
    without a fixed point: the pairs of different items that are each other's closest, divided by N (N - 1)."""
    n = len(s.scores)
    places = torch.arange(n, device=s.scores.device)
    mutual = (t.closest[s.closest] == places) & s.sure & t.sure[s.closest]
    own = mutual & (s.closest == places)
    return own.double().mean().item(), (mutual & ~own).sum().item() / (n * (n - 1)) if n > 1 else _NONE


def margin(s: Ranked, t: Ranked) -> Value:
    """Mean of each item's cosine minus the largest other one of its row and column, above 0 where `mexa` counts it, and
    the same of all pairs of different items."""
    n = len(s.scores)
    if n == 1:
        return _NONE, _NONE
    places = torch.arange(n, device=s.scores.device)
    in_row, in_column = (
        torch.where(side.closest[:, None] == places, side.best[:, 1:2], side.best[:, :1]) for side in (s, t)
    )
    margins = s.scores - torch.maximum(in_row, in_column.T)
    own, every = margins.diagonal().sum(dtype=torch.float64), margins.sum(dtype=torch.float64)
    return (own / n).item(), ((every - own) / (n * (n - 1))).item()


def found(s: Ranked) -> float:
    """Share of rows of [N, N] whose largest score is the one on the diagonal."""
    places = torch.arange(len(s.scores), device=s.scores.device)
    return ((s.closest == places) & s.sure).double().mean().item()


def csls(s: Ranked, t: Ranked) -> Tensor:
    """Cosines [N, N] corrected for hubs: twice the cosine minus both sides' mean cosine with their k closest."""
    row, column = (side.best[:, : _k(s.scores)].mean(dim=1) for side in (s, t))
    return 2 * s.scores - row[:, None] - column


def hubness(s: Ranked) -> Value:
    """Skewness over columns of the number of rows that have the column among their k closest; for independent random
    neighbours, that of a binomial count."""
    n, k = len(s.scores), _k(s.scores)
    occurrences = closest_k(s, k).sum(dim=0, dtype=torch.float64)
    off = occurrences - occurrences.mean()
    spread = off.square().mean()
    skew = (off**3).mean() / spread**1.5 if spread > 1e-10 else torch.tensor(_NONE)
    p = k / n
    return skew.item(), (1 - 2 * p) / math.sqrt(n * p * (1 - p)) if n > 1 else _NONE


def overlap(within_e: Ranked, within_x: Ranked) -> Value:
    """Share of a sentence's k closest in X that are its translation's k closest in E; arguments from `apart`."""
    n, k = len(within_e.scores), _k(within_e.scores)
    if n == 1:
        return _NONE, _NONE
    near_e, near_x = closest_k(within_e, k), closest_k(within_x, k)
    return ((near_e * near_x).sum(dtype=torch.float64) / (n * k)).item(), k / (n - 1)


def bridge(within_x: Ranked, t: Ranked) -> Value:
    """Share of sentences of X that have one of E among their k closest sentences of both languages, and the same
    without each sentence's own translation.

    Args:
        within_x: from `apart`.
        t: cosines of X with E.
    """
    n, k = len(t.scores), _k(t.scores)
    if n == 1:
        return _NONE, _NONE
    # Among the k closest of both: closer than the k-th closest of X alone.
    far = within_x.best[:, k - 1]
    others = torch.where(t.closest == torch.arange(n, device=far.device), t.best[:, 1], t.best[:, 0])
    return (t.best[:, 0] > far).double().mean().item(), (others > far).double().mean().item()


def closest_k(s: Ranked, k: int) -> Tensor:
    """[N, M] in float32: 1 for the k largest of each row, else 0. Columns that tie for the last places share them, so
    that the order of the sentences does not decide."""
    last = s.best[:, k - 1 : k]
    above, tied = (s.scores > last).float(), (s.scores == last).float()
    return above + tied * ((k - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True))


def _k(s: Tensor) -> int:
    return max(1, min(NEIGHBOURS, len(s) - 1))


def cka(e: Tensor, x: Tensor) -> Value:
    """Debiased linear CKA of centred states, and its mean over shuffled pairs."""
    if len(e) < 4:
        return _NONE, _NONE
    a, b = _u_centred(e), _u_centred(x)
    # Both have the factor 1 / (N (N - 3)) of the estimator, which the ratio does not.
    scale = ((a * a).sum() * (b * b).sum()).sqrt()
    if scale == 0:
        return _NONE, _NONE
    n, (order, steps) = len(e), _rotations(len(e))
    order = order.to(b.device)
    # In this order, a shuffle is a rotation of rows and columns: a part of the matrix repeated beside itself.
    a32, b32 = (side.float()[order][:, order] for side in (a, b))
    twice = b32.repeat(2, 2)
    shuffled = [(a32 * twice[k : k + n, k : k + n]).sum(dtype=torch.float64) for k in steps]
    return ((a * b).sum() / scale).item(), (torch.stack(shuffled).mean() / scale).item()


def _u_centred(states: Tensor) -> Tensor:
    """[N, N] in float64: the Gram matrix, centred so that products of two such matrices estimate HSIC without bias."""
    n = len(states)
    gram = (states @ states.T).double().fill_diagonal_(0)
    row = gram.sum(dim=1) / (n - 2)
    return (gram - row[:, None] - row + gram.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)


def _rotations(n: int) -> tuple[Tensor, list[int]]:
    """A fixed order of n sentences, and by how many places in it each shuffle moves them; fewer if there are fewer."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(n, generator=generator)
    return order, (torch.randperm(n - 1, generator=generator)[:SHUFFLES] + 1).tolist()


def neurons(e: Tensor, x: Tensor) -> Value:
    """Mean over dimensions of Pearson's correlation over sentences; `e` and `x` are centred.

    Dimensions without variance are left out. Over all shuffles without a fixed point, the mean is exactly
    -value / (N - 1): in a dimension, the other items' values sum to minus the item's own.
    """
    e, x = e.double(), x.double()
    lengths = torch.linalg.vector_norm(e, dim=0) * torch.linalg.vector_norm(x, dim=0)
    varies = lengths > 0
    if not varies.any():
        return _NONE, _NONE
    value = ((e * x).sum(dim=0)[varies] / lengths[varies]).mean().item()
    return value, -value / (len(e) - 1)


def neurons_absolute(e: Tensor, x: Tensor) -> Value:
    """Mean over dimensions of the absolute value of Pearson's correlation, and its mean over shuffled pairs.

    Unlike the mean of the correlations, it is not near 0 for unrelated sides.
    """
    e, x = (states / torch.linalg.vector_norm(states, dim=0) for states in (e, x))
    varies = torch.isfinite(e[0]) & torch.isfinite(x[0])
    if not varies.any():
        return _NONE, _NONE
    n, (order, steps) = len(e), _rotations(len(e))
    e, x = (states[order.to(e.device)][:, varies] for states in (e, x))
    twice = x.repeat(2, 1)
    value, *shuffled = [(e * twice[k : k + n]).sum(dim=0).abs().mean(dtype=torch.float64) for k in (0, *steps)]
    return value.item(), torch.stack(shuffled).mean().item()
