"""Measures of one layer's states of N parallel sentences; docs/method.md has formulas and sources.

E and X are the states of English and of the other language, [N, D] each, row i of one the translation of row i of the
other. Products are computed in float32 or better, sums in float64. A comparison is strict, so ties are never right.
States that are equal are made to tie exactly, whatever the rounding of a matrix product: in layer 0, sentences with the
same last token have the same state.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

NEIGHBOURS = 10
"""k of CSLS, hubness and the overlap of neighbourhoods; N - 1 if there are fewer sentences."""
SHUFFLES = 10
"""Shuffled pairings whose mean is CKA's chance level."""
_NONE = math.nan

Value = tuple[float, float]
"""A value and its chance level."""


def measures(english: Tensor, language: Tensor) -> dict[str, Value]:
    """All measures of a layer, in the order of `config.representations.REPRESENTATIONS`.

    Args:
        english, language: E and X, of any float dtype, on the same device.
    """
    e, x = centred(english), centred(language)
    twins_e, twins_x = first_equal(english), first_equal(language)

    def cosines(a: Tensor, b: Tensor, twins_a: Tensor, twins_b: Tensor) -> Tensor:
        return (a @ b.T)[twins_a][:, twins_b]

    unit_e, unit_x = unit(english), unit(language)
    raw, moved = (cosines(*pair, twins_e, twins_x) for pair in ((unit_e, unit_x), (unit(e), unit(x))))
    within_e, within_x = cosines(unit_e, unit_e, twins_e, twins_e), cosines(unit_x, unit_x, twins_x, twins_x)
    corrected = csls(raw)
    by_chance = 1 / len(e)
    return {
        "cosine": cosine(unit_e, unit_x),
        "cosine_centred": cosine(unit(e), unit(x)),
        "mexa": mexa(raw),
        "mexa_centred": mexa(moved),
        "cka": cka(e, x),
        "retrieval_en_xx": (found(raw), by_chance),
        "retrieval_xx_en": (found(raw.T), by_chance),
        "csls_en_xx": (found(corrected), by_chance),
        "csls_xx_en": (found(corrected.T), by_chance),
        "hubness_en_xx": hubness(raw),
        "hubness_xx_en": hubness(raw.T),
        "anisotropy": (cosine(unit_x, unit_x)[1], _NONE),
        "anisotropy_english": (cosine(unit_e, unit_e)[1], _NONE),
        "neighbours": overlap(within_e, within_x),
        "neurons": neurons(e, x),
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


def first_equal(states: Tensor) -> Tensor:
    """[N]: the first sentence whose state has the same bits."""
    bits = states.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[states.dtype.itemsize]).long()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (states.shape[1],), generator=generator) * 2 + 1
    hashes = (bits * weights.to(bits.device)).sum(dim=1)  # integers wrap around, so the sum is exact
    group = torch.unique(hashes, return_inverse=True)[1]
    order = torch.arange(len(states), device=states.device)
    return torch.full_like(order, len(states)).scatter_reduce(0, group, order, "amin")[group]


# ---- measures


def cosine(e: Tensor, x: Tensor) -> Value:
    """Mean cosine of translations, and of all pairs of different items; `e` and `x` are from `unit`.

    The sum over all pairs is the product of the two sums.
    """
    n = len(e)
    own = (e * x).sum(dim=-1, dtype=torch.float64)
    every = e.sum(dim=0, dtype=torch.float64) @ x.sum(dim=0, dtype=torch.float64)
    return own.mean().item(), ((every - own.sum()) / (n * (n - 1))).item() if n > 1 else _NONE


def mexa(s: Tensor) -> Value:
    """Share of items whose cosine in s [N, N] is the largest of its row and column, and its mean over all shuffles
    without a fixed point: the pairs of different items that are each other's closest, divided by N (N - 1)."""
    n = len(s)
    (to_x, sure_x), (to_e, sure_e) = _closest(s), _closest(s.T)
    places = torch.arange(n, device=s.device)
    mutual = (to_e[to_x] == places) & sure_x & sure_e[to_x]
    own = mutual & (to_x == places)
    return own.double().mean().item(), (mutual & ~own).sum().item() / (n * (n - 1)) if n > 1 else _NONE


