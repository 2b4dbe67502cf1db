"""The model's confidence: calibration, and a comparison of aligned with other items."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.resampling import MIN_CLUSTERS, RESAMPLES, clustered, weights
from align_pipeline.inference.study import BLOCK, SERIES, UNIT, Array, Study, clusters, of_block, unique_predictions

BINS = 10


def above_chance(predictions: pd.DataFrame) -> pd.DataFrame:
    """Is accuracy above that of guessing, per language? English, which every language is paired with, has no row.

    Returns:
        one row per (model, task, language, pivot) with ``loglikelihoods``: chance (mean of one over the number of
        options), above (accuracy minus chance), p_chance (one-sided, from clustered standard errors; where these do
        not exist because all answers are right, the probability of guessing one right answer per cluster; 1 where all
        are wrong), p_chance_holm (adjusted over the languages of a model and task).
    """
    columns = [*UNIT, "chance", "above", "p_chance", "p_chance_holm"]
    own = predictions[predictions["language"] != ENGLISH]
    if "loglikelihoods" not in own or own["loglikelihoods"].isna().all():
        return pd.DataFrame(columns=columns)
    table, _ = unique_predictions(own[own["loglikelihoods"].notna()])
    rows = []
    for key, unit in table.groupby(UNIT):
        guess = 1 / unit["loglikelihoods"].map(len).to_numpy(float)
        right = unit["correct"].to_numpy(float)
        above = np.array([(right - guess).mean()])
        codes = pd.factorize(clusters(unit))[0]
        if np.ptp(right) > 0:
            _, _, two_sided = clustered(above, (right - guess - above)[:, None] / len(right), codes)
            p = two_sided[0] / 2 if above[0] > 0 else 1 - two_sided[0] / 2
        else:
            p = guess.mean() ** (codes.max() + 1) if right[0] else 1.0
        rows.append((*key, guess.mean(), above[0], p))
    found = pd.DataFrame(rows, columns=columns[:-1])
    found["p_chance_holm"] = found.groupby(["model", "task"])["p_chance"].transform(adjusted)
    return found


def reliability(predictions: pd.DataFrame) -> pd.DataFrame:
    """Confidence and accuracy in ten equal-width bins of (0, 1], per language, English included.

    Returns:
        a row per non-empty bin of each (model, task, language, pivot): bin (0..9), n, confidence and accuracy (means).
    """
    table, _ = unique_predictions(predictions)
    table["bin"] = _bin(table["confidence"].to_numpy(float))
    grouped = table.groupby([*UNIT, "bin"])
    means = {"n": ("correct", "size"), "confidence": ("confidence", "mean"), "accuracy": ("correct", "mean")}
    return grouped.agg(**means).reset_index()


def _bin(sure: Array) -> Array:
    index: Array = np.clip(np.ceil(sure * BINS).astype(int) - 1, 0, BINS - 1)
    return index


CALIBRATION = [
    *("task", "language", "model", "pivot", "n", "accuracy", "confidence", "ece_equal_mass", "ece_low", "ece_high"),
    *("ece_if_calibrated", "p_calibrated", "overconfidence", "ece", "brier", "brier_options", "note"),
]


def calibration(predictions: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Calibration of the model's confidence, per language, English included.

    Returns:
        columns `CALIBRATION`: n, accuracy, confidence (mean), overconfidence (confidence minus accuracy), ece
        (expected calibration error, Guo et al. 2017: mean absolute gap over ten equal-width bins, weighted by their
        items), ece_low and ece_high (its 95% interval: basic cluster bootstrap, which corrects the upward bias of
        resampled errors), ece_equal_mass (the same error over ten bins of equally many items), ece_if_calibrated (the
        expected error of a perfectly calibrated model with these confidences; > 0 in samples), p_calibrated (the
        probability that such a model shows an error at least this large), brier (mean squared gap between confidence
        and correctness, 0 to 1), brier_options (Brier's original score: summed over the options, 0 to 2; needs
        ``loglikelihoods``), note.
    """
    table, _ = unique_predictions(predictions)
    table["brier"] = (table["confidence"] - table["correct"]) ** 2
    table["brier_options"] = _brier_options(table)
    grouped = table.groupby(UNIT)
    found = grouped[["correct", "confidence", "brier"]].mean().rename(columns={"correct": "accuracy"})
    found["n"], found["overconfidence"] = grouped.size(), found["confidence"] - found["accuracy"]
    found["brier_options"] = grouped["brier_options"].agg(lambda v: v.mean(skipna=False))
    missing = found["brier_options"].isna()
    found["note"] = np.where(missing, "brier_options not defined, because there are no loglikelihoods", "")
    errors = pd.DataFrame([_errors(unit, seed) for _, unit in grouped], index=found.index)
    return found.join(errors).reset_index().reindex(columns=CALIBRATION)


