"""English against another pivot: whose activations make more of the failed items right?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from align_pipeline.config.patch import TREATMENT
from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.resampling import MIN_CLUSTERS
from align_pipeline.inference.tuning import paired
from align_pipeline.measurements.patching.units import SERIES, Unit

EVERY = ""
"""The language of rows of all languages together."""
PLACE = ["model", "task", "component", "site", "window"]
PATCHING_PIVOTS = [
    *(*PLACE, "pivot_language", "language"),
    *("n_languages", "n", "n_clusters", "english", "other", "difference", "low", "high", "p", "p_holm", "note"),
]


def by_pivot(units: Sequence[Unit]) -> pd.DataFrame:
    """The correction rate with English activations minus that with another pivot's, on the same items.

    An item counts if it is right in English and in the pivot, wrong in the language, and was patched from both.

    Args:
        units: from `units.join`.

    Returns:
        `PATCHING_PIVOTS`, a row per kind of patch, pivot and language, and one for all languages together (language
        `EVERY`; each failed item of a language counts once): mean rates over the middle third of the layers, English's
        lead with its 95% interval and two-sided p, with errors clustered by the items' clusters; ``p_holm`` adjusts p
        over pivots, or over pivots and languages.
    """
    rows = []
    for key, part in _by_place(units):
        pivots = dict.fromkeys(unit.key[4] for unit in part)
        for pivot in pivots if ENGLISH in pivots else ():
            if pivot != ENGLISH:
                rows += [dict(zip(PLACE, key, strict=True)) | row for row in _compare(part, pivot)]
    table = pd.DataFrame(rows, columns=PATCHING_PIVOTS)
    families = table.groupby([*PLACE, table["language"] == EVERY])["p"]
    return table.assign(p_holm=families.transform(lambda p: adjusted(p.astype(float))))


def _by_place(units: Sequence[Unit]) -> Iterator[tuple[tuple[Any, ...], list[Unit]]]:
    """Units of whole layers with the treatment, by `PLACE`."""

    def place(unit: Unit) -> tuple[Any, ...]:
        values = dict(zip(SERIES, unit.key, strict=True))
        return tuple(values[name] for name in PLACE)

    able = [unit for unit in units if TREATMENT in unit.conditions and unit.key[-1] < 0 and unit.middle.any()]
    for key, part in groupby(sorted(able, key=place), place):
        yield key, list(part)


def _compare(units: Sequence[Unit], pivot: str) -> Iterator[dict[str, Any]]:
    """A row per language, and that of all languages together."""
    english, other = (
        {unit.key[2:4]: _failed(unit) for unit in units if unit.key[4] == name} for name in (ENGLISH, pivot)
    )
    both = {key: english[key].join(other[key]["rate"], rsuffix="_other").dropna() for key in english if key in other}
    if not both:
        return
    for language, items in [(EVERY, pd.concat(both.values())), *((str(key[0]), rows) for key, rows in both.items())]:
        codes = pd.factorize(items["cluster"])[0]
        before, after = (items[name].to_numpy(float)[:, None, None] for name in ("rate_other", "rate"))
        found = paired(before, after, codes)
        row = {name: value if isinstance(value, int) else value[0] for name, value in found.items()}
        row |= {"pivot_language": pivot, "language": language, "english": row["after"], "other": row["before"]}
        row["n_languages"] = sum(len(rows) > 0 for rows in both.values()) if language == EVERY else int(len(items) > 0)
        if 0 < row["n_clusters"] < MIN_CLUSTERS:
            note = f"no interval, because {row['n_clusters']} clusters are too few"
            row |= {"low": np.nan, "high": np.nan, "p": np.nan, "note": note}
        if np.isnan(row["p"]):  # that all clusters agree is no certainty
            row |= {"low": np.nan, "high": np.nan}
        yield row


def _failed(unit: Unit) -> pd.DataFrame:
    """Cluster, and mean correction over the middle third of the layers, of the items that fail; by id."""
    treated: NDArray[Any] = unit.correct[unit.conditions.index(TREATMENT)]
    rate = treated[unit.middle][:, unit.tf].mean(axis=0)
    return pd.DataFrame({"rate": rate, "cluster": unit.clusters[unit.tf]}, index=unit.items[unit.tf])
