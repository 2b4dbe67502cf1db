"""Bootstrap intervals over clusters, and values at a best layer that was chosen on other items."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from align_pipeline.inference.arrays import Bundle, ratio

RESAMPLES = 1000
SPLITS = 20
MIN_CLUSTERS = 10
"""With fewer clusters a bootstrap interval is too short to be shown."""
Floats = NDArray[np.float64]


def weights(cluster: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> NDArray[np.float32]:
    """Item counts of a bootstrap over clusters: [1 + B, N]; the first row is the data themselves, all 1."""
    clusters = int(cluster.max()) + 1
    drawn = rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=resamples)
    found: NDArray[np.float32] = np.concatenate([np.ones((1, len(cluster))), drawn[:, cluster]]).astype(np.float32)
    return found


def _sides(bundle: Bundle) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """[N, U] each: 1 for TS, the items that are right in English and in the language; 1 for TF, wrong in the latter."""
    transfer = bundle.english == 1
    return (transfer & (bundle.right == 1)).astype(np.float32), (transfer & (bundle.right == 0)).astype(np.float32)


def counts(
    bundle: Bundle, aligned: NDArray[np.float32], drawn: NDArray[np.float32]
) -> tuple[Floats, Floats, Floats, Floats]:
    """[1 + B, U] each: aligned and all items of TS (a), then of TF (b).

    Args:
        bundle: with the answers.
        aligned: [N, U], at one layer; NaN where there is no value.
        drawn: [1 + B, N], from `weights`.
    """
    present = ~np.isnan(aligned)
    value = np.where(present, aligned, 0).astype(np.float32)
    ts, tf = _sides(bundle)
    parts = (ts * value, ts * present, tf * value, tf * present)
    k_a, n_a, k_b, n_b = ((drawn @ part).astype(float) for part in parts)
    return k_a, n_a, k_b, n_b


def odds_ratio(k_a: Floats, n_a: Floats, k_b: Floats, n_b: Floats) -> Floats:
    """[1 + B]: log of the Mantel-Haenszel odds ratio over languages (the last axis); NaN where it does not exist."""
    n = n_a + n_b
    use = (n_a > 0) & (n_b > 0)
    scale = np.divide(1, n, out=np.zeros_like(n), where=use)
    up, down = (k_a * (n_b - k_b) * scale).sum(axis=-1), ((n_a - k_a) * k_b * scale).sum(axis=-1)
    ratio = np.divide(up, down, out=np.full(up.shape, np.nan), where=(up > 0) & (down > 0))
    found: Floats = np.log(ratio)
    return found


def difference(k_a: Floats, n_a: Floats, k_b: Floats, n_b: Floats) -> Floats:
    """Share aligned in a minus that in b; NaN if a group is empty."""
    return ratio(k_a, n_a) - ratio(k_b, n_b)


def interval(drawn: Floats, clusters: int) -> tuple[Floats, Floats]:
    """95% percentile interval of [1 + B, ...] values, the data's first; NaN if too few resamples have a value."""
    none = np.full(drawn.shape[1:], np.nan)
    if clusters < MIN_CLUSTERS or len(drawn) < 2:
        return none, none
    rest, enough = _resampled(drawn)
    low, high = np.where(enough, np.nanpercentile(rest, [2.5, 97.5], axis=0), none)
    return low, high


def error(drawn: Floats) -> Floats:
    """Standard deviation over the resamples of [1 + B, ...] values; NaN if fewer than 95% of them exist."""
    rest, enough = _resampled(drawn)
    found: Floats = np.where(enough, np.nanstd(rest, axis=0), np.nan)
    return found


def _resampled(drawn: Floats) -> tuple[Floats, NDArray[np.bool_]]:
    """[B, ...], the values without the data's, and [...], where 95% of them exist; 0 elsewhere."""
    enough = (~np.isnan(drawn[1:])).mean(axis=0) >= 0.95
    return np.where(enough, drawn[1:], 0), enough


