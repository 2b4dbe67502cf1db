"""The permutation test for all questions over items: the link between alignments and answers is permuted by cluster.

An item's alignments over all languages and layers stay together, and so do its answers over all languages and in
English. Only the assignment of answers to alignments is permuted, among clusters of equal size. The test therefore
assumes nothing about how items correlate over languages, layers and metrics. The statistic is the
Cochran-Mantel-Haenszel numerator (the aligned items among the right ones, minus their expectation) divided by its
cluster-robust standard error: permuting a studentized statistic keeps the level even if variances differ (DiCiccio and
Romano 2017). Whether there is an effect at any layer is tested by the largest |statistic| over layers, compared with
the same maximum in permuted data (max-T, Westfall and Young 1993).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from align_pipeline.inference.arrays import Bundle

PERMUTATIONS = 2000
MIN_CLUSTERS = 8
"""With fewer exchangeable clusters there are too few permutations for a test."""
TIES = 1e-4
"""Statistics that differ by less are equal: with few answers many permutations give the same one, and float32 sums over
items in another order differ by up to about 1e-5."""
Floats = NDArray[np.float32]


def permutations(cluster: NDArray[np.int64], count: int, rng: np.random.Generator) -> NDArray[np.int64] | None:
    """Random permutations that move whole clusters among clusters of equal size.

    Args:
        cluster: [N], integers from 0.
        count: number of permutations, B.
        rng: random generator.

    Returns:
        [B, N]: index of the item whose answers are assigned to item i's alignments; None if fewer than `MIN_CLUSTERS`
        clusters have another cluster of the same size.
    """
    members = np.argsort(cluster, kind="stable")
    sizes = np.bincount(cluster)
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    drawn = np.tile(np.arange(len(cluster)), (count, 1))
    movable = 0
    for size in np.unique(sizes):
        places = members[starts[sizes == size][:, None] + np.arange(size)]  # [clusters, size]
        if len(places) < 2:
            continue
        movable += len(places)
        order = rng.permuted(np.tile(np.arange(len(places)), (count, 1)), axis=1)
        drawn[:, places.ravel()] = places[order].reshape(count, -1)
    return drawn if movable >= MIN_CLUSTERS else None


@dataclass(frozen=True)
class Test:
    """Results of the permutation test, for U languages and K layers.

    Attributes:
        z: [U, K], each language's statistic at each layer, NaN where it does not exist.
        p: [U], two-sided, at each language's best layer.
        p_languages: [U], the same, adjusted over languages (max-T).
        p_somewhere: [U], of the largest |z| over the layers before the final norm.
        pooled_z: [K], over all languages.
        pooled_p_layer: [K], unadjusted.
        pooled_p_layers: [K], adjusted over layers (max-T).
        pooled_p_somewhere: of the largest |pooled_z|.
        best_z, best_p: over all languages, each at its best layer.
        strongest: index of the layer before the final norm with the largest |pooled_z|; -1 if there is none.
        critical: the 95% quantile of the permuted maximum of |pooled_z| over layers, for simultaneous intervals.
    """

    z: NDArray[np.float64]
    p: NDArray[np.float64]
    p_languages: NDArray[np.float64]
    p_somewhere: NDArray[np.float64]
    pooled_z: NDArray[np.float64]
    pooled_p_layer: NDArray[np.float64]
    pooled_p_layers: NDArray[np.float64]
    pooled_p_somewhere: float
    best_z: float
    best_p: float
    strongest: int
    critical: float


def counted(bundle: Bundle) -> NDArray[np.bool_]:
    """[N, U]: items that are right in English, with an answer and an alignment."""
    counts: NDArray[np.bool_] = ~np.isnan(bundle.right) & (bundle.english == 1)
    return counts & ~np.isnan(bundle.aligned).all(axis=2)


def residuals(bundle: Bundle) -> Floats:
    """[N, U]: answers minus their language's mean; 0 for items that `counted` excludes."""
    counts = counted(bundle)
    n = np.maximum(counts.sum(axis=0), 1)
    mean = np.where(counts, bundle.right, 0).sum(axis=0) / n
    found: Floats = np.where(counts, bundle.right - mean, 0).astype(np.float32)
    return found


def centred(aligned: Floats, counts: NDArray[np.bool_]) -> Floats:
    """Alignments minus their mean over the counted items; 0 where there is no alignment.

    Args:
        aligned: [N, U, ...].
        counts: [N, U].
    """
    present = ~np.isnan(aligned)
    weights = present & counts.reshape(counts.shape + (1,) * (aligned.ndim - 2))
    filled = np.where(present, aligned, 0)
    mean = (filled * weights).sum(axis=0) / np.maximum(weights.sum(axis=0), 1)
    found: Floats = np.where(present, aligned - mean, 0).astype(np.float32)
    return found


