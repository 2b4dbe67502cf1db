"""Which pivot predicts a language's accuracy best, and whether English leads.

A pivot's alignments predict accuracies as well as they correlate with them over languages (Pearson's r). Choosing the
best of P pivots is a choice, so that its p is that of the largest correlation of all P, with accuracies permuted over
languages (max-T, Westfall and Young 1993). English's lead is its correlation minus another pivot's, over the same
languages, the mean over all other pivots; its interval is that of the jackknife over languages (Efron and Stein 1981),
with n - 1 degrees of freedom.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.cluster.hierarchy import linkage

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.arrays import ratio
from align_pipeline.inference.items import adjusted, null_odds

Array = NDArray[np.float64]
ORDERS = 2000
MIN_LANGUAGES = 5
"""With fewer languages a correlation over all but one of them says nothing."""


@dataclass(frozen=True)
class Best:
    """How well each pivot's alignments predict accuracy, and English's lead; p values are two-sided, of P pivots.

    Attributes:
        pivots: [P].
        n: [P], languages; a pivot is not among its own.
        r: [P], Pearson; NaN where it is not defined.
        p: [P], adjusted for the choice among the pivots.
        leads: [P], English's r minus the pivot's over the same languages; NaN for English.
        lead, low, high: the mean of `leads` with its 95% interval; NaN if it is not defined.
        choice_p: one-sided p of the largest r of another pivot minus that of English: how often another pivot beats
            English by as much if, in each language, pivots are interchanged at random.
        note: why something is not defined.
    """

    pivots: tuple[str, ...]
    n: NDArray[np.int64]
    r: Array
    p: Array
    leads: Array
    lead: float = float("nan")
    low: float = float("nan")
    high: float = float("nan")
    choice_p: float = float("nan")
    note: str = ""

    @property
    def best(self) -> str:
        """The pivot with the highest r; "" if there is none."""
        return "" if np.isnan(self.r).all() else self.pivots[int(np.nanargmax(self.r))]

    @property
    def is_beaten(self) -> bool:
        """Whether another pivot has a higher r than English, over the same languages."""
        return bool((self.leads < 0).any())

    @property
    def verdict(self) -> str:
        """``leads``, ``trails`` or ``undecided``, about English."""
        return "leads" if self.low > 0 else "trails" if self.high < 0 else "undecided"


def layer_of(table: pd.DataFrame, last: int) -> int:
    """The layer to show: that before L with the highest mean share of aligned items over all pairs, the lowest of ties.

    It depends on no accuracy, so that it is no choice to be counted.

    Args:
        table: rows of one metric.
        last: L; if the table has only that layer, it is taken.
    """
    share = (table["aligned"] / table["n"]).groupby(table["layer"]).mean()
    inner = share[share.index < last]
    shown = inner if len(inner) else share
    return int(shown.index.to_numpy(int)[int(shown.to_numpy(float).argmax())])


def matrix(table: pd.DataFrame, layer: int) -> pd.DataFrame:
    """Share of aligned items, a row per language and a column per pivot, English first; NaN with itself."""
    rows = table[table["layer"] == layer]
    wide = rows.assign(share=rows["aligned"] / rows["n"]).pivot_table(index="language", columns="pivot", values="share")
    return wide[sorted(wide.columns, key=lambda code: (code != ENGLISH, code))]


def tree(shares: pd.DataFrame) -> Array:
    """scipy's average linkage of the languages by their shares; a language is wholly aligned with itself.

    A pair that no job compared counts as the mean of its pivot.
    """
    filled = shares.to_numpy(float).copy()
    for i, code in enumerate(shares.index):
        if code in shares.columns:
            filled[i, shares.columns.get_loc(code)] = 1.0
    filled = np.where(np.isnan(filled), np.nanmean(filled, axis=0), filled)
    found: Array = linkage(filled, "average", optimal_ordering=True)
    return found


def best(aligned: Array, accuracy: Array, pivots: tuple[str, ...], seed: int = 0, orders: int = ORDERS) -> Best:
    """Compare pivots.

    Args:
        aligned: [n, P], share of aligned items of each language with each pivot; NaN where there is none.
        accuracy: [n], the languages' accuracies.
        pivots: [P] FLORES codes.
        seed: of the permutations.
        orders: number of permutations.
    """
    known = ~np.isnan(aligned)
    n, P = known.sum(axis=0), len(pivots)
    none = np.full(P, np.nan)
    if len(accuracy) < MIN_LANGUAGES or np.ptp(accuracy) == 0:
        few = len(accuracy) < MIN_LANGUAGES
        why = f"there are fewer than {MIN_LANGUAGES} languages" if few else "accuracy is the same in all languages"
        return Best(pivots, n, none, none, none, note=f"not defined, because {why}")
    rng = np.random.default_rng(seed)
    r = correlations(aligned, accuracy[None])[0]
    shuffled = rng.permuted(np.tile(accuracy, (orders, 1)), axis=1)
    size, permuted = (_studentized(of, n) for of in (r[None], correlations(aligned, shuffled)))
    highest = np.nanmax(np.where(np.isnan(permuted), -1, permuted), axis=1)
    p = (1 + (highest[:, None] >= size * (1 - 1e-9)).sum(axis=0)) / (orders + 1)
    p = np.where(np.isnan(r), np.nan, p)
    defined = ~np.isnan(r)
    if ENGLISH not in pivots or not defined[pivots.index(ENGLISH)] or defined.sum() < 2:
        why = "English or every other pivot is aligned with all languages alike"
        return Best(pivots, n, r, p, none, note=f"not defined, because {why}")
    aligned, english = np.where(defined, aligned, np.nan), pivots.index(ENGLISH)
    leads = _leads(aligned, accuracy, english)
    without = [np.delete(np.arange(len(accuracy)), i) for i in range(len(accuracy))]
    again = np.array([_leads(aligned[w], accuracy[w], english) for w in without])
    again = again[:, ~np.isnan(leads)]  # a pivot that only one language tells apart leaves a hole, and no interval
    lead, count = float(np.nanmean(leads)), len(again)
    each = again.mean(axis=1)
    reach = stats.t.ppf(0.975, count - 1) * np.sqrt((count - 1) / count * ((each - each.mean()) ** 2).sum())
    choice = _choice(aligned, accuracy, english, rng, orders)
    return Best(pivots, n, r, p, leads, lead, float(lead - reach), float(lead + reach), choice)


def correlations(aligned: Array, accuracy: Array) -> Array:
    """[B, P]: Pearson's r of each column of `aligned` [n, P] with each row of `accuracy` [B, n], over the rows that the
    column has; NaN if either is constant there."""
    known = ~np.isnan(aligned)
    count = np.maximum(known.sum(axis=0), 1)
    x = np.where(known, aligned - np.where(known, aligned, 0).sum(axis=0) / count, 0)
    mean, square = ((accuracy - accuracy.mean()) ** k @ known / count for k in (1, 2))
    variance = np.maximum(square - mean**2, 0) * count
    length = np.sqrt((x**2).sum(axis=0) * variance)
    return np.clip(ratio(accuracy @ x, length, above=1e-12), -1, 1)


def _studentized(r: Array, n: NDArray[np.int64]) -> Array:
    """|r| on a scale on which pivots with different numbers of languages are alike (Fisher's z by its error)."""
    found: Array = np.abs(np.arctanh(np.clip(r, -1 + 1e-12, 1 - 1e-12))) * np.sqrt(np.maximum(n - 3, 1))
    return found


def _leads(aligned: Array, accuracy: Array, english: int) -> Array:
    """[P]: r of English minus that of each pivot, over the languages that both have; NaN for English."""
    both = ~np.isnan(aligned) & ~np.isnan(aligned[:, [english]])
    own = correlations(np.where(both, aligned, np.nan), accuracy[None])[0]
    theirs = correlations(np.where(both, aligned[:, [english]], np.nan), accuracy[None])[0]
    found: Array = theirs - own
    found[english] = np.nan
    return found


def _choice(aligned: Array, accuracy: Array, english: int, rng: np.random.Generator, orders: int) -> float:
    """See `Best.choice_p`. Columns are standardized before they are interchanged: r does not change, but levels do."""
    known = ~np.isnan(aligned)
    live = known.any(axis=0)
    standard = np.full(aligned.shape, np.nan)
    standard[:, live] = (aligned[:, live] - np.nanmean(aligned[:, live], axis=0)) / np.nanstd(aligned[:, live], axis=0)
    values, row = standard[known], np.nonzero(known)[0]
    observed = np.nanmax(-_leads(standard, accuracy, english))
    reached = 0
    for _ in range(orders):
        standard[known] = values[np.lexsort((rng.random(len(row)), row))]
        ahead = -_leads(standard, accuracy, english)  # without a value where English or the pivot became constant
        reached += int((ahead[~np.isnan(ahead)] >= observed - 1e-9).any())
    return float((1 + reached) / (orders + 1))


def transfer(table: pd.DataFrame) -> pd.DataFrame:
    """Are items that transfer from a pivot (TS) aligned with it more often than those that fail (TF)?

    Args:
        table: rows of one metric at one layer.

    Returns:
        a row per pivot: languages, ts, tf (items over all languages), difference (share aligned of TS minus TF, the
        mean over languages weighted as in the test), z and p of the Cochran-Mantel-Haenszel test over languages, and
        p_holm, over the pivots. Items of a cluster count as independent.
    """
    rows = []
    for pivot, own in table.groupby("pivot", sort=False):
        use = own[(own["ts"] > 0) & (own["tf"] > 0)]
        ts, tf, a, b = (use[name].to_numpy(float) for name in ("ts", "tf", "aligned_ts", "aligned_tf"))
        z, p = null_odds(np.column_stack([a, ts, b, tf]))
        weight = ts * tf / (ts + tf)
        difference = float((weight * (a / ts - b / tf)).sum() / weight.sum()) if len(use) else float("nan")
        counts = {"languages": len(use), "ts": int(ts.sum()), "tf": int(tf.sum())}
        rows.append({"pivot": pivot, **counts, "difference": difference, "z": z, "p": p})
    found = pd.DataFrame(rows, columns=["pivot", "languages", "ts", "tf", "difference", "z", "p"])
    return found.assign(p_holm=adjusted(found["p"]))


def seen_from(predictions: pd.DataFrame, pivot: str) -> pd.DataFrame:
    """The predictions with a pivot's in the place of English's: what compares with English then compares with it."""
    if pivot == ENGLISH:
        return predictions
    table = predictions.astype({"language": object, "pivot": object})
    kept = table[table["language"] != ENGLISH].drop_duplicates(["model", "task", "language", "item_id"])
    return kept.assign(language=kept["language"].replace({pivot: ENGLISH}), pivot=pivot)


def named(found: Best) -> pd.DataFrame:
    """A row per pivot: pivot, n, r, p, lead, best first."""
    columns: dict[str, Any] = {"pivot": found.pivots, "n": found.n, "r": found.r, "p": found.p, "lead": found.leads}
    return pd.DataFrame(columns).sort_values("r", ascending=False, ignore_index=True)
