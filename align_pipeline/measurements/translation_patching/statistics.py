"""Statistics of patched translations, from ``translation_patching.parquet`` only.

Scores are corpus scores, BLEU and chrF++ as sacrebleu computes them from the rows' statistics. Intervals are 95%
percentile intervals of a paired bootstrap over sentences (Koehn 2004).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.config.patch import TREATMENT, UNPATCHED
from align_pipeline.measurements.patching.statistics import LACK_CONCEPT, MIDDLE, RESAMPLES
from align_pipeline.measurements.patching.units import FIRST_THIRD, LAST_THIRD

SERIES = ["model", "task", "direction", "language", "component", "site", "window"]

Array = NDArray[Any]


def bleu(sums: Array) -> Array:
    """Corpus BLEU with sacrebleu's exponential smoothing: [..., 10], `scores.sentence_statistics` -> [...]."""
    own, reference, correct, total = sums[..., 0], sums[..., 1], sums[..., 2:6], sums[..., 6:]
    zero = correct == 0
    with np.errstate(divide="ignore", invalid="ignore"):
        # The k-th order without a match counts as 1 / 2^k matches.
        precision = np.where(zero, 0.5 ** zero.cumsum(-1), correct) / total
        brevity = np.exp(np.minimum(1 - reference / own, 0))
        score = 100 * brevity * np.exp(np.log(precision).mean(-1))
    found: Array = np.where(zero.all(-1) | (total == 0).any(-1), 0.0, score)
    return found


def chrf(sums: Array) -> Array:
    """Corpus chrF++ (Popović 2017, beta 2): [..., 24], `scores.sentence_statistics` -> [...]."""
    own, reference, both = (sums[..., k::3] for k in range(3))
    there = (own > 0) & (reference > 0)
    orders = np.maximum(there.sum(-1), 1)
    precision = np.divide(both, own, where=there, out=np.zeros(both.shape)).sum(-1) / orders
    recall = np.divide(both, reference, where=there, out=np.zeros(both.shape)).sum(-1) / orders
    found: Array = 100 * np.divide(
        5 * precision * recall, 4 * precision + recall, where=precision + recall > 0, out=np.zeros(precision.shape)
    )
    return found


SCORES: dict[str, Callable[[Array], Array]] = {"chrf": chrf, "bleu": bleu}


@dataclass(frozen=True)
class Unit:
    """One language's patched translations in one direction.

    Attributes:
        key: values of `SERIES`.
        conditions: [C].
        layers: [K], ascending.
        middle: bool [K], the layers from one third to two thirds of the model's depth.
        n: number of sentences that were translated in all runs.
        scores: by `SCORES`, [1 + R, C, K]: of the sentences, then of each resample; nan where there is no such run.
        before: by `SCORES`, [1 + R]: unpatched.
    """

    key: tuple[Any, ...]
    conditions: tuple[str, ...]
    layers: Array
    middle: Array
    n: int
    scores: dict[str, Array]
    before: dict[str, Array]


def analyse(
    patched: pd.DataFrame, last_layers: dict[str, int] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, pd.DataFrame]:
    """Run all analyses: `effects`, `contrasts` and `summary`, by name.

    Args:
        patched: as `TRANSLATION_PATCHING`; duplicate rows count once.
        last_layers: index L of the last layer, by model; default: the highest patched layer.
        resamples: number of bootstrap resamples.
        seed: of the bootstrap.
    """
    found = units(patched, last_layers or {}, resamples, seed)
    return {"effects": effects(found), "contrasts": contrasts(found), "summary": summary(found)}


def units(patched: pd.DataFrame, last_layers: dict[str, int], resamples: int, seed: int) -> list[Unit]:
    """One unit per language, direction and kind of patch, over the sentences that all its runs have."""
    if patched.empty:
        return []
    rows = patched.astype(dict.fromkeys([*SERIES[:-1], "condition", "item_id"], object))
    rows = rows.drop_duplicates([*SERIES, "condition", "layer", "item_id"])
    highest = dict(rows.groupby("model")["layer"].max()) | last_layers
    found = (_unit(key, part, highest[key[0]], resamples, seed) for key, part in rows.groupby(SERIES, sort=True))
    return [unit for unit in found if unit is not None]


def _unit(key: tuple[Any, ...], rows: pd.DataFrame, last: int, resamples: int, seed: int) -> Unit | None:
    patched = rows[rows["condition"] != UNPATCHED]
    names, layers = list(patched["condition"].unique()), np.sort(patched["layer"].unique())
    counted = rows.groupby("item_id").size()
    ids = sorted(counted.index[counted == len(rows[["condition", "layer"]].drop_duplicates())])
    if not ids:
        return None
    rng = np.random.default_rng([seed, zlib.crc32("/".join(map(str, key)).encode())])
    weights = np.vstack([np.ones(len(ids)), rng.multinomial(len(ids), np.full(len(ids), 1 / len(ids)), resamples)])
    shape = (1 + resamples, len(names), len(layers))
    scores, before = {name: np.full(shape, np.nan) for name in SCORES}, {}
    for (condition, layer), run in rows.groupby(["condition", "layer"]):
        own = run.set_index("item_id").loc[ids]
        for name, score in SCORES.items():
            found = score(weights @ np.stack(own[f"{name}_statistics"].to_list()).astype(float))
            if condition == UNPATCHED:
                before[name] = found
            else:
                scores[name][:, names.index(condition), layers.tolist().index(layer)] = found
    middle = (layers >= FIRST_THIRD * last) & (layers <= LAST_THIRD * last)
    return Unit(key, tuple(names), layers, middle, len(ids), scores, before)


