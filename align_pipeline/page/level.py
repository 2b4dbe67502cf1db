"""Columns of correlations over languages, and the order of their tables."""

from __future__ import annotations

import pandas as pd

from align_pipeline.figures import style
from align_pipeline.page.html import (
    Column,
    as_count,
    as_p,
    interval_column,
    number_column,
    value_of,
)

LEVEL_COLUMNS = [
    Column("n", value_of("n"), as_count),
    number_column("Pearson", "pearson"),
    interval_column("pearson_low", "pearson_high"),
    Column("p", value_of("pearson_p"), as_p),
    number_column("Spearman", "spearman"),
    interval_column("spearman_low", "spearman_high"),
    Column("p", value_of("spearman_p"), as_p),
    number_column("given fertility", "partial_pearson"),
    Column("p", value_of("partial_pearson_p"), as_p),
]


def in_order(table: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    """Tables by direction or series, those of most interest first."""
    order = list(style.METRICS)
    groups = [
        ((str(k[0]), str(k[1]), str(k[2])), rows) for k, rows in table.groupby(["alignment_task", "metric", "pooling"])
    ]
    return sorted(groups, key=lambda g: (order.index(g[0][1]) if g[0][1] in order else len(order), g[0]))
