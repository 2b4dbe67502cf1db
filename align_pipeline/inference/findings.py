"""Tests over items and chance levels of a study, as tables for the verdicts and the report."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd

from align_pipeline.inference import permutation, resampling, same_item
from align_pipeline.inference.arrays import Bundle, answered, bundle
from align_pipeline.inference.study import BLOCK, SERIES, Array, Block, Study

ITEMS_BY_LANGUAGE = [
    *("model", "task", "language", "pivot", "metric", "pooling", "layer", "n_ts", "n_tf", "n_clusters"),
    *("difference", "low", "high", "cross_fitted", "z", "p", "p_languages", "p_somewhere", "cross_fitted_share"),
    "note",
]
ITEMS_POOLED = [
    *("model", "task", "metric", "pooling", "at", "layer", "n_items", "n_clusters", "n_languages"),
    *("odds_ratio", "low", "high", "high_layers", "z", "p", "p_layers", "note"),
]
SAME_ITEM = [
    *("model", "task", "metric", "pooling", "form", "effect", "unit", "low", "high", "p"),
    *("n", "n_items", "n_clusters", "n_languages", "note"),
]
_OF_BASELINES = ["chance", "deranged", "above", "low", "high", "common_n", "at_common_n"]
CHANCE = [
    *("model", "task", "language", "pivot", "metric", "pooling", "layer", "best_layer", "n", "share", "cross_fitted"),
    *_OF_BASELINES,
]
_NO_RATIO = "not defined, because the pooled odds ratio is zero or infinite, or there are no items"
_FEW = f"fewer than {permutation.MIN_CLUSTERS} clusters of items can be permuted"


@dataclass(frozen=True)
class Findings:
    """Tables of the columns above; p values are two-sided.

    Attributes:
        items_by_language: TS against TF at each language's best layer. ``difference``: difference of shares with its
            95% cluster bootstrap interval; ``cross_fitted``: the same at a layer chosen on other items;
            ``cross_fitted_share``: the share of all items there; ``p``: permutation test; ``p_languages``: over all
            languages (max-T); ``p_somewhere``: of the largest statistic over all layers (max-T). ``n_clusters``: of the
            items that are right in English and have an answer.
        items_pooled: TS against TF pooled over languages. ``at``: each `layer`, every language's `best_layer`, or
            `somewhere`, the layer with the largest |z|, whose ``low`` and ``high`` are simultaneous over all layers.
            ``high_layers`` is the simultaneous upper end of each layer; of `somewhere`, the highest of all layers.
            ``n_*``: of the items that are right in English and have an answer.
        same_item: see `same_item`, in the forms `linear` and `conditional_logit`.
    """

    items_by_language: pd.DataFrame
    items_pooled: pd.DataFrame
    same_item: pd.DataFrame


def findings(study: Study, cells: pd.DataFrame, seed: int = 0, count: int = permutation.PERMUTATIONS) -> Findings:
    """Run all tests over the items of a study.

    Args:
        study: from `join`.
        cells: from `tally`.
        seed: of permutations and resamples.
        count: number of permutations; also of resamples for intervals, up to `resampling.RESAMPLES`.
    """
    own: list[dict[str, Any]] = []
    pooled: list[dict[str, Any]] = []
    same: list[dict[str, Any]] = []
    for arrays in answered(study, cells):
        about = dict(zip(BLOCK, arrays.key, strict=True))
        test = permutation.run(arrays, count=count, seed=seed)
        drawn = resampling.weights(arrays.cluster, min(count, resampling.RESAMPLES), np.random.default_rng([seed, 1]))
        own += [about | row for row in _by_language(arrays, test, drawn, seed)]
        pooled += [about | row for row in _pooled(arrays, test, drawn)]
        same += [about | row for row in _same_item(arrays)]
    return Findings(
        pd.DataFrame(own, columns=ITEMS_BY_LANGUAGE),
        pd.DataFrame(pooled, columns=ITEMS_POOLED).astype({"layer": "Int64"}),
        pd.DataFrame(same, columns=SAME_ITEM),
    )


def _by_language(arrays: Bundle, test: permutation.Test | None, drawn: Array, seed: int) -> Iterator[dict[str, Any]]:
    counts = resampling.counts(arrays, arrays.at_best, drawn)
    values = resampling.difference(*counts)
    share, fitted = resampling.cross_fitted(arrays, seed=seed)
    counted = permutation.counted(arrays)
    for u, (language, pivot) in enumerate(arrays.units):
        n_ts, n_tf = int(counts[1][0, u]), int(counts[3][0, u])
        row: dict[str, Any] = {"language": language, "pivot": pivot, "layer": int(arrays.layers[arrays.best[u]])}
        clusters = len(np.unique(arrays.cluster[counted[:, u]]))
        low, high = resampling.interval(values[:, u], clusters)
        row |= {"n_ts": n_ts, "n_tf": n_tf, "n_clusters": clusters}
        row |= {"difference": values[0, u], "low": float(low), "high": float(high)}
        row |= {"cross_fitted": fitted[u], "cross_fitted_share": share[u]}
        if test is not None:
            row |= {"z": float(test.z[u, arrays.best[u]]), "p": test.p[u]}
            row |= {"p_languages": test.p_languages[u], "p_somewhere": test.p_somewhere[u]}
        if not n_ts or not n_tf:
            reason = f"no item is right in English and {'right' if not n_ts else 'wrong'} in {language}"
        elif test is None:
            reason = _FEW
        elif np.isnan(row["z"]):
            how_many = "all" if np.nanmean(arrays.at_best[:, u]) > 0 else "none"
            reason = f"{how_many} of the items are aligned at this layer"
        else:
            reason = ""
        yield row | {"note": f"not defined, because {reason}" if reason else ""}


def _pooled(arrays: Bundle, test: permutation.Test | None, drawn: Array) -> Iterator[dict[str, Any]]:
    counts = permutation.counted(arrays)
    items = counts.any(axis=1)
    size = {"n_items": int(items.sum()), "n_clusters": len(np.unique(arrays.cluster[items]))}
    size["n_languages"] = int(counts.any(axis=0).sum())
    if test is None:
        yield size | {"at": "best_layer", "note": f"not defined, because {_FEW}"}
        return
    best = resampling.odds_ratio(*resampling.counts(arrays, arrays.at_best, drawn))
    low, high = resampling.interval(best, size["n_clusters"])
    effect = {"odds_ratio": np.exp(best[0]), "low": np.exp(low), "high": np.exp(high)}
    note = _NO_RATIO if np.isnan(best[0]) else ""
    yield size | effect | {"at": "best_layer", "z": test.best_z, "p": test.best_p, "note": note}
    by_layer = np.moveaxis(arrays.aligned, 2, 0)
    ratios = [resampling.odds_ratio(*resampling.counts(arrays, aligned, drawn)) for aligned in by_layer]
    every = np.stack(ratios, axis=1)  # [1 + B, K]
    low, high = resampling.interval(every, size["n_clusters"])
    reach = test.critical * resampling.error(every)
    rows = []
    for k, layer in enumerate(arrays.layers):
        row = size | {"at": "layer", "layer": int(layer), "odds_ratio": np.exp(every[0, k])}
        row |= {"low": np.exp(low[k]), "high": np.exp(high[k]), "high_layers": np.exp(every[0, k] + reach[k])}
        row |= {"z": float(test.pooled_z[k]), "p": test.pooled_p_layer[k], "p_layers": test.pooled_p_layers[k]}
        rows.append(row | {"note": _NO_RATIO if np.isnan(every[0, k]) else ""})
    k = test.strongest
    if k >= 0:
        tested = np.isfinite(test.pooled_z) & arrays.inner  # elsewhere no item is aligned, or every one
        limits = np.array([row["high_layers"] for row in rows])[tested]
        ends = {"low": np.exp(every[0, k] - reach[k]), "high": rows[k]["high_layers"], "high_layers": limits.max()}
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
        row = {"form": form, "effect": effect, "unit": unit, "low": low, "high": high}
        yield vars(found) | row | {"n_languages": len(arrays.units)}


def chance(study: Study, cells: pd.DataFrame, baselines: pd.DataFrame, by_language: pd.DataFrame) -> pd.DataFrame:
    """Chance levels of the shares of aligned items, and the difference to them.

    Args:
        study: from `join`.
        cells: from `tally`.
        baselines: as `BASELINES`; empty if the runs have none.
        by_language: `Findings.items_by_language`, with the cross-fitted shares.

    Returns:
        columns `CHANCE`, one row per language, metric and layer. ``chance``: the share when items are compared with
        other items; ``deranged``: the share when X's options are reordered; ``above``: share minus chance, over the
        items that have both, with the 95% interval from clustered errors; ``at_common_n``: the share among ``common_n``
        sentences; ``cross_fitted``: in the best layer's row, the share at a best layer chosen on other items.
    """
    shares = by_language[[*SERIES, "layer", "cross_fitted_share"]].rename(
        columns={"cross_fitted_share": "cross_fitted"}
    )
    unanswered = set(study.blocks) - set(by_language[BLOCK].itertuples(index=False, name=None))
    shares = pd.concat([shares, *(_cross_fitted(study, key, cells) for key in sorted(unanswered))], ignore_index=True)
    keys = [*SERIES, "layer"]
    table = cells[[*keys, "best_layer", "n", "share"]].astype(dict.fromkeys(SERIES, object))
    table = table.merge(shares.astype(dict.fromkeys(SERIES, object) | {"layer": table["layer"].dtype}), "left", keys)
    rows = baselines.groupby(BLOCK, observed=True).indices  # a search per block takes minutes with many models
    parts = [
        _by_kind(study.items.iloc[block.rows], block, baselines.iloc[rows.get(key, [])]).assign(
            **dict(zip(BLOCK, key, strict=True))
        )
        for key, block in study.blocks.items()
    ]
    found = pd.concat([pd.DataFrame(columns=[*keys, *_OF_BASELINES]), *parts], ignore_index=True)
    found = found.astype({"layer": table["layer"].dtype, **dict.fromkeys(_OF_BASELINES, float), "common_n": "Int64"})
    return table.merge(found, "left", keys)[CHANCE]


def _cross_fitted(study: Study, key: tuple[str, str, str, str], cells: pd.DataFrame) -> pd.DataFrame:
    """Cross-fitted shares for a task without answers: the columns of `SERIES`, layer and cross_fitted."""
    arrays = bundle(study, key, cells)
    table = pd.DataFrame(arrays.units, columns=["language", "pivot"]).assign(**dict(zip(BLOCK, key, strict=True)))
    return table.assign(layer=arrays.layers[arrays.best], cross_fitted=resampling.cross_fitted(arrays)[0])


def _by_kind(items: pd.DataFrame, block: Block, baselines: pd.DataFrame) -> pd.DataFrame:
    """The columns `_OF_BASELINES` of one block, one row per language and layer."""
    index = _names(items)
    baselines = baselines.drop_duplicates([*SERIES, "layer", "item_id", "kind"])
    tables, sizes = {}, {}
    cluster = np.full(len(items), None, object)
    for kind, rows in baselines.groupby("kind", observed=True):
        at = index.get_indexer(_names(rows))
        known = at >= 0
        tables[kind] = np.full(block.values.shape, np.nan)
        column = np.searchsorted(block.layers, rows["layer"])
        tables[kind][at[known], column[known]] = rows["value"].to_numpy(float)[known]
        cluster[at[known]] = rows["cluster"].to_numpy(object)[known]
        sizes[kind] = int(rows["n"].iloc[0])
    parts = []
    for unit, position in items.reset_index(drop=True).groupby(["language", "pivot"]).indices.items():
        language, pivot = cast(tuple[str, str], unit)
        part: dict[str, Any] = {"language": language, "pivot": pivot, "layer": block.layers}
        for kind, name in (("mismatched", "chance"), ("deranged", "deranged"), ("common_n", "at_common_n")):
            if kind in tables:
                part[name] = resampling.means(tables[kind][position])
        if "common_n" in tables:
            part["common_n"] = np.where(np.isnan(part["at_common_n"]), np.nan, sizes["common_n"])
        if "mismatched" in tables:
            value = block.values[position]
            differs = np.where(value < 0, np.nan, value) - tables["mismatched"][position]
            part["above"] = resampling.means(differs)
            known = ~np.isnan(differs)
            influence = np.where(known, differs - part["above"], 0) / np.maximum(known.sum(axis=0), 1)
            own = known.any(axis=1)
            if own.any():
                codes = pd.factorize(cluster[position][own])[0]
                part["low"], part["high"], _ = resampling.clustered(part["above"], influence[own], codes)
        parts.append(pd.DataFrame(part))
    return pd.concat(parts, ignore_index=True).reindex(columns=["language", "pivot", "layer", *_OF_BASELINES])


def _names(rows: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(rows[["language", "pivot", "item_id"]].astype(object))