def run(bundle: Bundle, count: int = PERMUTATIONS, seed: int = 0, by_language: bool = True) -> Test | None:
    """Test TS against TF for one metric of one model and task; returns None if the clusters cannot be permuted.

    Args:
        bundle: the arrays.
        count: number of permutations.
        seed: of the permutations.
        by_language: whether to test each language separately too, which takes most of the time; otherwise NaN.
    """
    drawn = permutations(bundle.cluster, count, np.random.default_rng(seed))
    if drawn is None:
        return None
    order = np.argsort(bundle.cluster, kind="stable")  # clusters are contiguous, so that sums over them are reductions
    drawn = np.argsort(order)[drawn[:, order]]
    drawn = np.concatenate([np.arange(len(order))[None], drawn])  # the data come first and count as a permutation
    answers = residuals(bundle)[order]
    values = centred(bundle.aligned, counted(bundle))[order]
    starts = np.flatnonzero(np.diff(bundle.cluster[order], prepend=-1))
    z = np.full((len(drawn), len(bundle.units), len(bundle.layers)), np.nan, np.float32)
    pairs = _pairs(starts, len(order))
    for u in range(len(bundle.units) if by_language else 0):
        z[:, u] = _one(values[:, u], answers[:, u], drawn, *pairs)
    pooled = np.stack([_pooled(values[:, :, k], answers, drawn, starts) for k in range(len(bundle.layers))], axis=1)
    at_best = np.take_along_axis(values, bundle.best[None, :, None], axis=2)[:, :, 0]
    best = _pooled(at_best, answers, drawn, starts)
    own = np.take_along_axis(z, bundle.best[None, :, None], axis=2)[:, :, 0]  # [1 + B, U]
    inner = bundle.inner
    sizes = np.where(inner & ~np.isnan(pooled[0]), np.abs(pooled[0]), -1)
    of_all = np.nan_to_num(np.abs(pooled[:, inner])).max(axis=1)
    widest = np.nan_to_num(np.abs(z[:, :, inner])).max(axis=2)
    over_languages = np.nan_to_num(np.abs(own)).max(axis=1)
    return Test(
        z=z[0],
        p=p_values(own),
        p_languages=against(np.abs(own[0]), over_languages),
        p_somewhere=np.where(np.isnan(z[0][:, inner]).all(axis=1), np.nan, p_values(widest)),
        pooled_z=pooled[0],
        pooled_p_layer=p_values(pooled),
        pooled_p_layers=against(np.abs(pooled[0]), of_all),
        pooled_p_somewhere=float(p_values(of_all)) if not np.isnan(pooled[0][inner]).all() else np.nan,
        best_z=float(best[0]),
        best_p=float(p_values(best)),
        strongest=int(sizes.argmax()) if sizes.max() >= 0 else -1,
        critical=float(np.quantile(of_all, 0.95)),
    )


def p_values(statistics: NDArray[np.floating]) -> NDArray[np.float64]:
    """Two-sided p from [1 + B, ...] statistics, the observed ones first; they count as one of the permutations."""
    size = np.abs(np.nan_to_num(statistics, nan=0))
    p = (size >= size[0] - TIES).mean(axis=0)
    found: NDArray[np.float64] = np.where(np.isnan(statistics[0]), np.nan, p)
    return found


def against(size: NDArray[np.floating], largest: NDArray[np.floating]) -> NDArray[np.float64]:
    """p of each |statistic| in the distribution of [1 + B] maxima."""
    p = (largest[:, None] >= size.ravel()[None] - TIES).mean(axis=0).reshape(size.shape)
    found: NDArray[np.float64] = np.where(np.isnan(size), np.nan, p)
    return found


def _one(
    values: Floats, answers: Floats, drawn: NDArray[np.int64], first: NDArray[np.int64], second: NDArray[np.int64]
) -> Floats:
    """[1 + B, K]: the statistics of one language. values [N, K], answers [N], first and second from `_pairs`."""
    moved = answers[drawn]  # [1 + B, N]
    weight = np.where(first == second, 1, 2).astype(np.float32)[:, None]
    return _ratio(moved @ values, (moved[:, first] * moved[:, second]) @ (values[first] * values[second] * weight))


def _pairs(starts: NDArray[np.int64], n: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs i <= j of items of the same cluster; the square of a cluster's sum is a sum over its pairs."""
    ends = np.append(starts[1:], n)
    pairs = [
        np.triu_indices(end - start) + start * np.ones((2, 1), int) for start, end in zip(starts, ends, strict=True)
    ]
    both = np.concatenate(pairs, axis=1)
    return both[0], both[1]


def _pooled(values: Floats, answers: Floats, drawn: NDArray[np.int64], starts: NDArray[np.int64]) -> Floats:
    """[1 + B]: the statistic of all languages together. values, answers [N, U].

    G[i, j] is the sum over languages of item i's alignments times item j's answers, so that a permuted statistic only
    needs to look up these products.
    """
    products = values @ answers.T
    looked = np.take(products.ravel(), drawn + np.arange(len(values)) * len(values))
    sums = looked if len(starts) == len(values) else np.add.reduceat(looked, starts, axis=1)
    return _ratio(sums.sum(axis=1), np.einsum("bc,bc->b", sums, sums))


def _ratio(total: Floats, squares: Floats) -> Floats:
    found: Floats = np.full(total.shape, np.nan, np.float32)
    np.divide(total, np.sqrt(np.maximum(squares, 0)), out=found, where=squares > 1e-8)
    return found