def found(scores: Tensor) -> float:
    """Share of rows of [N, N] whose largest score is the one on the diagonal."""
    closest, sure = _closest(scores)
    return ((closest == torch.arange(len(scores), device=scores.device)) & sure).double().mean().item()


def _closest(scores: Tensor) -> tuple[Tensor, Tensor]:
    """[N] the column of each row's largest score, and whether no other column has it."""
    best = scores.topk(min(2, scores.shape[1]), dim=1)
    return best.indices[:, 0], (best.values[:, 0] > best.values[:, -1]) | (best.values.shape[1] == 1)


def csls(s: Tensor) -> Tensor:
    """Cosines [N, N] corrected for hubs: twice the cosine minus both sides' mean cosine with their k closest."""
    k = _k(s)
    row, column = (side.topk(k, dim=1).values.mean(dim=1) for side in (s, s.T))
    return 2 * s - row[:, None] - column


def hubness(s: Tensor) -> Value:
    """Skewness over columns of the number of rows that have the column among their k closest; for independent random
    neighbours, that of a binomial count."""
    n, k = len(s), _k(s)
    occurrences = closest_k(s, k).sum(dim=0)
    off = occurrences - occurrences.mean()
    spread = off.square().mean()
    skew = (off**3).mean() / spread**1.5 if spread > 1e-12 else torch.tensor(_NONE)
    p = k / n
    return skew.item(), (1 - 2 * p) / math.sqrt(n * p * (1 - p)) if n > 1 else _NONE


def overlap(within_e: Tensor, within_x: Tensor) -> Value:
    """Share of a sentence's k closest in X that are its translation's k closest in E; arguments: cosines [N, N]."""
    n, k = len(within_e), _k(within_e)
    if n == 1:
        return _NONE, _NONE
    itself = torch.eye(n, dtype=torch.bool, device=within_e.device)
    near_e, near_x = (closest_k(s.masked_fill(itself, -math.inf), k) for s in (within_e, within_x))
    return ((near_e * near_x).sum() / (n * k)).item(), k / (n - 1)


def closest_k(s: Tensor, k: int) -> Tensor:
    """[N, N] in float64: 1 for the k largest of each row, else 0. Columns that tie for the last places share them, so
    that the order of the sentences does not decide."""
    last = s.topk(k, dim=1).values[:, -1:]
    above, tied = (s > last).double(), (s == last).double()
    return above + tied * (k - above.sum(dim=1, keepdim=True)) / tied.sum(dim=1, keepdim=True)


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
    shuffled = [(a * b[order][:, order]).sum() for order in shuffles(len(e)).to(b.device)]
    return ((a * b).sum() / scale).item(), (torch.stack(shuffled).mean() / scale).item()


def _u_centred(states: Tensor) -> Tensor:
    """[N, N] in float64: the Gram matrix, centred so that products of two such matrices estimate HSIC without bias."""
    n = len(states)
    gram = (states @ states.T).double().fill_diagonal_(0)
    row = gram.sum(dim=1) / (n - 2)
    return (gram - row[:, None] - row + gram.sum() / ((n - 1) * (n - 2))).fill_diagonal_(0)


def shuffles(n: int) -> Tensor:
    """[S, n]: fixed permutations without a fixed point; fewer if there are fewer sentences. Rotations of one order."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(n, generator=generator)
    steps = torch.randperm(n - 1, generator=generator)[:SHUFFLES] + 1
    found = torch.empty(len(steps), n, dtype=torch.long)
    for row, step in zip(found, steps, strict=True):
        row[order] = order.roll(-int(step))
    return found


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
