"""Statistics of patching, from tables only: correction and damage rates, log-odds, and the treatment against controls.

`units.join` merges ``patching.parquet`` with ``predictions.parquet``; all other functions use its result.
TS: right in English and in the language; TF: right in English, wrong in the language, both without patching.
Intervals are 95% percentile intervals of one bootstrap over items.

A learned map is a treatment too; its controls are its placebos (`config.patch.treatment_of`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.config.patch import is_kept, is_placebo, treatment_of
from align_pipeline.inference.items import holm, mcnemar
from align_pipeline.measurements.patching.units import SERIES, Unit

LACK_CONCEPT = ("random_item", "same_answer", "mean_english", "noise")
"""Controls without the item's concept: the treatment's effect beyond theirs is due to the concept. The placebos of a
map lack what the map has learned, and count like these."""
RESAMPLES = 1000
MIDDLE = "middle third"

Array = NDArray[Any]


def _mean(values: Array, weights: Array) -> Array:
    """Weighted means over the last axis without missing values: [..., n], [R, n] -> [R, ...]; nan for zero weight."""
    flat = values.reshape(-1, values.shape[-1])
    present = ~np.isnan(flat)
    total, count = weights @ np.where(present, flat, 0).T, weights @ present.T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        means: Array = np.where(count > 0, total / count, np.nan)
    return means.reshape(len(weights), *values.shape[:-1])


def _interval(values: Array, weights: Array) -> tuple[Array, Array, Array]:
    """Mean over the chosen items and its bootstrap interval; shape of `values` without its last axis."""
    mean = _mean(values, (weights.sum(0, keepdims=True) > 0).astype(float))[0]
    means = _mean(values, weights)
    low, high = np.full_like(mean, np.nan), np.full_like(mean, np.nan)
    known = ~np.isnan(mean)
    if known.any():
        low[known], high[known] = np.nanpercentile(means[:, known], [2.5, 97.5], axis=0)
    return mean, low, high


FLIPS = 2000


def max_t(differences: Array, cluster: Array, seed: int, count: int = FLIPS) -> Array:
    """Two-sided p of each layer's mean difference, adjusted over the layers (max-T, Westfall and Young 1993).

    Permutation test: under the null hypothesis the sign of each cluster's differences is exchangeable, at all layers
    together.

    Args:
        differences: [layers, n], treatment minus control, paired by item.
        cluster: [n], integers.
        seed: of the signs.
        count: number of random sign flips.

    Returns:
        [layers]; 1 where no item differs.
    """
    if not differences.shape[1]:
        return np.full(len(differences), np.nan)
    codes = np.unique(cluster, return_inverse=True)[1]
    sums = np.stack([np.bincount(codes, row) for row in differences])  # [layers, clusters]
    length = np.sqrt((sums**2).sum(axis=1))
    unit = np.divide(sums, length[:, None], out=np.zeros_like(sums), where=length[:, None] > 0)
    signs = np.random.default_rng(seed).choice([-1.0, 1.0], size=(count, sums.shape[1]))
    largest = np.append(np.abs(signs @ unit.T).max(axis=1), np.abs(unit.sum(axis=1)).max())
    p: Array = (largest[None] >= np.abs(unit.sum(axis=1))[:, None] - 1e-9).mean(axis=1)
    return p


EFFECTS = [
    *SERIES,
    "condition",
    "layer",
    "n_tf",
    "corrected",
    *("correction_rate", "correction_low", "correction_high"),
    *("log_odds_change_tf", "log_odds_low_tf", "log_odds_high_tf"),
    "n_ts",
    "damaged",
    *("damage_rate", "damage_low", "damage_high"),
    *("log_odds_change_ts", "log_odds_low_ts", "log_odds_high_ts"),
    "n",
    "gained",
    "lost",
    "p_mcnemar",
    "p_holm",
]


def effects(units: Sequence[Unit], resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The effect of each condition at each layer.

    Returns:
        one row per unit, condition and layer: `EFFECTS`. correction_rate is over TF items, damage_rate over TS items,
        log_odds_change_* the mean change of the gold option's log-odds from unpatched, in nats. gained and lost count
        all patched items that became right and wrong; p_mcnemar is exact, and p_holm adjusts it over the layers.
    """
    return pd.concat([pd.DataFrame(columns=EFFECTS), *(_effects(unit, resamples, seed) for unit in units)])[EFFECTS]


