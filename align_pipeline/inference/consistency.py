"""Do a language's answers agree with English's, right or wrong, and do those of aligned items agree more often?

Agreement is compared with that of independent answers, because a model that prefers one option in both languages, such
as the first, agrees with itself without having understood anything. English is never a data point.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.arrays import Bundle, answered
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.resampling import MIN_CLUSTERS, clustered
from align_pipeline.inference.same_item import Effect, jackknife, slope
from align_pipeline.inference.study import BLOCK, NOISE, UNIT, Array, Study, clusters, unique_predictions

CONSISTENCY = [
    *("task", "language", "n", "n_clusters", "agreement", "agreement_low", "agreement_high", "agreement_chance"),
    *("kappa", "kappa_low", "kappa_high", "p", "p_holm", "rankc", "rankc_low", "rankc_high", "rankc_chance"),
    *("n_both_wrong", "same_wrong", "same_wrong_low", "same_wrong_high", "same_wrong_chance"),
    *("model", "pivot", "note"),
]
CONSISTENCY_ALIGNMENT = [
    *("model", "task", "metric", "pooling", "english", "n", "n_aligned", "n_items", "n_clusters", "n_languages"),
    *("agreement_aligned", "agreement_other", "difference", "low", "high", "p", "p_holm", "note"),
]
MIN_SIDE = 10
"""Minimum number of answers to aligned items, and of answers to others."""


def beside_english(predictions: pd.DataFrame) -> pd.DataFrame:
    """Each answer beside the one to the same item in English.

    Returns:
        the non-English predictions with ``cluster``; ``prediction_english`` and ``loglikelihoods_english`` (missing if
        there is no such answer); ``other_place`` (bool: the right option or the number of options differs from
        English, so that options cannot be compared by their places); ``comparable`` (bool: there is an English answer,
        and the options of this language have the places of English's but for a share of `NOISE` of its items).
    """
    table, _ = unique_predictions(predictions)
    if "loglikelihoods" not in table:
        table["loglikelihoods"] = None
    keys = ["model", "task", "pivot", "item_id"]
    english = table.loc[table["language"] == ENGLISH, [*keys, "gold", "prediction", "loglikelihoods"]]
    own = table[table["language"] != ENGLISH]
    own = own.assign(cluster=clusters(own))[[*keys, "language", "cluster", "gold", "prediction", "loglikelihoods"]]
    both = own.merge(english, "left", keys, suffixes=("", "_english"), validate="many_to_one")
    known = both["prediction_english"].notna()
    sizes = [both[name].map(_size) for name in ("loglikelihoods", "loglikelihoods_english")]
    both["other_place"] = known & ((both["gold"] != both["gold_english"]) | (sizes[0] != sizes[1]))
    share = both["other_place"].where(known).astype(float).groupby([both[key] for key in UNIT]).transform("mean")
    both["comparable"] = known & ~both["other_place"] & (share <= NOISE)
    return both


def _size(scores: Any) -> int:
    """The number of options; 0 if it is not known."""
    return len(scores) if isinstance(scores, (list, tuple, np.ndarray)) else 0


def consistency(predictions: pd.DataFrame) -> pd.DataFrame:
    """How often is a language's answer that of English, and is this more often than by chance?

    Returns:
        columns `CONSISTENCY`, one row per (model, task, language, pivot). ``agreement``: share of items with the same
        answer; ``agreement_chance``: its expectation if answers were independent, given how often each option is chosen
        in each language; ``kappa``: Cohen's, (agreement - chance) / (1 - chance); ``p``: of kappa > 0, one-sided;
        ``p_holm``: adjusted over the languages of a model and task. ``rankc``: RankC, and its expectation if rankings
        were independent. ``same_wrong``: of the items wrong in both with more than two options, the share with the same
        wrong option; ``same_wrong_chance``: mean of 1 / (options - 1). Errors and 95% intervals are clustered.
    """
    rows = [dict(zip(UNIT, key, strict=True)) | _unit(unit) for key, unit in beside_english(predictions).groupby(UNIT)]
    found = pd.DataFrame(rows, columns=CONSISTENCY).astype(dict.fromkeys(("n", "n_clusters", "n_both_wrong"), "Int64"))
    found["p"] = found["p"].astype(float)
    found["p_holm"] = found.groupby(["model", "task"])["p"].transform(adjusted)
    return found.sort_values(["model", "task", "language", "pivot"], ignore_index=True)


def _unit(unit: pd.DataFrame) -> dict[str, Any]:
    own = unit[unit["comparable"]]
    elsewhere, known = int(unit["other_place"].sum()), int(unit["prediction_english"].notna().sum())
    if own.empty:
        reason = f"English ({unit['pivot'].iloc[0]}) has no predictions for these items"
        if known:
            reason = f"{elsewhere:,} of {known:,} items have other options in English, or their options in other places"
        return {"n": 0, "note": f"not defined, because {reason}"}
    answer, english = own["prediction"].to_numpy(int), own["prediction_english"].to_numpy(int)
    codes = pd.factorize(own["cluster"])[0]
    row: dict[str, Any] = {"n": len(own), "n_clusters": int(codes.max()) + 1}
    notes = [f"{elsewhere:,} items are left out, because their options have other places in English"] * (elsewhere > 0)
    one_hot = np.eye(max(answer.max(), english.max()) + 1)
    same, chance, pull = shared(one_hot[answer], one_hot[english])
    row |= {"agreement": same.mean(), "agreement_chance": chance}
    row |= _ends("agreement", same.mean(), (same - same.mean()) / len(own), codes)
    kappa, influence = cohens_kappa(same, chance, pull)
    row["kappa"] = kappa
    if np.isnan(kappa):
        notes.append("kappa not defined, because the same option is chosen everywhere")
    else:
        row |= _ends("kappa", kappa, influence, codes, lowest=-1.0) | {"p": _p(kappa, influence, chance, codes)}
    more, reasons = _wrong(own, codes)
    return row | _ranked(own, codes) | more | {"note": "; ".join([*notes, *reasons])}


def shared(a: Array, b: Array) -> tuple[Array, float, Array]:
    """How many options two sets share, and how many independent sets would share.

    Args:
        a, b: [n, options], 1 for the options in an item's set: the answers of two languages, or their best options.

    Returns:
        [n], the number of shared options; its expectation for independent sets, given how often each option is in each
        set; [n], by how much an item changes this expectation, times n.
    """
    often_a, often_b = a.mean(axis=0), b.mean(axis=0)
    expected = float(often_a @ often_b)
    return (a * b).sum(axis=1), expected, a @ often_b + b @ often_a - 2 * expected


def cohens_kappa(same: Array, chance: float, pull: Array) -> tuple[float, Array]:
    """Cohen's kappa and each item's contribution to its error (delta method), from `shared`; NaN if chance is 1."""
    if chance > 1 - 1e-12:
        return np.nan, np.zeros(len(same))
    agreement, rest = float(same.mean()), 1 - chance
    change: Array = ((same - agreement) * rest - pull * (1 - agreement)) / rest**2 / len(same)
    return (agreement - chance) / rest, change


def rank_consistency(first: Array, second: Array) -> tuple[Array, float]:
    """RankC (Qi, Fernández and Bisazza 2023), per item.

    The shared part of the j best options in both languages, P@j, is averaged over j = 1..N with the weights
    exp(N - j) / sum_k exp(N - k). Equal scores are ranked by their places, as predictions are.

    Args:
        first, second: [n, N], log-likelihoods of N options in two languages.

    Returns:
        [n], 0 to 1; and the expectation for independent rankings, given how often each option has each rank.
    """
    ranks = [np.argsort(np.argsort(-scores, axis=1, kind="stable"), axis=1) for scores in (first, second)]
    N = first.shape[1]
    found, expected = np.zeros(len(first)), 0.0
    for j, weight in enumerate(softmax(-np.arange(N, dtype=float)), start=1):
        overlap, by_chance, _ = shared(*((rank < j).astype(float) for rank in ranks))
        found += weight * overlap / j
        expected += weight * by_chance / j
    return found, expected


def _ranked(own: pd.DataFrame, codes: Array) -> dict[str, Any]:
    """RankC of a language's items; items with different numbers of options are compared among themselves."""
    sizes = own["loglikelihoods"].map(_size).to_numpy()
    if not sizes.all():
        return {}
    value, expected = np.empty(len(own)), np.empty(len(own))
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        scores = [np.stack(own[name].iloc[rows].to_list()) for name in ("loglikelihoods", "loglikelihoods_english")]
        value[rows], expected[rows] = rank_consistency(*scores)
    row = {"rankc": value.mean(), "rankc_chance": expected.mean()}
    return row | _ends("rankc", value.mean(), (value - value.mean()) / len(own), codes)


def _wrong(own: pd.DataFrame, codes: Array) -> tuple[dict[str, Any], list[str]]:
    """Same wrong answers, and the reasons for what is not defined of what the log-likelihoods are needed for."""
    gold, answer, english = (own[name].to_numpy(int) for name in ("gold", "prediction", "prediction_english"))
    options = own["loglikelihoods"].map(_size).to_numpy()
    wrong = (answer != gold) & (english != gold)
    row: dict[str, Any] = {"n_both_wrong": int(wrong.sum())}
    if not options.all():
        return row, ["rankc and same_wrong not defined, because there are no loglikelihoods"]
    if options.max() <= 2:
        return row, ["same_wrong not defined, because only one of two options is wrong"]
    wrong &= options > 2
    if not wrong.any():
        return row, ["same_wrong not defined, because no item is wrong in both languages"]
    same = (answer == english)[wrong].astype(float)
    row |= {"same_wrong": same.mean(), "same_wrong_chance": (1 / (options[wrong] - 1)).mean()}
    own_codes = np.unique(codes[wrong], return_inverse=True)[1]
    return row | _ends("same_wrong", same.mean(), (same - same.mean()) / len(same), own_codes), []


def _ends(name: str, value: float, influence: Array, codes: Array, lowest: float = 0.0) -> dict[str, float]:
    """The 95% interval, within the values that are possible; none for few clusters or without variation."""
    if codes.max() + 1 < MIN_CLUSTERS or np.ptp(influence) < 1e-12:
        return {}
    low, high, _ = clustered(np.array([value]), influence[:, None], codes)
    return {f"{name}_low": max(lowest, float(low[0])), f"{name}_high": min(1.0, float(high[0]))}


def _p(kappa: float, influence: Array, chance: float, codes: Array) -> float:
    """One-sided p of a kappa above 0."""
    if np.ptp(influence) < 1e-12:  # the same answer to all items: by chance, in one item per cluster
        return float(chance ** (codes.max() + 1)) if kappa > 0 else 1.0
    two_sided = float(clustered(np.array([kappa]), influence[:, None], codes)[2][0])
    return two_sided / 2 if kappa > 0 else 1 - two_sided / 2


def consistency_alignment(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Do aligned items get English's answer more often than other items, at each language's best layer?

    Args:
        study: from `join`.
        cells: from `tally`.

    Returns:
        columns `CONSISTENCY_ALIGNMENT`, three rows per metric and pooling; ``english``: `all` items, or those that
        English gets `right` or `wrong`. ``agreement_*``: shares over all answers; ``difference``: aligned minus other
        items, pooled over languages with an effect per language, so that it compares items of one language; its error
        is from a jackknife over clusters (`same_item.jackknife`); ``p_holm``: adjusted over the metrics.
    """
    rows = []
    pairs = beside_english(study.predictions)
    pairs = pairs[pairs["comparable"]]
    for arrays in answered(study, cells):
        own = pairs[(pairs["model"] == arrays.key[0]) & (pairs["task"] == arrays.key[1])]
        rows += [dict(zip(BLOCK, arrays.key, strict=True)) | row for row in _subsets(arrays, own)]
    counts = dict.fromkeys(("n", "n_aligned", "n_items", "n_clusters", "n_languages"), "Int64")
    found = pd.DataFrame(rows, columns=CONSISTENCY_ALIGNMENT).astype(counts)
    found["p"] = found["p"].astype(float)
    found["p_holm"] = found.groupby(["model", "task", "english"])["p"].transform(adjusted)
    return found


def _subsets(arrays: Bundle, own: pd.DataFrame) -> Iterator[dict[str, Any]]:
    """One row for all items, and for those that English gets right and wrong."""
    same = np.full(arrays.right.shape, np.nan)
    at = pd.Index(arrays.items).get_indexer(pd.Index(own["item_id"]))
    unit = pd.MultiIndex.from_tuples(arrays.units).get_indexer(pd.MultiIndex.from_frame(own[["language", "pivot"]]))
    known = (at >= 0) & (unit >= 0)
    same[at[known], unit[known]] = (own["prediction"] == own["prediction_english"]).to_numpy()[known]
    cluster = np.full(len(arrays.items), "", object)  # of the predictions: alignment alone does not know an item's
    cluster[at[known]] = own["cluster"].to_numpy(object)[known]
    has_both = ~np.isnan(same) & ~np.isnan(arrays.at_best)
    for name, chosen in (("all", True), ("right", arrays.english == 1), ("wrong", arrays.english == 0)):
        item, language = np.nonzero(has_both & chosen)
        y, x = same[item, language], arrays.at_best[item, language].astype(float)
        row: dict[str, Any] = {"english": name, "n": len(y), "n_aligned": int(x.sum()), "n_items": len(np.unique(item))}
        codes = np.unique(cluster[item].astype(str), return_inverse=True)[1]
        row |= {"n_clusters": len(np.unique(codes)), "n_languages": len(np.unique(language))}
        for side, member in (("aligned", x == 1), ("other", x == 0)):
            row[f"agreement_{side}"] = y[member].mean() if member.any() else np.nan
        found = difference(y, x, language, codes)
        yield vars(found) | row | {"difference": found.value}


def difference(same: Array, aligned: Array, language: Array, cluster: Array) -> Effect:
    """Agreement of aligned items minus that of others, with an effect per language.

    Args:
        same, aligned: [R], 0 or 1, of answers.
        language, cluster: [R], integers.
    """
    if not len(same):
        reason = "there are no such answers"
    elif min(aligned.sum(), len(aligned) - aligned.sum()) < MIN_SIDE:
        few = "aligned" if aligned.sum() < MIN_SIDE else "not aligned"
        reason = f"fewer than {MIN_SIDE} of these answers are to items that are {few}"
    elif np.ptp(same) == 0:
        reason = f"{'all' if same[0] else 'none'} of these answers are the same as in English"
    else:
        stratum, codes = (np.unique(values, return_inverse=True)[1] for values in (language, cluster))
        if codes.max() + 1 < MIN_CLUSTERS:
            reason = f"there are fewer than {MIN_CLUSTERS} clusters of items"
        elif (fit := slope(same, aligned, stratum, np.empty((len(same), 0)), codes)) is None:
            reason = "in no language are some items aligned and others not"
        else:
            return jackknife(*fit, n=len(same), items=0)
    return Effect(note=f"not defined, because {reason}")
