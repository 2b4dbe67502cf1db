"""Affine maps of one language's activations towards English, learned from parallel sentences at one layer.

X and Y are the activations of n sentences in the language and in English, [n, D]; a bar is a mean over the sentences.

| map | map(h) | source |
|---|---|---|
| shift | h + Y_bar - X_bar | MRRE (arXiv 2511.23231) adds such a vector |
| linear | Y_bar + (h - X_bar) W, W: ridge regression of Y on X | INCLINE (arXiv 2410.12462), least squares |
| procrustes | Y_bar + (h - X_bar) R, R: orthogonal with the smallest squared error | Schönemann 1966 |
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

FOLDS = 5
GRID = tuple(10.0**power for power in range(-6, 5))
"""Strengths of the ridge penalty, in units of the mean non-zero eigenvalue of X's scatter matrix."""
_OPEN = 1e-9
"""Weight of the identity in `procrustes`, which decides only what the pairs leave open."""


@dataclass(frozen=True)
class Affine:
    """h -> target + (h - centre) F1 F2 ..., plus (h - centre) if `keeps`.

    Attributes:
        centre, target: float64 [D].
        factors: matrices whose product is applied; none: the identity.
        keeps: whether the identity is added to the product.
        penalty: of a ridge regression, chosen by cross-validation; else 0.
        explained: of a ridge regression, 1 - squared error / variance of Y on the held-out sentences; else nan.
    """

    centre: Tensor
    target: Tensor
    factors: tuple[Tensor, ...] = ()
    keeps: bool = False
    penalty: float = 0.0
    explained: float = float("nan")

    def __call__(self, h: Tensor) -> Tensor:
        """Map activations, [..., D], to float64."""
        centred = h.double() - self.centre
        moved = centred
        for factor in self.factors:
            moved = moved @ factor
        return self.target + moved + (centred if self.keeps else 0)


def learn(names: Sequence[str], x: Tensor, y: Tensor, seed: int) -> dict[str, Affine]:
    """The maps of these names (shift, linear, procrustes, linear_shuffled, procrustes_shuffled).

    Args:
        names: of the maps.
        x: activations of the sentences in the language, [n, D].
        y: of the same sentences in English, [n, D].
        seed: of folds and shuffled pairs.
    """
    x, y = x.double(), y.double()
    sides = {"": y, "_shuffled": y[shuffled(len(x), seed)]}
    found = {"shift": Affine(x.mean(0), y.mean(0))} if "shift" in names else {}
    wanted = [kind for kind in sides if "linear" + kind in names]
    if wanted:
        ridges = ridge(x, [sides[kind] for kind in wanted], seed)
        found |= {"linear" + kind: one for kind, one in zip(wanted, ridges, strict=True)}
    return found | {
        "procrustes" + kind: procrustes(x, side) for kind, side in sides.items() if "procrustes" + kind in names
    }


def shuffled(count: int, seed: int) -> Tensor:
    """For each sentence, the index of another one: a random cycle, so that none keeps its translation."""
    order = _permutation(count, f"{seed}/shuffled")
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def folds(count: int, seed: int) -> Tensor:
    """The fold of each sentence in cross-validation, of about equal sizes; int64 [count]."""
    return _permutation(count, f"{seed}/folds") % FOLDS


def _permutation(count: int, seed: str) -> Tensor:
    return torch.tensor(random.Random(seed).sample(range(count), count))


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean, and the activations without it.

    All are equal at the embedding of a token that ends every sentence; what rounding leaves is not a direction.
    """
    centre = x.mean(0)
    centred = x - centre
    return centre, centred if centred.norm() > 1e-10 * x.norm() else torch.zeros_like(x)


def ridge(x: Tensor, targets: Sequence[Tensor], seed: int) -> list[Affine]:
    """Ridge regressions with intercept of several targets on the same activations.

    Each has the penalty of `GRID` with the smallest squared error on held-out sentences, summed over the folds. A fold
    costs one singular value decomposition X - X_bar = U S V', for all penalties and targets: W = V S / (S^2 + penalty)
    U' (Y - Y_bar).

    Args:
        x: float64 [n, D].
        targets: float64 [n, D] each.
        seed: of the folds.
    """
    fold = folds(len(x), seed)
    scale = float(_centred(x)[1].square().sum()) / min(len(x) - 1, x.shape[1])
    penalties = [scale * one for one in GRID]
    errors = torch.zeros(len(targets), len(GRID), dtype=torch.float64)
    total = torch.zeros(len(targets), dtype=torch.float64)
    for number in range(FOLDS):
        held = fold == number
        parts = _Decomposed(x[~held])
        scores = parts.scores(x[held])
        for k, y in enumerate(targets):
            loadings, mean = parts.loadings(y[~held])
            total[k] += (y[held] - mean).square().sum()
            for p, penalty in enumerate(penalties):
                guess = mean + (scores * parts.gains(penalty)) @ loadings
                errors[k, p] += (y[held] - guess).square().sum()
    parts, found = _Decomposed(x), []
    for k, y in enumerate(targets):
        best = int(errors[k].argmin())
        loadings, mean = parts.loadings(y)
        factors = (parts.v * parts.gains(penalties[best]), loadings)
        explained = 1 - float(errors[k, best] / total[k]) if total[k] > 0 else float("nan")
        found.append(Affine(parts.centre, mean, factors, penalty=penalties[best], explained=explained))
    return found


class _Decomposed:
    """Centred activations as U S V'."""

    def __init__(self, x: Tensor) -> None:
        self.centre, centred = _centred(x)
        self.u, self.s, vt = torch.linalg.svd(centred, full_matrices=False)
        self.v = vt.T

    def scores(self, x: Tensor) -> Tensor:
        scores: Tensor = (x - self.centre) @ self.v
        return scores

    def loadings(self, y: Tensor) -> tuple[Tensor, Tensor]:
        mean = y.mean(0)
        loadings: Tensor = self.u.T @ (y - mean)
        return loadings, mean

    def gains(self, penalty: float) -> Tensor:
        return self.s / (self.s.square() + penalty) if penalty > 0 else torch.zeros_like(self.s)


def procrustes(x: Tensor, y: Tensor) -> Affine:
    """The orthogonal map (rotation or reflection) between the centred clouds.

    Fewer sentences than dimensions leave part of the map open; of all best maps, this is the one nearest to the
    identity. It then differs from the identity only in the space of the sentences, in which it is computed.

    Args:
        x: float64 [n, D].
        y: float64 [n, D].
    """
    (centre, a), (target, b) = _centred(x), _centred(y)
    if 2 * len(x) >= x.shape[1]:
        return Affine(centre, target, (_rotation(a, b),))
    basis = torch.linalg.qr(torch.cat([a, b]).T)[0]  # [D, 2n]
    rotation = _rotation(a @ basis, b @ basis)
    return Affine(centre, target, (basis, rotation - torch.eye(len(rotation), dtype=rotation.dtype), basis.T), True)


def _rotation(a: Tensor, b: Tensor) -> Tensor:
    cross = a.T @ b
    size = float(cross.norm())
    cross.diagonal().add_(_OPEN * size if size > 0 else 1.0)
    u, _, vt = torch.linalg.svd(cross)
    rotation: Tensor = u @ vt
    return rotation
