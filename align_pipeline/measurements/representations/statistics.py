"""Summaries of the table that job and report share."""

from __future__ import annotations

import pandas as pd

KEYS = ["language", "pivot", "measure", "pooling"]


def middle_third(table: pd.DataFrame, last: int | None = None) -> pd.DataFrame:
    """Means of value and chance over the layers from one third to two thirds of the depth, which no result has chosen.

    Args:
        table: rows of `REPRESENTATIONS` of one model and task.
        last: L; None: the highest layer of the table. If no reported layer is in the middle third, all are used.

    Returns:
        A row per language, pivot, measure and pooling, in the table's order: value, chance, n.
    """
    depth = table["layer"].max() if last is None else last
    inside = table["layer"].between(depth / 3, 2 * depth / 3)
    rows = table[inside] if inside.any() else table
    means = rows.groupby(KEYS, sort=False, observed=True)
    return means.agg(value=("value", "mean"), chance=("chance", "mean"), n=("n", "first")).reset_index()
