"""Statistics over items: are aligned items answered right more often, per language and pooled?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats
from statsmodels.discrete.discrete_model import Logit
from statsmodels.stats.contingency_tables import StratifiedTable
from statsmodels.stats.proportion import confint_proportions_2indep, proportions_ztest
from statsmodels.tools.sm_exceptions import ConvergenceWarning, PerfectSeparationError, PerfectSeparationWarning

from align_pipeline.inference.arrays import ratio
from align_pipeline.inference.study import BLOCK, SERIES, Array, Block, Study, dense, of_block

CONTRASTS = {"ts_tf": ("ts", "tf"), "right_wrong": ("right", "wrong")}
"""The two groups of each contrast, a and b, by their names in `tally`."""


COVARIATES = {
    "english_correct": "whether the item is right in English",
    "english_confidence": "confidence of the English answer",
    "length": "tokens of the prompt",
    "fertility": "tokens of the item per token of its English version",
    "option_similarity": "similarity of the two most similar options",
    "english_overlap": "character trigrams that the options have in common with English",
    "label_prior": "mean probability that the model gives the answer's position in this language",
}


INSTANCE_LEVEL = [
    *("task", "language", "metric", "pooling", "layer", "best_layer", "contrast"),
    *("n_a", "n_b", "mean_a", "mean_b", "difference", "low", "high", "z", "p_one_sided", "p_fisher", "p_holm", "p_bh"),
    *("model", "pivot", "note"),
]


def instance_level(cells: pd.DataFrame) -> pd.DataFrame:
    """Are the items that a language gets right aligned more often than those that it gets wrong?

    Args:
        cells: from `tally`.

    Returns:
        columns `INSTANCE_LEVEL`. In ``ts_tf`` group a is TS and b is TF; in ``right_wrong`` a is right, b is wrong.
        ``mean_*`` are shares aligned; ``difference`` is a minus b with Newcombe's 95% interval; ``z`` and
        ``p_one_sided`` are from the two-proportion z-test with pooled variance, ``p_fisher`` from Fisher's exact test,
        both with the alternative a > b; ``p_holm`` and ``p_bh`` adjust ``p_one_sided`` over the layers of a test.
    """
    parts = [
        cells.assign(contrast=name, n_a=cells[f"n_{a}"], k_a=cells[f"k_{a}"], n_b=cells[f"n_{b}"], k_b=cells[f"k_{b}"])
        for name, (a, b) in CONTRASTS.items()
    ]
    table = pd.concat(parts, ignore_index=True)
    table = table.astype(dict.fromkeys(("n_a", "n_b", "k_a", "k_b", "n_english"), np.int64))
    _compare(table)
    adjust(table, [*SERIES, "contrast"], "p_one_sided")
    table["note"] = [_instance_note(row) for row in table.itertuples()]
    return table.sort_values([*SERIES, "contrast", "layer"], ignore_index=True)[INSTANCE_LEVEL]


def _compare(table: pd.DataFrame) -> None:
    """Compute means, difference, interval and tests from n_a, k_a, n_b, k_b, in place."""
    n_a, n_b, k_a, k_b = (table[c].to_numpy() for c in ("n_a", "n_b", "k_a", "k_b"))
    table["mean_a"], table["mean_b"] = ratio(k_a, n_a), ratio(k_b, n_b)
    table["difference"] = table["mean_a"] - table["mean_b"]
    table[["low", "high", "z", "p_one_sided", "p_fisher"]] = np.nan
    both = (n_a > 0) & (n_b > 0)
    if both.any():
        low, high = confint_proportions_2indep(k_a[both], n_a[both], k_b[both], n_b[both], method="newcomb")
        table.loc[both, "low"], table.loc[both, "high"] = low, high
        table.loc[both, "p_fisher"] = stats.hypergeom.sf(  # scipy's fisher_exact(alternative="greater"), vectorised
            k_a[both] - 1, (n_a + n_b)[both], (k_a + k_b)[both], n_a[both]
        )
    varies = both & (k_a + k_b > 0) & (k_a + k_b < n_a + n_b)
    counts = np.column_stack([k_a, k_b, n_a, n_b])[varies]
    distinct, index = np.unique(counts, axis=0, return_inverse=True)
    tests = np.array([proportions_ztest(c[:2], c[2:], alternative="larger") for c in distinct]).reshape(-1, 2)
    table.loc[varies, ["z", "p_one_sided"]] = tests[index]


def adjust(table: pd.DataFrame, family: list[str], column: str) -> None:
    """Add p values with Holm's and Benjamini-Hochberg's adjustment, over the defined p values of each family."""
    p = table.groupby(family, observed=True)[column]
    table["p_holm"], table["p_bh"] = p.transform(adjusted), p.transform(adjusted, by=stats.false_discovery_control)


def holm(p: Array) -> Array:
    """Holm's adjusted p values; equal to statsmodels' `multipletests`, which collects garbage on every call (60 ms)."""
    order = np.argsort(p, kind="stable")
    adjusted = np.empty(len(p))
    adjusted[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return adjusted


def adjusted(p: pd.Series[float], by: Callable[[Array], Array] = holm) -> pd.Series[float]:
    """Holm's or another adjustment over the tests of a family; questions without an answer do not count."""
    known = p.astype(float).dropna()
    return pd.Series(by(known.to_numpy()), known.index, float).reindex(p.index)


