"""``patching.parquet`` and ``predictions.parquet`` as arrays, one unit per language and kind of patch.

The ``english+`` conditions, which try a language's maps on English runs, have units of their own: their items are right
in English before, so that there are no TF items, and the damage rate is that of English.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp

from align_pipeline.config.patch import is_kept
from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.study import UNIT, clusters, unique_predictions

SERIES = [*UNIT, "pivot_language", "component", "site", "window", "head"]
FIRST_THIRD, LAST_THIRD = 1 / 3, 2 / 3

Array = NDArray[Any]


@dataclass(frozen=True)
class Unit:
    """One language's patched runs, or the English runs that its maps change.

    Attributes:
        key: values of `SERIES`; head is -1 unless heads are patched.
        conditions: [C].
        layers: [K], ascending.
        middle: bool [K], the layers from one third to two thirds of the model's depth.
        correct: float [C, K, n], nan where an item has no such run.
        log_odds: float [C, K, n], of the gold option against all others, in nats.
        items: str [n], their ids.
        correct_before: bool [n], unpatched; in English runs that of English, as is the next.
        log_odds_before: float [n].
        english_correct: bool [n]; in the pivot's language, if that is not English.
        category: str [n].
        clusters: str [n], the items' clusters; names are the same in all units of a task.
    """

    key: tuple[Any, ...]
    conditions: tuple[str, ...]
    layers: Array
    middle: Array
    correct: Array
    log_odds: Array
    items: Array
    correct_before: Array
    log_odds_before: Array
    english_correct: Array
    category: Array
    clusters: Array

    @property
    def tf(self) -> Array:
        """bool [n]."""
        return self.english_correct & ~self.correct_before

    @property
    def ts(self) -> Array:
        """bool [n]."""
        return self.english_correct & self.correct_before

    def weights(self, chosen: Array, resamples: int, seed: int) -> Array:
        """[resamples, n]: how often each item is drawn when the chosen items are resampled with replacement."""
        name = "/".join(map(str, self.key[:4]))
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights = np.zeros((resamples, len(chosen)))
        count = int(chosen.sum())
        if count:
            weights[:, chosen] = rng.multinomial(count, np.full(count, 1 / count), size=resamples)
        return weights


def log_odds(loglikelihoods: Array, gold: Array) -> Array:
    """log(p / (1 - p)) of the gold option, p its softmax over the options; [rows, options], [rows] -> [rows]."""
    values = np.array(loglikelihoods, dtype=float)
    own = np.take_along_axis(values, gold[:, None], axis=1)[:, 0]
    np.put_along_axis(values, gold[:, None], -np.inf, axis=1)
    rest: Array = logsumexp(values, axis=1)
    return own - rest


def join(patching: pd.DataFrame, predictions: pd.DataFrame, last_layers: dict[str, int] | None = None) -> list[Unit]:
    """Join the tables to one unit per language and kind of patch, and one more where English runs are patched;
    duplicate rows count once.

    Args:
        patching: as `PATCHING`.
        predictions: as `PREDICTIONS`.
        last_layers: index L of the last layer, by model; default: the highest patched layer.
    """
    if patching.empty:
        return []
    texts = [*UNIT, "component", "site", "condition", "item_id"]
    rows = patching.astype(dict.fromkeys(texts, object)).assign(head=patching["head"].fillna(-1).astype(int))
    for name, english in (("pivot_language", ENGLISH), ("pivot_set", rows["pivot"])):  # tables from before other pivots
        rows[name] = rows[name].astype(object).fillna(english) if name in rows else english
    rows = rows.drop_duplicates([*SERIES, "condition", "layer", "item_id"])
    rows["log_odds"] = _by_options(rows)
    before = unique_predictions(predictions)[0]
    before["log_odds"] = _by_options(before)
    if "category" not in before:
        before["category"] = ""
    before["cluster"] = clusters(before)
    own = before.set_index([*UNIT, "item_id"])[["correct", "log_odds", "category", "cluster"]]
    highest = dict(rows.groupby("model")["layer"].max()) | (last_layers or {})
    rows["kept"] = rows["condition"].map(is_kept)
    units = []
    for (*series, kept), part in rows.groupby([*SERIES, "kept"], sort=True):
        key = tuple(series)
        model, task, language, pivot, other = key[:5]
        items = sorted(part["item_id"].unique())
        side = ENGLISH if kept else language
        sides = ((side, pivot), (other, part["pivot_set"].iloc[0]))
        known, pivots = (own.reindex(pd.MultiIndex.from_tuples([(model, task, *s, i) for i in items])) for s in sides)
        right = pivots["correct"].to_numpy(float)
        have = known["correct"].notna().to_numpy() & ~np.isnan(right)  # nothing to compare without predictions
        part = part[part["item_id"].isin({i for i, h in zip(items, have, strict=True) if h})]
        known, right, items = known[have], right[have], [i for i, h in zip(items, have, strict=True) if h]
        conditions = tuple(part["condition"].unique())
        layers = np.sort(part["layer"].unique())
        shape = (len(conditions), len(layers), len(items))
        place = (
            pd.Index(conditions).get_indexer(pd.Index(part["condition"])),
            np.searchsorted(layers, part["layer"].to_numpy()),
            pd.Index(items).get_indexer(pd.Index(part["item_id"])),
        )
        filled = {}
        for column in ("correct", "log_odds"):
            filled[column] = np.full(shape, np.nan)
            filled[column][place] = part[column].to_numpy(float)
        units.append(
            Unit(
                key=key,
                conditions=conditions,
                layers=layers,
                middle=(layers >= FIRST_THIRD * highest[model]) & (layers <= LAST_THIRD * highest[model]),
                correct=filled["correct"],
                log_odds=filled["log_odds"],
                items=np.array(items, dtype=object),
                correct_before=known["correct"].to_numpy(float) == 1,
                log_odds_before=known["log_odds"].to_numpy(float),
                english_correct=right == 1,
                category=known["category"].fillna("").to_numpy(object),
                clusters=known["cluster"].to_numpy(object),
            )
        )
    return sorted(units, key=lambda unit: unit.key[4] != ENGLISH)  # English first, else as they were


def _by_options(rows: pd.DataFrame) -> Array:
    """The gold option's log-odds per row, NaN without log-likelihoods; the number of options differs between tasks."""
    found = np.full(len(rows), np.nan)
    counts = rows.get("loglikelihoods", pd.Series(np.nan, rows.index)).map(np.size).to_numpy()
    for count in np.unique(counts[counts > 1]):
        chosen = counts == count
        values = np.stack(rows.loc[chosen, "loglikelihoods"].to_list())
        found[chosen] = log_odds(values, rows.loc[chosen, "gold"].to_numpy(int))
    return found