def _errors(unit: pd.DataFrame, seed: int) -> dict[str, float]:
    """The calibration errors of a language's answers, as in `calibration`."""
    sure, right = unit["confidence"].to_numpy(float), unit["correct"].to_numpy(float)
    own, bins = expected_calibration_error(sure, right), np.eye(BINS)[_bin(sure)]
    honest = np.random.default_rng([seed, 2]).random((RESAMPLES, len(sure))) < sure  # answers of a calibrated model
    errors = np.abs((honest - sure) @ bins).sum(axis=1) / len(sure)
    row = {"ece": own, "ece_equal_mass": equal_mass_error(sure, right), "ece_if_calibrated": float(errors.mean())}
    row["p_calibrated"] = float((1 + (errors >= own - 1e-12).sum()) / (1 + RESAMPLES))
    codes = pd.factorize(clusters(unit))[0]
    if codes.max() + 1 >= MIN_CLUSTERS:
        drawn = weights(codes, RESAMPLES, np.random.default_rng(seed))
        errors = np.abs(drawn @ (bins * (sure - right)[:, None])).sum(axis=1) / drawn.sum(axis=1)
        row["ece_low"], row["ece_high"] = np.maximum(2 * errors[0] - np.percentile(errors[1:], [97.5, 2.5]), 0)
    return row


def _brier_options(table: pd.DataFrame) -> Array:
    if "loglikelihoods" not in table or table["loglikelihoods"].isna().any():
        return np.full(len(table), np.nan)
    scores = np.full(len(table), np.nan)
    lengths = table["loglikelihoods"].map(len).to_numpy()
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        p = np.stack(table["loglikelihoods"].iloc[rows].to_list()).astype(float)
        p = np.exp(p - p.max(axis=1, keepdims=True))
        truth = np.eye(int(length))[table["gold"].iloc[rows].to_numpy(int)]
        scores[rows] = ((p / p.sum(axis=1, keepdims=True) - truth) ** 2).sum(axis=1)
    return scores


CONFIDENCE = [
    *("task", "language", "metric", "pooling", "layer", "n_aligned", "n_other", "confidence_aligned"),
    *("confidence_other", "difference", "low", "high", "p_welch", "p_mannwhitney", "ece_aligned", "ece_other"),
    "p_clustered",
    *("model", "pivot", "note"),
]


def confidence(study: Study, cells: pd.DataFrame) -> pd.DataFrame:
    """Is the model more confident on aligned items, at each language's best layer?

    Returns:
        columns `CONFIDENCE`: mean confidence of aligned and other items, their difference with its 95% interval and
        ``p_clustered`` from clustered standard errors, two-sided p of Welch's t-test and of the Mann-Whitney test, and
        the expected calibration error of each group.
    """
    rows = []
    for key, block in study.blocks.items():
        items = study.items.iloc[block.rows]
        about = dict(zip(BLOCK, key, strict=True))
        best = of_block(cells[cells["best_layer"]], key)
        positions = items.reset_index(drop=True).groupby(["language", "pivot"]).indices
        for language, pivot, layer in best[["language", "pivot", "layer"]].itertuples(index=False, name=None):
            position = positions[language, pivot]
            value = block.values[position, int(np.searchsorted(block.layers, layer))]
            row = about | {"language": language, "pivot": pivot, "layer": layer}
            rows.append(row | _confidence(items.iloc[position], value))
    return pd.DataFrame(rows, columns=CONFIDENCE).sort_values([*SERIES], ignore_index=True)


def _confidence(items: pd.DataFrame, value: Array) -> dict[str, Any]:
    sure, right = items["confidence"].to_numpy(float), items["correct"].to_numpy(float)
    known = ~np.isnan(sure)
    sides = {"aligned": known & (value == 1), "other": known & (value == 0)}
    influence = np.full(len(sure), np.nan)
    row: dict[str, Any] = {f"n_{name}": int(member.sum()) for name, member in sides.items()}
    for name, member in sides.items():
        if member.any():
            row[f"confidence_{name}"] = sure[member].mean()
            row[f"ece_{name}"] = expected_calibration_error(sure[member], right[member])
            sign = 1 if name == "aligned" else -1
            influence[member] = sign * (sure[member] - row[f"confidence_{name}"]) / member.sum()
    if not known.any():
        return row | {"note": "not defined, because these items have no predictions"}
    if min(row["n_aligned"], row["n_other"]) < 2:
        which = "aligned" if row["n_aligned"] < 2 else "not aligned"
        return row | {"note": f"not defined, because fewer than two items are {which}"}
    a, b = sure[sides["aligned"]], sure[sides["other"]]
    row["difference"] = row["confidence_aligned"] - row["confidence_other"]
    if np.ptp(a) == 0 and np.ptp(b) == 0:
        return row | {"note": "tests not defined, because confidence does not vary"}
    row["p_welch"] = stats.ttest_ind(a, b, equal_var=False).pvalue
    both = ~np.isnan(influence)
    ends = clustered(np.array([row["difference"]]), influence[both, None], pd.factorize(items["cluster"][both])[0])
    row |= {name: end[0] for name, end in zip(("low", "high", "p_clustered"), ends, strict=True)}
    return row | {"p_mannwhitney": stats.mannwhitneyu(a, b, method="asymptotic").pvalue, "note": ""}


def equal_mass_error(sure: Array, right: Array) -> float:
    """Like `expected_calibration_error`, but over ten bins of equally many items (Nixon et al. 2019)."""
    bins = np.array_split(np.argsort(sure, kind="stable"), min(BINS, len(sure)))
    return float(sum(abs((sure[own] - right[own]).sum()) for own in bins) / len(sure))


def expected_calibration_error(sure: Array, right: Array) -> float:
    """Mean absolute gap between confidence and accuracy over ten equal-width bins of (0, 1], weighted by items."""
    gaps = np.bincount(_bin(sure), weights=sure - right)
    return float(np.abs(gaps).sum() / len(sure))