def mcnemar(gained: Array, lost: Array) -> Array:
    """Exact two-sided p of McNemar's test on the discordant pairs; 1 if there are none."""
    p: Array = np.minimum(1.0, 2 * stats.binom.cdf(np.minimum(gained, lost), gained + lost, 0.5))
    return p


def _instance_note(row: Any) -> str:
    language = row.language
    if row.n_right + row.n_wrong == 0:
        return f"not defined, because these items have no predictions in {language}"
    if row.contrast == "ts_tf" and row.n_english == 0:
        return f"not defined, because English ({row.pivot}) has no predictions for these items"
    sizes = {
        "ts_tf": (f"right in English and right in {language}", f"right in English and wrong in {language}"),
        "right_wrong": (f"right in {language}", f"wrong in {language}"),
    }[row.contrast]
    empty = [what for what, n in zip(sizes, (row.n_a, row.n_b), strict=True) if n == 0]
    if empty:
        return f"not defined, because no item is {' and none is '.join(empty)}"
    if np.isnan(row.z):
        return f"z not defined, because {'all' if row.k_a else 'none'} of these items are aligned at this layer"
    return ""


REGRESSION = [
    *("model", "task", "metric", "pooling", "method", "contrast", "adjusted_for", "at", "layer", "term", "unit"),
    *("n", "n_items", "n_languages", "log_odds", "odds_ratio", "low", "high", "z", "p", "p_holm", "p_bh"),
    *("p_homogeneity", "note"),
]


