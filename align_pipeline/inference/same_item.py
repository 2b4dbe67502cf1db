"""Within one item: is it answered right in the languages in which it is aligned?

Properties of the item (its difficulty, its passage, whether English is right) are the same in all languages and cancel
out; each language has its own effect. There are two forms: a linear model, whose effect is in points of accuracy, and a
conditional logistic regression, whose effect is an odds ratio.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import linalg as sparse

from align_pipeline.inference.arrays import Bundle

MAX_STEPS = 50
MIN_ITEMS = 20
"""Minimum number of items that vary over languages; with fewer, errors clustered by item are unreliable."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """The effect of alignment on correctness.

    Attributes:
        value: points of accuracy (0 to 1), or log odds.
        low, high: 95% interval.
        p: two-sided.
        n: number of answers; n_items, n_clusters: numbers of items and clusters behind them.
        note: the reason if there is no effect; "" if there is one.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    n: int = 0
    n_items: int = 0
    n_clusters: int = 0
    note: str = ""


@dataclass(frozen=True)
class Answers:
    """Answers in long form, for items with at least two languages.

    Attributes:
        y: [R], right.
        x: [R], aligned at the language's best layer.
        item, language, cluster: [R], integers from 0.
    """

    y: Floats
    x: Floats
    item: NDArray[np.int64]
    language: NDArray[np.int64]
    cluster: NDArray[np.int64]

    @classmethod
    def of(cls, bundle: Bundle, varying: bool) -> Answers:
        """Build from a bundle; with `varying`, only items that are right in some languages and wrong in others."""
        known = ~np.isnan(bundle.right) & ~np.isnan(bundle.at_best)
        right = np.where(known, bundle.right, 0).sum(axis=1)
        kept = known.sum(axis=1) > 1
        if varying:
            kept &= (right > 0) & (right < known.sum(axis=1))
        item, language = np.nonzero(known & kept[:, None])
        codes = [np.unique(values, return_inverse=True)[1] for values in (item, language, bundle.cluster[item])]
        return cls(bundle.right[item, language].astype(float), bundle.at_best[item, language].astype(float), *codes)

    def missing(self) -> str:
        """The reason why the question cannot be answered from these data; "" if it can."""
        if not len(self.y) or self.language.max() == 0:
            return "fewer than two languages have answers to the same items"
        if varying(self.item, self.x, self.y) < MIN_ITEMS:
            return f"fewer than {MIN_ITEMS} items differ between languages both in alignment and in being right"
        return ""


def varying(stratum: NDArray[np.int64], *values: NDArray[np.floating]) -> int:
    """The number of strata, integers from 0 without gaps, in which all of the values (0 or 1) vary."""
    shares = [np.bincount(stratum, value) / np.bincount(stratum) for value in values]
    return int(np.all([(share > 0) & (share < 1) for share in shares], axis=0).sum())


def linear(bundle: Bundle) -> Effect:
    """Item and language fixed effects, with cluster jackknife errors and t with clusters - 1 degrees of freedom.

    The jackknife over clusters (CR3; MacKinnon, Nielsen and Webb 2023) keeps its level with as few as 20 passages,
    where Liang and Zeger's errors are too small. Leaving out a cluster changes the slope by its score over
    (1 - its share of x'x).
    """
    data = Answers.of(bundle, varying=False)
    if reason := data.missing():
        return Effect(note=f"not defined, because {reason}")
    dummies = np.eye(int(data.language.max()) + 1)[data.language][:, 1:]
    fit = slope(data.y, data.x, data.item, dummies, data.cluster)
    if fit is None:
        return Effect(note="not defined, because item and language together fully determine alignment")
    return jackknife(*fit, n=len(data.y), items=int(data.item.max()) + 1)


def slope(
    y: Floats, x: Floats, stratum: NDArray[np.int64], others: Floats, cluster: NDArray[np.int64]
) -> tuple[float, Floats] | None:
    """Slope of y on x with an effect per stratum, given other columns.

    Args:
        y, x: [R].
        stratum, cluster: [R], integers from 0; strata without gaps.
        others: [R, P].

    Returns:
        the slope, and [clusters] by how much it changes when each cluster is left out (approximately: the projection on
        the other columns stays); None if x does not vary, given the rest.
    """
    both = np.column_stack([y, x, others])
    counts = np.bincount(stratum)[:, None]
    means = np.stack([np.bincount(stratum, column) for column in both.T], axis=1) / counts
    both -= means[stratum]
    rest = both[:, :2] - both[:, 2:] @ np.linalg.lstsq(both[:, 2:], both[:, :2], rcond=None)[0]
    y, x = rest.T
    size = float(x @ x)
    if size < 1e-8 * len(x):
        return None
    value = float(x @ y) / size
    weight = np.bincount(cluster, x * x) / size
    changes: Floats = np.bincount(cluster, x * (y - value * x)) / (1 - np.minimum(weight, 0.99)) / size
    return value, changes


def jackknife(value: float, changes: Floats, n: int, items: int) -> Effect:
    """An effect whose error is from its changes when a cluster is left out; t with clusters - 1 degrees of freedom."""
    clusters = len(changes)
    return _effect(value, np.sqrt((changes**2).sum() * (clusters - 1) / clusters), n, items, clusters)


def _effect(value: float, error: float, n: int, items: int, clusters: int) -> Effect:
    t = stats.t(clusters - 1)
    reach = t.ppf(0.975) * error
    p = float(2 * t.sf(abs(value) / error)) if error else np.nan
    return Effect(value, value - reach, value + reach, p, n, items, clusters)