def clustered(values: Floats, influence: Floats, cluster: NDArray[np.int64]) -> tuple[Floats, Floats, Floats]:
    """95% intervals and two-sided p of estimates with clustered errors (Liang and Zeger 1986), t with clusters - 1.

    Args:
        values: [K], the estimates.
        influence: [N, K], each item's contribution to each estimate's error, such as (x - mean) / n.
        cluster: [N], integers from 0 without gaps.

    Returns:
        [K] each; NaN for fewer than two clusters; p also if there is no variation.
    """
    count = int(cluster.max()) + 1
    if count < 2:
        none = np.full(len(values), np.nan)
        return none, none, none
    sums = np.zeros((count, influence.shape[1]))
    np.add.at(sums, cluster, influence)
    error = np.sqrt((sums**2).sum(axis=0) * count / (count - 1))
    t = stats.t(count - 1)
    reach = t.ppf(0.975) * error
    return values - reach, values + reach, 2 * t.sf(ratio(np.abs(values), error))


def halves(cluster: NDArray[np.int64], splits: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """[2S, N]: random halves of the clusters, as masks of items; each is followed by its complement."""
    clusters = int(cluster.max()) + 1
    masks = np.zeros((2 * splits, clusters), bool)
    for half in masks[::2]:
        half[rng.permutation(clusters)[: clusters // 2]] = True
    masks[1::2] = ~masks[::2]
    return masks[:, cluster]


def cross_fitted(bundle: Bundle, splits: int = SPLITS, seed: int = 0) -> tuple[Floats, Floats]:
    """Share aligned, and TS minus TF, at the best layer of one half of the clusters, computed on the other half.

    On the items that chose the layer, the maximum over layers is biased upwards; on other items it is not.

    Returns:
        [U] each, means over both directions of all splits; NaN if a language has too few clusters for two halves.
    """
    aligned = bundle.aligned[:, :, np.flatnonzero(bundle.inner)]
    masks = halves(bundle.cluster, splits, np.random.default_rng(seed))
    every = _shares(aligned, masks, np.float32(1))
    ts, tf = (_shares(aligned, masks, side[:, :, None]) for side in _sides(bundle))
    other = np.arange(len(masks)) ^ 1  # index of the complementary half
    at = (other[:, None], np.arange(len(bundle.units))[None], _best(every))
    return means(every[at]), means(ts[at] - tf[at])


def _shares(
    aligned: NDArray[np.floating], masks: NDArray[np.bool_], member: NDArray[np.float32] | np.float32
) -> Floats:
    """[S, U, K]: share aligned of the items of each mask [S, N] that count as `member`; NaN where there are none."""
    present = ~np.isnan(aligned)
    parts = (np.where(present, aligned, 0) * member, present * member)
    k, n = (
        np.einsum("sn,nuk->suk", masks.astype(np.float32), part.astype(np.float32), optimize=True).astype(float)
        for part in parts
    )
    return ratio(k, n)


def _best(shares: Floats) -> NDArray[np.int64]:
    """The last axis's index of the highest share; the lowest layer of ties, as in `tally`."""
    found: NDArray[np.int64] = np.where(np.isnan(shares), -1, shares).argmax(axis=-1)
    return found


def cross_fitted_items(aligned: NDArray[np.floating], masks: NDArray[np.bool_]) -> NDArray[np.float16]:
    """Each item's alignment at its language's best layer, which is chosen on the half of the items without it.

    Args:
        aligned: [N, U, K], 1 or 0, NaN where there is no value; the layers that may be chosen.
        masks: [2S, N], from `halves`.

    Returns:
        [N, U, S], 1 or 0, one for each split; NaN where there is no value, or none that chooses a layer.
    """
    shares = _shares(aligned, masks, np.float32(1))
    layer = _best(shares)
    chosen = np.isnan(shares).sum(axis=2) < shares.shape[2]
    found = np.full((*aligned.shape[:2], len(masks) // 2), np.nan, np.float16)
    for s in range(len(masks)):
        at = np.take_along_axis(aligned, layer[s][None, :, None], axis=2)[:, :, 0]
        counts = ~masks[s][:, None] & chosen[s]
        found[:, :, s // 2] = np.where(counts, at, found[:, :, s // 2])
    return found


def means(values: Floats) -> Floats:
    """Means over the first axis, without missing values."""
    known = ~np.isnan(values)
    return ratio(np.where(known, values, 0).sum(axis=0), known.sum(axis=0))