def _compared(name: str, values: Array) -> dict[str, Array]:
    """A difference and its interval: [1 + R, ...] -> columns [...]."""
    low, high = np.percentile(values[1:], [2.5, 97.5], axis=0)
    return {f"{name}_difference": values[0], f"{name}_low": low, f"{name}_high": high}


_DIFFERENCE = ("difference", "low", "high")
EFFECTS = [
    *(*SERIES, "condition", "layer", "n"),
    *(f"{name}{more}" for name in SCORES for more in ("", "_unpatched", *(f"_{d}" for d in _DIFFERENCE))),
]


def effects(found: Sequence[Unit]) -> pd.DataFrame:
    """The effect of each condition at each layer.

    Returns:
        one row per unit, condition and layer: `EFFECTS`; differences are patched minus unpatched.
    """
    parts = []
    for unit in found:
        columns: dict[str, Array] = {}
        for name, scores in unit.scores.items():
            columns |= {name: scores[0], f"{name}_unpatched": np.full(scores[0].shape, unit.before[name][0])}
            columns |= _compared(name, scores - unit.before[name][:, None, None])
        frame = pd.DataFrame({name: values.ravel() for name, values in columns.items()})
        c, k = len(unit.conditions), len(unit.layers)
        own = dict(zip(SERIES, unit.key, strict=True))
        parts.append(
            frame.assign(**own, condition=np.repeat(unit.conditions, k), layer=np.tile(unit.layers, c), n=unit.n)
        )
    return pd.concat([pd.DataFrame(columns=EFFECTS), *parts])[EFFECTS]


CONTRASTS = [
    *(*SERIES, "control", "lacks_concept", "at", "layer", "n"),
    *(f"{name}_{more}" for name in SCORES for more in _DIFFERENCE),
]


def contrasts(found: Sequence[Unit]) -> pd.DataFrame:
    """The treatment minus each control; if a control lacks the concept, the difference is attributable to the concept.

    Returns:
        a row per unit, control and layer, and one for the mean over the middle third of the layers (``at``; no layer):
        `CONTRASTS`.
    """
    parts = [
        _contrast(unit, control)
        for unit in found
        if TREATMENT in unit.conditions
        for control in unit.conditions
        if control != TREATMENT
    ]
    return pd.concat([pd.DataFrame(columns=CONTRASTS), *parts])[CONTRASTS]


def _contrast(unit: Unit, control: str) -> pd.DataFrame:
    one, other = unit.conditions.index(TREATMENT), unit.conditions.index(control)
    middle = bool(unit.middle.any())
    columns: dict[str, Array] = {}
    for name, scores in unit.scores.items():
        values = scores[:, one] - scores[:, other]
        if middle:
            values = np.hstack([values, values[:, unit.middle].mean(1, keepdims=True)])
        columns |= _compared(name, values)
    return pd.DataFrame(columns).assign(
        **dict(zip(SERIES, unit.key, strict=True)),
        control=control,
        lacks_concept=control in LACK_CONCEPT,
        at=["layer"] * len(unit.layers) + [MIDDLE] * middle,
        layer=[*unit.layers, *[np.nan] * middle],
        n=unit.n,
    )


SUMMARY = [
    *(*SERIES, "condition", "n", "unpatched", "best_layer", "best", "best_difference"),
    *("middle_difference", "middle_low", "middle_high", "strongest_control"),
    *("attributable", "attributable_low", "attributable_high"),
]


def summary(found: Sequence[Unit], score: str = "chrf") -> pd.DataFrame:
    """One row per condition.

    Returns:
        `SUMMARY`, for one score: unpatched; the layer with the highest score (the first of ties); the mean difference
        from unpatched over the middle third of the layers, which is free of selection; and for the treatment, the part
        of that mean that exceeds the strongest control without the concept.
    """
    rows = []
    for unit in found:
        against = contrasts([unit])
        against = against[(against["at"] == MIDDLE) & against["lacks_concept"].astype(bool)]
        for c, condition in enumerate(unit.conditions):
            values, before = unit.scores[score][:, c], unit.before[score]
            best = int(np.nanargmax(values[0]))
            row: dict[str, Any] = dict(zip(SERIES, unit.key, strict=True)) | {"condition": condition, "n": unit.n}
            row |= {"unpatched": before[0], "best_layer": int(unit.layers[best]), "best": values[0, best]}
            row["best_difference"] = values[0, best] - before[0]
            if unit.middle.any():
                middle = _compared("m", values[:, unit.middle].mean(1) - before)
                row |= dict(zip(("middle_difference", "middle_low", "middle_high"), middle.values(), strict=True))
            if condition == TREATMENT and against[f"{score}_difference"].notna().any():
                least = against.iloc[int(against[f"{score}_difference"].argmin())]
                row |= {"strongest_control": least["control"], "attributable": least[f"{score}_difference"]}
                row |= {"attributable_low": least[f"{score}_low"], "attributable_high": least[f"{score}_high"]}
            rows.append(row)
    return pd.DataFrame(rows, columns=SUMMARY)