def _effects(unit: Unit, resamples: int, seed: int) -> pd.DataFrame:
    columns: dict[str, Array] = {}
    change = unit.log_odds - unit.log_odds_before
    known = ~np.isnan(unit.correct)
    for name, chosen, rate in (("tf", unit.tf, "correction"), ("ts", unit.ts, "damage")):
        weights = unit.weights(chosen, resamples, seed)
        hit = unit.correct if name == "tf" else 1 - unit.correct
        columns[f"n_{name}"] = known[..., chosen].sum(-1)
        columns["corrected" if name == "tf" else "damaged"] = np.nansum(hit[..., chosen], axis=-1)
        mean, low, high = _interval(hit, weights)
        columns |= {f"{rate}_rate": mean, f"{rate}_low": low, f"{rate}_high": high}
        mean, low, high = _interval(change, weights)
        columns |= {f"log_odds_change_{name}": mean, f"log_odds_low_{name}": low, f"log_odds_high_{name}": high}
    gained = np.nansum(unit.correct[..., ~unit.correct_before], axis=-1)
    lost = np.nansum(1 - unit.correct[..., unit.correct_before], axis=-1)
    p = mcnemar(gained, lost)
    columns |= {"n": known.sum(-1), "gained": gained, "lost": lost, "p_mcnemar": p}
    columns["p_holm"] = np.stack([holm(row) for row in p])
    counts = ["n_tf", "corrected", "n_ts", "damaged", "n", "gained", "lost"]
    frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
    frame[counts] = frame[counts].astype(int)
    c, k = unit.correct.shape[:2]
    return frame.assign(
        **dict(zip(SERIES, unit.key, strict=True)),
        condition=np.repeat(unit.conditions, k),
        layer=np.tile(unit.layers, c),
    )


CONTRASTS = [
    *SERIES,
    "control",
    "lacks_concept",
    "at",
    "layer",
    "n",
    *("difference", "low", "high"),
    *("log_odds_difference", "log_odds_low", "log_odds_high"),
    "only_treatment",
    "only_control",
    "p_mcnemar",
    "p_holm",
    "p_layers",
]


