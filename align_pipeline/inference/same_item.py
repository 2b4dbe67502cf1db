"""Among the languages of one item: are those in which it is aligned the ones in which it is answered right?

What an item brings along (its difficulty, its passage, whether English is right) is the same in all its languages and
falls out; what a language brings along has an effect of its own. Two forms: a linear one, whose effect is in points of
accuracy, and the conditional logistic regression, whose effect is an odds ratio.
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
"""Items whose languages differ, below which errors clustered by item mean little."""
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Effect:
    """Of being aligned, on being right.

    Attributes:
        value: points of accuracy (0 to 1), or log odds.
        low, high: 95% interval.
        p: two-sided.
        n: answers; items, clusters: behind them.
        note: why there is none; "" if there is.
    """

    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan
    n: int = 0
    items: int = 0
    clusters: int = 0
    note: str = ""


@dataclass(frozen=True)
class Answers:
    """Answers in long form, of items that have at least two languages.

    Attributes:
        y: [R], right.
        x: [R], aligned at the language's best layer.
        item, language, cluster: [R], whole numbers from 0.
    """

    y: Floats
    x: Floats
    item: NDArray[np.int64]
    language: NDArray[np.int64]
    cluster: NDArray[np.int64]

    @classmethod
    def of(cls, bundle: Bundle, varying: bool) -> Answers:
        """Of a bundle; with `varying`, only of items that are right in some and wrong in other languages."""
        known = ~np.isnan(bundle.right) & ~np.isnan(bundle.at_best)
        right = np.where(known, bundle.right, 0).sum(axis=1)
        kept = known.sum(axis=1) > 1
        if varying:
            kept &= (right > 0) & (right < known.sum(axis=1))
        item, language = np.nonzero(known & kept[:, None])
        codes = [np.unique(values, return_inverse=True)[1] for values in (item, language, bundle.cluster[item])]
        return cls(bundle.right[item, language].astype(float), bundle.at_best[item, language].astype(float), *codes)

    def missing(self) -> str:
        """Why the question cannot be asked of them; "" if it can."""
        if not len(self.y) or self.language.max() == 0:
            return "fewer than two languages have answers to the same items"
        within = np.bincount(self.item, self.x) / np.bincount(self.item)
        varies = (within > 0) & (within < 1)
        right = np.bincount(self.item, self.y) / np.bincount(self.item)
        if (varies & (right > 0) & (right < 1)).sum() < MIN_ITEMS:
            return f"fewer than {MIN_ITEMS} items differ between languages both in alignment and in being right"
        return ""


def linear(bundle: Bundle) -> Effect:
    """Item and language fixed effects; errors clustered by the jackknife, t with clusters - 1 degrees of freedom.

    The jackknife over clusters (CR3; MacKinnon, Nielsen and Webb 2023) holds its level with as few as 20 passages,
    where Liang and Zeger's errors are too small. The slope without a cluster moves by its score over (1 - its share of
    x'x).
    """
    data = Answers.of(bundle, varying=False)
    if reason := data.missing():
        return Effect(note=f"not defined, because {reason}")
    languages = int(data.language.max()) + 1
    dummies = np.eye(languages)[data.language][:, 1:]
    both = np.column_stack([data.y, data.x, dummies])
    counts = np.bincount(data.item)[:, None]
    means = np.stack([np.bincount(data.item, column) for column in both.T], axis=1) / counts
    both -= means[data.item]
    rest = both[:, :2] - both[:, 2:] @ np.linalg.lstsq(both[:, 2:], both[:, :2], rcond=None)[0]
    y, x = rest.T
    size = float(x @ x)
    clusters = int(data.cluster.max()) + 1
    if size < 1e-8 * len(x):
        return Effect(note="not defined, because item and language together fully determine alignment")
    slope = float(x @ y) / size
    weight = np.bincount(data.cluster, x * x) / size
    scores = np.bincount(data.cluster, x * (y - slope * x)) / (1 - np.minimum(weight, 0.99))
    error = np.sqrt((scores**2).sum() * (clusters - 1) / clusters) / size
    t = stats.t(clusters - 1)
    reach = t.ppf(0.975) * error
    p = float(2 * t.sf(abs(slope) / error)) if error else np.nan
    return Effect(slope, slope - reach, slope + reach, p, len(y), int(data.item.max()) + 1, clusters)


def conditional_logit(bundle: Bundle) -> Effect:
    """Conditional logistic regression, a stratum per item and an effect per language; errors clustered (sandwich)."""
    data = Answers.of(bundle, varying=True)
    if reason := data.missing():
        return Effect(note=f"not defined, because {reason}")
    languages = int(data.language.max()) + 1
    design = np.column_stack([data.x, np.eye(languages)[data.language][:, 1:]])
    fit = fit_conditional(data.y, design, data.item, data.cluster)
    if fit is None:
        return Effect(note="not defined, because the regression does not converge (languages separate the answers)")
    value, error = fit
    clusters = int(data.cluster.max()) + 1
    t = stats.t(clusters - 1)
    reach, p = t.ppf(0.975) * error, float(2 * t.sf(abs(value) / error))
    return Effect(value, value - reach, value + reach, p, len(data.y), int(data.item.max()) + 1, clusters)


def fit_conditional(
    y: Floats, design: Floats, stratum: NDArray[np.int64], cluster: NDArray[np.int64]
) -> tuple[float, float] | None:
    """The first coefficient of a conditional logistic regression, and its clustered standard error (jackknife, nearly).

    The likelihood of a stratum is that of which of its rows are right, given how many are (Breslow and Day 1980).
    statsmodels' `ConditionalLogit` has the same optimum, from a recursion over each stratum in Python.

    Args:
        y: [R], 0 or 1.
        design: [R, P].
        stratum, cluster: [R], whole numbers from 0; a stratum lies within a cluster.

    Returns:
        log odds and their error; None if there is no finite optimum.
    """
    order = np.argsort(stratum, kind="stable")
    y, design, stratum, cluster = y[order], design[order], stratum[order], cluster[order]
    sizes = np.bincount(stratum)
    place = np.arange(len(y)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    table = np.full((len(sizes), sizes.max()), -1)
    table[stratum, place] = np.arange(len(y))
    right = np.bincount(stratum, y).astype(int)

    def gradient(beta: Floats) -> tuple[Floats, Floats]:
        """[P], and each row's probability of being right given how many of its stratum are."""
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
    # The row of the inverse information that belongs to the first coefficient, without forming the information: its
    # products with a vector are differences of gradients.
    small = 1e-5
    exact = sparse.LinearOperator(
        (len(beta), len(beta)),
        matvec=lambda v: (gradient(beta - small * v)[0] - gradient(beta + small * v)[0]) / (2 * small),
    )
    near = np.linalg.pinv(_information(design, probability, stratum), hermitian=True)
    first, failed = sparse.cg(exact, np.eye(len(beta))[0], x0=near[0], M=near, rtol=1e-5, maxiter=50)
    spread = probability * (1 - probability)
    scores = np.bincount(cluster, (y - probability) * (design @ first)).astype(float)
    weight = np.bincount(cluster, spread * (design @ first) * (design[:, 0] - _within(design[:, 0], spread, stratum)))
    scores = scores / (1 - np.clip(weight, 0, 0.99))
    clusters = len(scores)
    error = float(np.sqrt((scores**2).sum() * (clusters - 1) / clusters))
    return (float(beta[0]), error) if not failed and np.isfinite(error) and error > 0 else None


