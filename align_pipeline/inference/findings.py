"""The tests over items and the chance levels of a study, as tables: what the verdicts and the report are made of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
from scipy import stats

from align_pipeline.inference import permutation, resampling, same_item
from align_pipeline.inference.arrays import Bundle, bundle
from align_pipeline.inference.study import BLOCK, SERIES, Array, Study

ITEMS_BY_LANGUAGE = [
    *("model", "task", "language", "pivot", "metric", "pooling", "layer", "n_ts", "n_tf", "n_clusters"),
    *("difference", "low", "high", "cross_fitted", "z", "p", "p_languages", "p_somewhere", "note"),
]
ITEMS_POOLED = [
    *("model", "task", "metric", "pooling", "at", "layer", "n_items", "n_clusters", "n_languages"),
    *("odds_ratio", "low", "high", "z", "p", "p_layers", "note"),
]
SAME_ITEM = [
    *("model", "task", "metric", "pooling", "form", "effect", "unit", "low", "high", "p"),
    *("n", "n_items", "n_clusters", "n_languages", "note"),
]
CHANCE = [
    *("model", "task", "language", "pivot", "metric", "pooling", "layer", "best_layer", "n", "share", "cross_fitted"),
    *("chance", "deranged", "above", "low", "high", "common_n", "at_common_n"),
]
_FEW = f"fewer than {permutation.MIN_CLUSTERS} clusters of items can change places"


@dataclass(frozen=True)
class Findings:
    """Tables of the columns above; p values are two-sided.

    Attributes:
        items_by_language: TS against TF at each language's best layer: ``difference`` in shares with its 95% cluster
            bootstrap interval, ``cross_fitted`` the same at a layer that other items chose; ``p`` from permutations,
            ``p_languages`` adjusted over languages (max-T), ``p_somewhere`` of the largest of all layers (max-T).
        items_pooled: TS against TF over all languages at once, ``at`` each `layer`, at every language's `best_layer`,
            and `somewhere`: the layer with the largest |z|, ``low`` and ``high`` holding for all layers at once.
        same_item: see `same_item`, in the forms `linear` and `conditional_logit`.
    """

    items_by_language: pd.DataFrame
    items_pooled: pd.DataFrame
    same_item: pd.DataFrame


def findings(study: Study, cells: pd.DataFrame, seed: int = 0, count: int = permutation.PERMUTATIONS) -> Findings:
    """Every test over the items of a study.

    Args:
        study: from `join`.
        cells: from `tally`.
        seed: of permutations and resamples.
        count: permutations, and resamples behind intervals at most `resampling.RESAMPLES`.
    """
    own: list[dict[str, Any]] = []
    pooled: list[dict[str, Any]] = []
    same: list[dict[str, Any]] = []
    for key, block in study.blocks.items():
        arrays = bundle(study, key, block, cells)
        if arrays is None:
            continue
        about = dict(zip(BLOCK, key, strict=True))
        test = permutation.run(arrays, count=count, seed=seed)
        sides = resampling.Sides.of(arrays, transfer=True)
        drawn = resampling.weights(arrays.cluster, min(count, resampling.RESAMPLES), np.random.default_rng([seed, 1]))
        own += [about | row for row in _by_language(arrays, test, sides, drawn, seed)]
        pooled += [about | row for row in _pooled(arrays, test, sides, drawn)]
        same += [about | row for row in _same_item(arrays)]
    return Findings(
        pd.DataFrame(own, columns=ITEMS_BY_LANGUAGE),
        pd.DataFrame(pooled, columns=ITEMS_POOLED).astype({"layer": "Int64"}),
        pd.DataFrame(same, columns=SAME_ITEM),
    )


def _by_language(
    arrays: Bundle, test: permutation.Test | None, sides: resampling.Sides, drawn: Array, seed: int
) -> Iterator[dict[str, Any]]:
    counts = resampling.counts(sides, arrays.at_best, drawn)
    values = resampling.difference(*counts)
    low, high = resampling.interval(values, arrays.clusters)
    _, fitted = resampling.cross_fitted(arrays, seed=seed)
    for u, (language, pivot) in enumerate(arrays.units):
        n_ts, n_tf = int(counts[1][0, u]), int(counts[3][0, u])
        row = {"language": language, "pivot": pivot, "layer": int(arrays.layers[arrays.best[u]])}
        row |= {"n_ts": n_ts, "n_tf": n_tf, "n_clusters": arrays.clusters, "difference": values[0, u]}
        row |= {"low": low[u], "high": high[u], "cross_fitted": fitted[u]}
        if not n_ts or not n_tf:
            reason = f"no item is right in English and {'right' if not n_ts else 'wrong'} in {language}"
        elif test is None:
            reason = _FEW
        elif np.isnan(test.z[u, arrays.best[u]]):
            reason = (
                f"{'all' if np.nanmean(arrays.at_best[:, u]) > 0 else 'none'} of the items are aligned at this layer"
            )
        else:
            reason = ""
            row |= {"z": float(test.z[u, arrays.best[u]]), "p": test.p[u], "p_languages": test.p_languages[u]}
        if test is not None:
            row["p_somewhere"] = test.p_somewhere[u]
        yield row | {"note": f"not defined, because {reason}" if reason else ""}


def _pooled(
    arrays: Bundle, test: permutation.Test | None, sides: resampling.Sides, drawn: Array
) -> Iterator[dict[str, Any]]:
    size = {"n_items": len(arrays.items), "n_clusters": arrays.clusters, "n_languages": len(arrays.units)}
    if test is None:
        yield size | {"at": "best_layer", "note": f"not defined, because {_FEW}"}
        return
    best = resampling.odds_ratio(*resampling.counts(sides, arrays.at_best, drawn))
    low, high = resampling.interval(best, arrays.clusters)
    effect = {"odds_ratio": np.exp(best[0]), "low": np.exp(low), "high": np.exp(high)}
    note = (
        "" if not np.isnan(best[0]) else "not defined, because the pooled odds ratio is zero, infinite or of no items"
    )
    yield size | effect | {"at": "best_layer", "z": test.best_z, "p": test.best_p, "note": note}
    layers = []
    for k in range(len(arrays.layers)):
        layers.append(resampling.odds_ratio(*resampling.counts(sides, arrays.aligned[:, :, k], drawn)))
    every = np.stack(layers, axis=1)  # [1 + B, K]
    low, high = resampling.interval(every, arrays.clusters)
    error = resampling.error(every)
    rows = []
    for k, layer in enumerate(arrays.layers):
        row = size | {"at": "layer", "layer": int(layer), "odds_ratio": np.exp(every[0, k])}
        row |= {"low": np.exp(low[k]), "high": np.exp(high[k]), "z": float(test.pooled_z[k])}
        missing = np.isnan(every[0, k])
        reason = "not defined, because the pooled odds ratio is zero, infinite or of no items" if missing else ""
        rows.append(row | {"p": test.pooled_p_layer[k], "p_layers": test.pooled_p_layers[k], "note": reason})
    sizes = np.where(arrays.inner & ~np.isnan(test.pooled_z), np.abs(test.pooled_z), -1)
    k = int(sizes.argmax())
    if sizes[k] >= 0:
        reach = test.critical * error[k]
        ends = {"low": np.exp(every[0, k] - reach), "high": np.exp(every[0, k] + reach)}
        yield rows[k] | ends | {"at": "somewhere", "p": test.pooled_p_somewhere, "p_layers": np.nan}
    yield from rows


def _same_item(arrays: Bundle) -> Iterator[dict[str, Any]]:
    for form, fit, unit in (
        ("linear", same_item.linear, "share of right answers"),
        ("conditional_logit", same_item.conditional_logit, "odds ratio"),
    ):
        found = fit(arrays)
        ends = np.array([found.value, found.low, found.high])
        effect, low, high = np.exp(ends) if unit == "odds ratio" else ends
        row = {"form": form, "effect": effect, "unit": unit, "low": low, "high": high, "p": found.p, "n": found.n}
        row |= {"n_items": found.items, "n_clusters": found.clusters, "n_languages": len(arrays.units)}
        yield row | {"note": found.note}


def chance(study: Study, cells: pd.DataFrame, baselines: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """What the shares of aligned items are by chance, and how far they are above it.

    Args:
        study: from `join`.
        cells: from `tally`.
        baselines: as `BASELINES`; empty where the runs have none.
        seed: of the halves behind ``cross_fitted``.

    Returns:
        columns `CHANCE`, a row per language, metric and layer. ``chance``: the share where items are compared with
        other items; ``deranged``: where X's options are out of order; ``above``: share less chance, over the items
        that have both, with the 95% interval of clustered errors; ``at_common_n``: the share among so many sentences
        (``common_n``). ``cross_fitted``: the share at a best layer that other items chose, in the best layer's row.
    """
    columns = [*SERIES, "layer", "best_layer", "n", "share"]
    table = cells[columns].copy()
    for name in ("chance", "deranged", "above", "low", "high", "at_common_n", "cross_fitted"):
        table[name] = np.nan
    table["common_n"] = pd.array([pd.NA] * len(table), dtype="Int64")
    parts = []
    for key, block in study.blocks.items():
        own = table[(table[BLOCK] == pd.Series(dict(zip(BLOCK, key, strict=True)))).all(axis="columns")].copy()
        _add_cross_fitted(own, study, key, seed, cells)
        found = baselines[(baselines[BLOCK] == pd.Series(dict(zip(BLOCK, key, strict=True)))).all(axis="columns")]
        parts.append(_with_baselines(own, study.items.iloc[block.rows], block.layers, block.values, found))
    return pd.concat(parts, ignore_index=True)[CHANCE] if parts else pd.DataFrame(columns=CHANCE)


def _add_cross_fitted(
    own: pd.DataFrame, study: Study, key: tuple[str, str, str, str], seed: int, cells: pd.DataFrame
) -> None:
    arrays = bundle(study, key, study.blocks[key], cells)
    if arrays is None:
        return
    shares, _ = resampling.cross_fitted(arrays, seed=seed)
    found = dict(zip(arrays.units, shares, strict=True))
    best = own["best_layer"].to_numpy(bool)
    units = zip(own.loc[best, "language"], own.loc[best, "pivot"], strict=True)
    own.loc[best, "cross_fitted"] = [found[unit] for unit in units]


def _with_baselines(
    own: pd.DataFrame, items: pd.DataFrame, layers: Array, values: Array, baselines: pd.DataFrame
) -> pd.DataFrame:
    if baselines.empty:
        return own
    index = _names(items)
    place = {(str(r.language), str(r.pivot), int(str(r.layer))): r.Index for r in own.itertuples()}
    units = items.reset_index(drop=True).groupby(["language", "pivot"]).indices
    baselines = baselines.drop_duplicates([*SERIES, "layer", "item_id", "kind"])
    for kind, rows in baselines.groupby("kind", observed=True):
        at = index.get_indexer(_names(rows))
        known = at >= 0
        table = np.full(values.shape, np.nan)
        table[at[known], np.searchsorted(layers, rows["layer"])[known]] = rows["value"].to_numpy(float)[known]
        first = rows.drop_duplicates(["language", "pivot", "item_id"])
        cluster = pd.Series(first["cluster"].to_numpy(object), index=_names(first)).reindex(index).to_numpy(object)
        differs = np.where(values < 0, np.nan, values) - table
        for unit, position in units.items():
            language, pivot = cast(tuple[str, str], unit)
            for k, layer in enumerate(layers):
                where = place.get((language, pivot, int(layer)))
                if where is None or np.isnan(table[position, k]).all():
                    continue
                value = np.nanmean(table[position, k])
                if kind == "mismatched":
                    own.loc[where, "chance"] = value
                    above, low, high = _mean_interval(differs[position, k], cluster[position])
                    own.loc[where, "above"], own.loc[where, "low"], own.loc[where, "high"] = above, low, high
                elif kind == "deranged":
                    own.loc[where, "deranged"] = value
                else:
                    own.loc[where, "at_common_n"], own.loc[where, "common_n"] = value, int(rows["n"].iloc[0])
    return own


def _names(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["language", "pivot", "item_id"]].astype(object))


def _mean_interval(values: Array, cluster: Array) -> tuple[float, float, float]:
    """Mean with its 95% interval, errors clustered."""
    known = ~np.isnan(values)
    if not known.any():
        return np.nan, np.nan, np.nan
    codes = pd.factorize(cluster[known])[0]
    mean, count = float(values[known].mean()), int(codes.max()) + 1
    if count < 2:
        return mean, np.nan, np.nan
    sums = np.bincount(codes, values[known] - mean)
    error = np.sqrt((sums**2).sum() * count / (count - 1)) / known.sum()
    reach = stats.t.ppf(0.975, count - 1) * error
    return mean, mean - reach, mean + reach
