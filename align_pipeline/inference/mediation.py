"""Tuning: did the items whose alignment rose become right? An association, which does not show what caused what.

An item that was right cannot become right, and an aligned item's alignment cannot rise: compared over all items, both
changes would regress to the mean together wherever alignment and answers were associated before. Therefore only answers
that were wrong before are compared, and among them those that were equally aligned before. The layer is the base's best
layer of each language.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from align_pipeline.inference.same_item import MIN_ITEMS, Effect, jackknife, slope, varying
from align_pipeline.inference.study import Array
from align_pipeline.inference.tuning import ABOUT, TRAINED, Aligned, Pairs, Preset

MIN_SIDE = 10
"""Minimum number of answers whose alignment rose, and of others."""
MEDIATION = [
    *(*ABOUT, "metric", "pooling", "form", "language", "pivot", "layer", "n", "n_items", "n_clusters"),
    *("n_rose", "right_rose", "right_other", "effect", "low", "high", "p", "p_holm", "note"),
]


Start = tuple[Array, Array, Array, Array]
"""[N, U] each, of one seed: wrong before and known; aligned before; right after; aligned after."""


def mediation(of: Pairs, metric: Aligned) -> pd.DataFrame:
    """Answers that became right, by whether their alignment rose; in the languages that were trained on.

    Returns:
        columns `MEDIATION`; ``effect`` is in shares of answers that became right, a mean over seeds. ``form``:
        `within_language`: of the answers wrong and not aligned before, those that became aligned minus those that did
        not, per language and over all languages (with an effect per language). `same_item`: of the answers wrong
        before, right after on aligned after, given alignment before, with an effect per item (its difficulty) and per
        language.
    """
    rows = []
    for preset in metric.presets:
        about = of.about(preset) | {"metric": metric.base.key[2], "pooling": metric.base.key[3], "pivot": ""}
        for row, found in _effects(of, preset, metric):
            none = {} if found.n else dict.fromkeys(("n", "n_items", "n_clusters"))
            rows.append(about | vars(found) | none | {"effect": found.value} | row)
    counts = dict.fromkeys(("layer", "n", "n_items", "n_clusters", "n_rose"), "Int64")
    return pd.DataFrame(rows, columns=MEDIATION).astype(counts)


def _effects(of: Pairs, preset: Preset, metric: Aligned) -> Iterator[tuple[dict[str, Any], Effect]]:
    """The rows of one preset: what a row is about and counts, and its effect."""
    base = metric.base
    u = [u for u, (language, _) in enumerate(base.units) if language in preset.versions[0].languages]
    if not u:
        none = Effect(note="not defined, because none of the languages that were trained on is in the tables")
        yield {"form": "within_language", "language": TRAINED}, none
        yield {"form": "same_item", "language": TRAINED}, none
        return
    right, aligned = base.right[:, u], metric.at_best(of.model)[:, u]
    seeds: list[Start] = []
    for one in preset.versions:
        after, aligned_after = metric.right[one.model][:, u], metric.at_best(one.model)[:, u]
        start = (right == 0) & ~np.isnan(aligned) & ~np.isnan(after) & ~np.isnan(aligned_after)
        seeds.append((start, aligned, after, aligned_after))
    yield {"form": "within_language", "language": TRAINED} | _shares(seeds), _within_language(seeds, base.cluster)
    yield {"form": "same_item", "language": TRAINED}, _same_item(seeds, base.cluster)
    for i, unit in enumerate(u):
        own = [(a[:, [i]], b[:, [i]], c[:, [i]], d[:, [i]]) for a, b, c, d in seeds]
        row: dict[str, Any] = {"form": "within_language", "layer": int(base.layers[base.best[unit]])}
        row |= dict(zip(("language", "pivot"), base.units[unit], strict=True))
        yield row | _shares(own), _within_language(own, base.cluster)


def _shares(seeds: list[Start]) -> dict[str, Any]:
    """Answers wrong and not aligned before: how many became aligned, and the shares that became right; over seeds."""
    rose = np.concatenate([after[start & (aligned == 0)] for start, aligned, _, after in seeds]) == 1
    right = np.concatenate([right[start & (aligned == 0)] for start, aligned, right, _ in seeds])
    shares = {name: right[of].mean() if of.any() else np.nan for name, of in (("rose", rose), ("other", ~rose))}
    return {"n_rose": int(rose.sum()), **{f"right_{name}": share for name, share in shares.items()}}


def _within_language(seeds: list[Start], cluster: Array) -> Effect:
    fits = []
    for start, aligned, right, aligned_after in seeds:
        item, language = np.nonzero(start & (aligned == 0))
        y, x = right[item, language], aligned_after[item, language].astype(float)
        if min(x.sum(), len(x) - x.sum()) < MIN_SIDE:
            of = "became aligned" if x.sum() < MIN_SIDE else "did not become aligned"
            return Effect(note=f"not defined, because fewer than {MIN_SIDE} answers wrong and not aligned before {of}")
        stratum = np.unique(language, return_inverse=True)[1]
        fits.append((item, slope(y, x, stratum, np.empty((len(y), 0)), cluster[item])))
    return _over_seeds(fits, cluster)


def _same_item(seeds: list[Start], cluster: Array) -> Effect:
    if seeds[0][0].shape[1] < 2:
        return Effect(
            note="not defined, because one language was trained on, and an item is compared over the trained languages"
        )
    fits = []
    for start, aligned, right, aligned_after in seeds:
        item, language = np.nonzero(start & (start.sum(axis=1, keepdims=True) > 1))
        y, x = right[item, language], aligned_after[item, language].astype(float)
        stratum = np.unique(item, return_inverse=True)[1]
        if varying(stratum, x, y) < MIN_ITEMS:
            return Effect(
                note=f"not defined, because fewer than {MIN_ITEMS} items wrong before in several languages differ "
                "between them both in alignment and in being right after",
            )
        others = np.column_stack([aligned[item, language], np.eye(start.shape[1])[language][:, 1:]])
        fits.append((item, slope(y, x, stratum, others, cluster[item])))
    return _over_seeds(fits, cluster)


def _over_seeds(fits: list[tuple[Array, tuple[float, Array] | None]], cluster: Array) -> Effect:
    """The mean of the seeds' slopes; leaving out a cluster changes all of them, so that seeds need not be independent.

    Args:
        fits: per seed: [R], items of its answers; its slope and changes by cluster, as far as the last cluster it has.
        cluster: [N].
    """
    values, changes = [], np.zeros((len(fits), int(cluster.max()) + 1))
    has = np.zeros(changes.shape[1], bool)
    for i, (item, fit) in enumerate(fits):
        if fit is None:
            return Effect(note="not defined, because the other terms determine which answers became aligned")
        values.append(fit[0])
        changes[i, : len(fit[1])] = fit[1]
        has[cluster[item]] = True
    items = np.unique(np.concatenate([item for item, _ in fits]))
    found = jackknife(float(np.mean(values)), changes.mean(axis=0)[has], sum(len(item) for item, _ in fits), len(items))
    return found if not np.isnan(found.p) else replace(found, note="p not defined, because no answer became right")