def contrasts(units: Sequence[Unit], resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The treatment minus each control, on the TF items that both have. If the control lacks the concept, the
    difference is attributable to the concept; that of a map and its placebos, to the map.

    Returns:
        one row per unit, control and layer, and one for the mean over the middle third of the layers (``at``; no
        layer): `CONTRASTS`. difference is of correction rates, log_odds_difference of the gold option's log-odds.
        p_mcnemar is exact, on the items that only one of the two corrects; p_holm adjusts it over the layers.
        p_layers is from `max_t`.
    """
    parts = [
        _contrast(unit, control, resamples, seed)
        for unit in units
        for control, name in enumerate(unit.conditions)
        if treatment_of(name) in unit.conditions
    ]
    return pd.concat([pd.DataFrame(columns=CONTRASTS), *parts])[CONTRASTS]


def _contrast(unit: Unit, control: int, resamples: int, seed: int) -> pd.DataFrame:
    treatment = unit.conditions.index(treatment_of(unit.conditions[control]))
    both = unit.tf & ~np.isnan(unit.correct[[treatment, control]]).any(axis=(0, 1))
    weights = unit.weights(both, resamples, seed)
    treated, controlled = unit.correct[treatment], unit.correct[control]
    rows: dict[str, Array] = {}
    for names, values in (
        (("difference", "low", "high"), treated - controlled),
        (
            ("log_odds_difference", "log_odds_low", "log_odds_high"),
            unit.log_odds[treatment] - unit.log_odds[control],
        ),
    ):
        if unit.middle.any():
            values = np.vstack([values, values[unit.middle].mean(0)])
        rows |= dict(zip(names, _interval(values, weights), strict=True))
    only = ((treated > controlled)[:, both].sum(-1), (treated < controlled)[:, both].sum(-1))
    p = mcnemar(*only)
    more = [np.nan] * int(unit.middle.any())
    name = unit.conditions[control]
    return pd.DataFrame(rows).assign(
        **dict(zip(SERIES, unit.key, strict=True)),
        control=name,
        lacks_concept=name in LACK_CONCEPT or is_placebo(name),
        at=["layer"] * len(unit.layers) + [MIDDLE] * len(more),
        layer=[*unit.layers, *more],
        n=int(both.sum()),
        only_treatment=[*only[0], *more],
        only_control=[*only[1], *more],
        p_mcnemar=[*p, *more],
        p_holm=[*holm(p), *more],
        p_layers=[*max_t((treated - controlled)[:, both], pd.factorize(unit.clusters)[0][both], seed), *more],
    )


CATEGORIES = [*SERIES, "condition", "layer", "category", "n_tf", "corrected", "correction_rate"]


def by_category(units: Sequence[Unit]) -> pd.DataFrame:
    """Correction rates by the items' semantic category, where items have one: `CATEGORIES`."""
    parts = []
    for unit in (unit for unit in units if not all(map(is_kept, unit.conditions))):
        for category in sorted(set(unit.category) - {""}):
            chosen = unit.tf & (unit.category == category)
            for c, condition in enumerate(unit.conditions):
                values = unit.correct[c][:, chosen]
                n = (~np.isnan(values)).sum(-1)
                corrected = np.nansum(values, axis=-1).astype(int)
                part = pd.DataFrame({"layer": unit.layers, "n_tf": n, "corrected": corrected})
                part["correction_rate"] = part["corrected"] / part["n_tf"].where(part["n_tf"] > 0)
                names = dict(zip(SERIES, unit.key, strict=True))
                parts.append(part.assign(**names, condition=condition, category=category))
    return pd.concat([pd.DataFrame(columns=CATEGORIES), *parts])[CATEGORIES]


SUMMARY = [
    *SERIES,
    "condition",
    "n_tf",
    "n_ts",
    "best_layer",
    "best_correction",
    *("middle_correction", "middle_low", "middle_high"),
    "middle_damage",
    "strongest_control",
    *("attributable", "attributable_low", "attributable_high"),
    *("carrying_layers", "p_somewhere"),
]


def summary(units: Sequence[Unit], resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """One row per condition.

    Returns:
        `SUMMARY`: the layer that corrects most TF items (the first of ties) and its rate; the mean correction rate over
        the middle third of the layers, which is free of selection; for the treatment, the part of that mean that
        exceeds the strongest control without the concept; ``carrying_layers``: layers at which it corrects more than
        every such control (each contrast's p, adjusted over the layers, below .05); ``p_somewhere``: the smallest, over
        layers, of the largest p over controls.
    """
    rows = []
    for unit in units:
        against = contrasts([unit], resamples, seed)
        against = against[against["lacks_concept"].astype(bool)]
        weights = unit.weights(unit.tf, resamples, seed)
        for c, condition in enumerate(unit.conditions):
            row: dict[str, Any] = dict(zip(SERIES, unit.key, strict=True)) | {"condition": condition}
            row |= {"n_tf": int(unit.tf.sum()), "n_ts": int(unit.ts.sum())}
            rates = _mean(unit.correct[c], unit.tf[None].astype(float))[0]
            if not np.isnan(rates).all():
                best = int(np.nanargmax(rates))
                row |= {"best_layer": int(unit.layers[best]), "best_correction": rates[best]}
            if unit.middle.any():
                middle = unit.correct[c][unit.middle].mean(0)
                found = _interval(middle[None], weights)
                names = ("middle_correction", "middle_low", "middle_high")
                row |= {name: float(value[0]) for name, value in zip(names, found, strict=True)}
                row["middle_damage"] = float(_mean((1 - middle)[None], unit.ts[None].astype(float))[0, 0])
            own = against[against["control"].map(treatment_of) == condition]
            by_layer = own[(own["at"] == "layer") & (own["n"] > 0)].groupby("layer")
            worst, least_of = by_layer["p_layers"].max(), by_layer["difference"].min()
            own = own[own["at"] == MIDDLE]
            if len(worst):
                carrying = [int(layer) for layer in worst.index if worst[layer] < 0.05 and least_of[layer] > 0]
                row |= {"carrying_layers": " ".join(map(str, carrying)), "p_somewhere": worst[least_of > 0].min()}
            if own["difference"].notna().any():
                least = own.iloc[int(own["difference"].argmin())]
                row |= {"strongest_control": least["control"], "attributable": least["difference"]}
                row |= {"attributable_low": least["low"], "attributable_high": least["high"]}
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY).astype({"best_layer": "Int64"})
