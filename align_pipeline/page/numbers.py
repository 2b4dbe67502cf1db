"""Format numbers and names as text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from align_pipeline.figures import style

_METRICS = {"dali_strong": Markup("DALI<sub>S</sub>"), "mexa_t": Markup("MEXA<sub>T</sub>")}


def is_missing(value: Any) -> bool:
    """Whether a value is missing: None, NaN or NA."""
    return value is None or (not isinstance(value, str) and bool(pd.isna(value)))


def as_number(value: Any, digits: int = 3, sign: bool = False) -> str:
    """A number with a fixed number of digits and a typographic minus sign."""
    return f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def as_count(value: Any) -> str:
    """An integer."""
    return f"{int(value):,}"


def as_size(value: Any) -> str:
    """A number of parameters, such as 268M."""
    return style.short(float(value))


def as_p(value: Any) -> str:
    """A p value in a table."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def p_text(value: Any) -> str:
    """A p value in a sentence."""
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def as_range(low: Any, high: Any, digits: int = 2) -> str:
    """An interval in brackets, to follow a number; "" if there is none."""
    return "" if pd.isna(low) or pd.isna(high) else f" [{as_number(low, digits)}, {as_number(high, digits)}]"


def layer_range(layers: Sequence[int]) -> str:
    """Ascending layers in words."""
    whole = len(layers) == layers[-1] - layers[0] + 1
    return f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 2 else ", ".join(map(str, layers))


def task_name(task: str) -> str:
    """Display name of a task."""
    return style.TASKS.get(task, task)


def metric_name(metric: str, pooling: str) -> Markup:
    """Display name of a metric with its pooling; pooling "" leaves it out."""
    name = escape(_METRICS.get(metric, style.METRICS.get(metric, metric)))
    return name + f" ({style.POOLINGS.get(pooling, pooling)})" if pooling else name


def metric_names(metrics: Collection[tuple[str, str]]) -> dict[tuple[str, str], Markup]:
    """Display names of metrics, with the pooling only if a metric has several."""
    count = Counter(metric for metric, _ in metrics)
    return {(metric, pooling): metric_name(metric, pooling if count[metric] > 1 else "") for metric, pooling in metrics}


def metric_of(row: Any) -> Markup:
    """The metric of a row that has `metric` and `pooling`."""
    return metric_name(row.metric, row.pooling)