def conditional_logit(bundle: Bundle) -> Effect:
    """Conditional logistic regression with an effect per language and items as strata; errors: `fit_conditional`."""
    data = Answers.of(bundle, varying=True)
    if reason := data.missing():
        return Effect(note=f"not defined, because {reason}")
    languages = int(data.language.max()) + 1
    design = np.column_stack([data.x, np.eye(languages)[data.language][:, 1:]])
    fit = fit_conditional(data.y, design, data.item, data.cluster)
    if fit is None:
        return Effect(note="not defined, because the regression does not converge (languages separate the answers)")
    return _effect(*fit, n=len(data.y), items=int(data.item.max()) + 1, clusters=int(data.cluster.max()) + 1)


def fit_conditional(
    y: Floats, design: Floats, stratum: NDArray[np.int64], cluster: NDArray[np.int64]
) -> tuple[float, float] | None:
    """First coefficient of a conditional logistic regression and its clustered standard error (approximate jackknife).

    The likelihood of a stratum is the probability of which rows are right, given how many are (Breslow and Day 1980).
    statsmodels' `ConditionalLogit` has the same optimum, but uses a recursion over each stratum in Python.

    Args:
        y: [R], 0 or 1.
        design: [R, P].
        stratum, cluster: [R], integers from 0; each stratum is inside one cluster.

    Returns:
        log odds and their standard error; None if there is no finite optimum.
    """
    order = np.argsort(stratum, kind="stable")
    y, design, stratum, cluster = y[order], design[order], stratum[order], cluster[order]
    sizes = np.bincount(stratum)
    place = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = np.full((len(sizes), sizes.max()), -1)
    table[stratum, place] = np.arange(len(y))
    right = np.bincount(stratum, y).astype(int)

    def gradient(beta: Floats) -> tuple[Floats, Floats]:
        """[P], and each row's probability of being right, given the number of right rows in its stratum."""
        probability = _inclusion(np.where(table >= 0, (design @ beta)[table], -np.inf), right)[stratum, place]
        return design.T @ (y - probability), probability

    beta = np.zeros(design.shape[1])
    slope, probability = gradient(beta)
    for _ in range(MAX_STEPS):
        step = np.linalg.lstsq(_information(design, probability, stratum), slope, rcond=None)[0]
        beta = beta + step * min(1, 2 / max(np.abs(step).max(), 1e-12))
        slope, probability = gradient(beta)
        if np.abs(slope).max() < 1e-6 * len(y):
            break
    if np.abs(slope).max() > 1e-5 * len(y) or np.abs(beta).max() > 15:
        return None
    # The first coefficient's row of the inverse information, without computing the information: its products with a
    # vector are differences of gradients.
    small = 1e-5
    exact = sparse.LinearOperator(
        (len(beta), len(beta)),
        matvec=lambda v: (gradient(beta - small * v)[0] - gradient(beta + small * v)[0]) / (2 * small),
    )
    near = np.linalg.pinv(_information(design, probability, stratum), hermitian=True)
    first, failed = sparse.cg(exact, np.eye(len(beta))[0], x0=near[0], M=near, rtol=1e-5, maxiter=50)
    spread = probability * (1 - probability)
    scores = np.bincount(cluster, (y - probability) * (design @ first)).astype(float)
    mean = np.bincount(stratum, design[:, 0] * spread) / np.maximum(np.bincount(stratum, spread), 1e-12)
    weight = np.bincount(cluster, spread * (design @ first) * (design[:, 0] - mean[stratum]))
    scores = scores / (1 - np.clip(weight, 0, 0.99))
    clusters = len(scores)
    error = float(np.sqrt((scores**2).sum() * (clusters - 1) / clusters))
    return (float(beta[0]), error) if not failed and np.isfinite(error) and error > 0 else None


def _information(design: Floats, probability: Floats, stratum: NDArray[np.int64]) -> Floats:
    """[P, P]: approximate information, from Hajek's approximation of the rows' covariance given the stratum's count."""
    spread = probability * (1 - probability)
    weighted = design * spread[:, None]
    starts = np.flatnonzero(np.diff(stratum, prepend=-1))
    sums, totals = np.add.reduceat(weighted, starts, axis=0), np.add.reduceat(spread, starts)
    found: Floats = design.T @ weighted - sums.T @ (sums / np.maximum(totals, 1e-12)[:, None])
    return found


def _inclusion(eta: Floats, right: NDArray[np.int64]) -> Floats:
    """[S, T]: each row's probability of being right, given the number of right rows in its stratum.

    Args:
        eta: [S, T], -inf as padding if a stratum has fewer rows.
        right: [S], number of right rows.
    """
    strata, width = eta.shape
    there = np.isfinite(eta)
    shift = np.where(there, eta, 0).sum(axis=1) / there.sum(axis=1)  # keeps products of many weights in range
    weight = np.where(there, np.exp(np.where(there, eta, 0) - shift[:, None]), 0)
    most = int(right.max())
    # sums over all choices of j rows among the first t, and among those from t on
    first = np.zeros((width + 1, strata, most + 1))
    last = np.zeros((width + 1, strata, most + 1))
    first[0, :, 0] = last[width, :, 0] = 1
    for t in range(width):
        first[t + 1] = first[t]
        first[t + 1, :, 1:] += weight[:, t, None] * first[t, :, :-1]
    for t in reversed(range(width)):
        last[t] = last[t + 1]
        last[t, :, 1:] += weight[:, t, None] * last[t + 1, :, :-1]
    whole = first[width, np.arange(strata), right]
    share = np.zeros((strata, width))
    rest = right[:, None] - 1 - np.arange(most + 1)[None]  # how many the others contribute if j of the first t do
    valid, index = rest >= 0, np.maximum(rest, 0)
    for t in range(width):
        others = np.where(valid, np.take_along_axis(last[t + 1], index, axis=1), 0)
        share[:, t] = weight[:, t] * (first[t] * others).sum(axis=1) / whole
    return share