def _within(values: Floats, weights: Floats, stratum: NDArray[np.int64]) -> Floats:
    """Each row's weighted mean of its stratum."""
    total = np.bincount(stratum, weights)
    found: Floats = (np.bincount(stratum, values * weights) / np.maximum(total, 1e-12))[stratum]
    return found


def _information(design: Floats, probability: Floats, stratum: NDArray[np.int64]) -> Floats:
    """[P, P]: the information nearly: the rows' covariance given the stratum's count, by Hajek's approximation."""
    spread = probability * (1 - probability)
    weighted = design * spread[:, None]
    starts = np.flatnonzero(np.diff(stratum, prepend=-1))
    sums, totals = np.add.reduceat(weighted, starts, axis=0), np.add.reduceat(spread, starts)
    found: Floats = design.T @ weighted - sums.T @ (sums / np.maximum(totals, 1e-12)[:, None])
    return found


def _inclusion(eta: Floats, right: NDArray[np.int64]) -> Floats:
    """[S, T]: each row's probability of being among the right ones of its stratum, given how many there are.

    Args:
        eta: [S, T], -inf where a stratum has fewer rows.
        right: [S], how many of its rows are right.
    """
    strata, width = eta.shape
    there = np.isfinite(eta)
    shift = np.where(there, eta, 0).sum(axis=1) / there.sum(axis=1)  # keeps the products of many weights in range
    weight = np.where(there, np.exp(np.where(there, eta, 0) - shift[:, None]), 0)
    most = int(right.max())
    # sums over choices of j among the first t rows, and among those from t on
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
    rest = right[:, None] - 1 - np.arange(most + 1)[None]  # how many the others take if j of the first t are chosen
    valid, index = rest >= 0, np.maximum(rest, 0)
    for t in range(width):
        others = np.where(valid, np.take_along_axis(last[t + 1], index, axis=1), 0)
        share[:, t] = weight[:, t] * (first[t] * others).sum(axis=1) / whole
    return share