def regression(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Is alignment associated with correctness over all languages together?

    ``method`` `cmh` is the Cochran-Mantel-Haenszel test with languages as strata; ``at`` is the `best_layer` of every
    language, or one `layer`. It treats the same item in different languages as independent, so its p is too small if
    alignments and answers recur over languages (`permutation` avoids this). `logit` is the logistic regression of
    correctness on alignment at the best layers, with standard errors clustered by the items' clusters.
    ``adjusted_for`` names its other terms: `language` (one intercept each), or `covariates and language`.

    Returns:
        columns `REGRESSION`; ``low`` and ``high`` are the odds ratio's 95% interval, ``p`` is two-sided, ``p_holm`` and
        ``p_bh`` adjust the p of alignment over layers, ``p_homogeneity`` is the Breslow-Day test of a common odds ratio
        over languages. Covariates are in standard deviations (``unit``).
    """
    rows = list(_cmh_rows(cells))
    for key, block in study.blocks.items():
        rows += _logit_rows(dict(zip(BLOCK, key, strict=True)), study.items.iloc[block.rows], block, cells)
    table = pd.DataFrame(rows, columns=REGRESSION)
    table["note"] = table["note"].fillna("")
    whole = dict.fromkeys(("layer", "n", "n_items", "n_languages"), "Int64")
    real = dict.fromkeys(REGRESSION[REGRESSION.index("log_odds") : -1], float)
    table = table.astype({**whole, **real})
    family = [*BLOCK, "method", "contrast", "adjusted_for"]
    of_alignment = (table["term"] == "aligned") & (table["at"] == "layer")
    part = table[of_alignment].copy()
    adjust(part, family, "p")
    table.loc[of_alignment, ["p_holm", "p_bh"]] = part[["p_holm", "p_bh"]]
    return table


def _cmh_rows(cells: pd.DataFrame) -> Iterator[dict[str, Any]]:
    at_best = cells[cells["best_layer"]].assign(layer=np.nan, at="best_layer")
    both = pd.concat([at_best, cells.assign(at="layer")], ignore_index=True).astype({"layer": "Int64"})
    for key, part in both.groupby([*BLOCK, "at", "layer"], dropna=False):
        for contrast, (a, b) in CONTRASTS.items():
            about = dict(zip([*BLOCK, "at", "layer"], key, strict=True))
            about |= {"method": "cmh", "contrast": contrast, "adjusted_for": "language", "term": "aligned"}
            counts = part[[f"k_{a}", f"n_{a}", f"k_{b}", f"n_{b}"]].to_numpy(float)
            yield about | {"unit": "aligned against not"} | cmh(counts)


def cmh(counts: Array) -> dict[str, Any]:
    """Cochran-Mantel-Haenszel test over strata; each row of `counts` holds aligned and all items of a, then of b."""
    k_a, n_a, k_b, n_b = counts.T
    informative = _informative(counts)
    found: dict[str, Any] = {"n": int((n_a + n_b)[informative].sum()), "n_languages": int(informative.sum())}
    if not informative.any():
        return found | {"note": "not defined, because no language has both groups with both aligned and other items"}
    tables = np.array([[k_a, n_a - k_a], [k_b, n_b - k_b]])[:, :, informative]
    if not (tables[0, 0] * tables[1, 1]).any() or not (tables[0, 1] * tables[1, 0]).any():
        return found | {"note": "not defined, because the pooled odds ratio is zero or infinite"}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)
        stratified = StratifiedTable(tables)
        low, high = stratified.oddsratio_pooled_confint()
        homogeneity = stratified.test_equal_odds().pvalue if informative.sum() > 1 else np.nan
    z, p = null_odds(counts)
    log_odds = float(stratified.logodds_pooled)
    found |= {"log_odds": log_odds, "odds_ratio": float(stratified.oddsratio_pooled), "low": float(low)}
    found |= {"high": float(high), "z": z, "p": p}
    if np.isfinite(homogeneity):
        return found | {"p_homogeneity": float(homogeneity), "note": ""}
    few = "only one language contributes" if informative.sum() == 1 else "too few items are in some cells"
    return found | {"note": f"p_homogeneity not defined, because {few}"}


def null_odds(counts: Array) -> tuple[float, float]:
    """z (above 0: a is aligned more often) and two-sided p of the Cochran-Mantel-Haenszel test without a continuity
    correction, for `counts` as in `cmh`; NaN without an informative stratum."""
    k_a, n_a, k_b, n_b = counts[_informative(counts)].T
    k, n = k_a + k_b, n_a + n_b
    if not len(n):
        return float("nan"), float("nan")
    variance = (n_a * n_b * k * (n - k) / (n**2 * (n - 1))).sum()
    z = float((k_a - n_a * k / n).sum() / np.sqrt(variance))
    return z, float(2 * stats.norm.sf(abs(z)))


def _informative(counts: Array) -> Array:
    """[strata]: whether both groups have items, and some but not all items are aligned."""
    k_a, n_a, k_b, n_b = counts.T
    found: Array = (n_a > 0) & (n_b > 0) & (k_a + k_b > 0) & (k_a + k_b < n_a + n_b)
    return found


def _logit_rows(
    about: dict[str, Any], items: pd.DataFrame, block: Block, cells: pd.DataFrame
) -> Iterator[dict[str, Any]]:
    base = about | {"method": "logit", "contrast": "right_wrong", "unit": "aligned against not"}
    answered = items["correct"].notna().to_numpy()
    if not answered.any():
        note = "not defined, because there are no predictions for the task"
        yield base | {"at": "best_layer", "term": "aligned", "note": note}
        return
    items, values = items[answered], block.values[answered]
    y = items["correct"].to_numpy(float)
    ids, cluster = items["item_id"].factorize()[0], items["cluster"].factorize()[0]
    language = items["language"] + "|" + items["pivot"]
    group = language.factorize()[0]
    covariates, units, notes = _design(items)
    dummies = pd.get_dummies(language, drop_first=True, dtype=float)
    best = of_block(cells[cells["best_layer"]], [about[name] for name in BLOCK])
    column = pd.Series(np.searchsorted(block.layers, best["layer"]), best["language"] + "|" + best["pivot"])
    at_best = values[np.arange(len(items)), language.map(column).to_numpy(int)]
    designs = {"language": dummies, "covariates and language": pd.concat([covariates, dummies], axis="columns")}
    for name, design in designs.items():
        shown = [] if name == "language" else [str(c) for c in covariates]
        note = "" if name == "language" else notes
        for row in _logit(y, at_best, design, ids, cluster, group, shown):
            unit = {"unit": units.get(row["term"], base["unit"])}
            full = "; ".join(filter(None, [row.pop("note", ""), note if row["term"] == "aligned" else ""]))
            yield base | unit | row | {"adjusted_for": name, "at": "best_layer", "note": full}


def _design(items: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, str], str]:
    """Covariates in standard deviations and category dummies; their units; and a note on what was left out and why."""
    columns, units, left_out = {}, {}, []
    for name, meaning in COVARIATES.items():
        value = items[name].astype(float)
        if value.isna().any():
            left_out.append(f"{name} is not known for {int(value.isna().sum()):,} answers")
        elif np.ptp(value) < 1e-12:
            left_out.append(f"{name} is the same for all answers")
        else:
            columns[name], units[name] = (value - value.mean()) / value.std(), f"per standard deviation ({meaning})"
    category = items["category"].fillna("").astype(str).replace("", "none")
    if category.nunique() > 1:
        for kind, dummy in pd.get_dummies(category, drop_first=True, dtype=float).items():
            columns[f"category: {kind}"], units[f"category: {kind}"] = dummy, f"against {category.min()}"
    else:
        left_out.append("category is the same for all answers")
    note = f"covariates left out: {', '.join(left_out)}" if left_out else ""
    return pd.DataFrame(columns, index=items.index), units, note


_NO_FIT = (ConvergenceWarning, PerfectSeparationWarning, RuntimeWarning)


def _logit(
    y: Array, value: Array, design: pd.DataFrame, item: Array, cluster: Array, language: Array, shown: list[str]
) -> list[dict[str, Any]]:
    """Logistic regression of y on alignment and `design`, with clustered errors; one row per shown term."""
    present = value >= 0
    y, item, cluster, language = y[present], item[present], cluster[present], language[present]
    aligned = value[present].astype(float)
    found = {"n": len(y), "n_items": len(dense(item)[0]), "n_languages": len(dense(language)[0])}
    other = design.to_numpy(float)[present]
    # a constant column, such as a language without rows at this layer, has no identifiable coefficient
    kept = np.ptp(other, axis=0) > 0 if len(y) else np.zeros(other.shape[1], bool)
    names = ["", "aligned", *design.columns[kept]]
    exog = np.column_stack([np.ones(len(y)), aligned, other[:, kept]])
    reason = _cannot_fit(y, aligned, len(dense(cluster)[0]), exog)
    if not reason:
        try:
            with warnings.catch_warnings():
                for kind in _NO_FIT:
                    warnings.simplefilter("error", kind)
                fit = Logit(y, exog, check_rank=False).fit(
                    disp=0, maxiter=50, cov_type="cluster", cov_kwds={"groups": cluster}
                )
            if not np.isfinite(fit.bse).all() or (fit.bse > 50).any():
                reason = "the covariates separate right from wrong answers"
        except (*_NO_FIT, PerfectSeparationError, np.linalg.LinAlgError):
            reason = "the regression does not converge (the covariates separate right from wrong answers)"
    if reason:
        return [found | {"term": "aligned", "note": f"not defined, because {reason}"}]
    ends = np.exp(fit.conf_int())
    return [
        found
        | {"term": name, "log_odds": fit.params[i], "odds_ratio": np.exp(fit.params[i]), "low": ends[i, 0]}
        | {"high": ends[i, 1], "z": fit.tvalues[i], "p": fit.pvalues[i], "note": ""}
        for i, name in enumerate(names)
        if name == "aligned" or name in shown
    ]


def _cannot_fit(y: Array, aligned: Array, clusters: int, exog: Array) -> str:
    if not len(y):
        return "no answered item has an alignment at this layer"
    if np.ptp(y) == 0:
        return f"all answers are {'right' if y[0] else 'wrong'}"
    if np.ptp(aligned) == 0:
        return f"{'all' if aligned[0] else 'none'} of the items are aligned"
    if clusters < 2 * exog.shape[1] and clusters < 30:
        return f"{clusters} clusters of items are too few for clustered errors"
    if min((y[aligned == a] == b).sum() for a in (0, 1) for b in (0, 1)) == 0:
        return "all aligned items or all other items have the same outcome"
    if np.linalg.matrix_rank(exog.T @ exog, hermitian=True) < exog.shape[1]:
        return "the covariates are collinear"
    return ""
