"""The table behind the report's sentences: a question, an effect, an interval, and one of three verdicts by rule.

- `supported`: the adjusted p is below .05 and the effect is positive.
- `ruled_out`: the whole 95% interval is below the smallest effect of interest (`BOUNDS`).
- `undecided`: neither; the data are compatible with no effect and with a relevant one.

All questions on one model and task are one family: Holm's adjustment includes every test behind the sentences.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from align_pipeline.inference.findings import Findings
from align_pipeline.inference.items import adjusted
from align_pipeline.inference.languages import SAME_ORDER
from align_pipeline.inference.study import BLOCK

VERDICTS = [
    *("model", "task", "question", "metric", "pooling", "effect", "unit", "low", "high", "chance", "p", "p_adjusted"),
    *("verdict", "n_items", "n_clusters", "n_languages", "note"),
]
QUESTIONS = ("languages", "items_somewhere", "items_pooled", "same_item")
LEVEL = 0.05
BOUNDS = {
    "correlation": 0.3,  # "medium" (Cohen 1988); fewer than 40 languages cannot rule it out
    "odds ratio": 1.44,  # "small": d = 0.2 (Cohen 1988) as exp(d pi / sqrt(3)) (Chinn 2000)
    "share of right answers": 0.05,
}
"""The smallest effect of interest, by unit."""


def verdicts(level: pd.DataFrame, found: Findings, chances: pd.DataFrame) -> pd.DataFrame:
    """One row per question, metric and pooling of each model and task.

    Args:
        level: from `language_level`.
        found: from `findings`.
        chances: from `chance`.

    Returns:
        columns `VERDICTS`. ``chance``: mean chance level of the share of aligned items at the languages' best layers.
    """
    parts = [_languages(level), _items(found.items_pooled), _same_item(found.same_item)]
    table = pd.concat(parts, ignore_index=True).reindex(columns=[*VERDICTS, "limit"])
    best = chances[chances["best_layer"].astype(bool)].groupby(BLOCK)["chance"].mean()
    keys = pd.MultiIndex.from_frame(table[BLOCK].astype(object))
    table["chance"] = best.reindex(keys).to_numpy() if len(best) else np.nan
    table["p"] = table["p"].astype(float)
    table["p_adjusted"] = table.groupby(["model", "task"])["p"].transform(adjusted)
    table["verdict"] = [verdict(row) for row in table.itertuples()]
    order = ["model", "task", "question", "metric", "pooling"]
    table = table.sort_values(order, key=lambda c: c.map(QUESTIONS.index) if c.name == "question" else c)
    return table[VERDICTS].reset_index(drop=True).astype({"n_items": "Int64", "n_clusters": "Int64"})


def is_supported(p_adjusted: Any, effect: Any, none: float = 0.0) -> Any:
    """Whether an effect is `supported`; `none` is the value of no effect; for numbers or columns."""
    return (p_adjusted < LEVEL) & (effect > none)


def verdict(row: Any) -> str:
    """The verdict of one row by the rules above; "" if its question has no answer.

    ``limit``: the largest effect that is compatible with the data: ``high``, or the highest of all layers.
    """
    if pd.isna(row.p) or pd.isna(row.effect):
        return ""
    none = 1.0 if row.unit == "odds ratio" else 0.0
    if is_supported(row.p_adjusted, row.effect, none):
        return "supported"
    if not pd.isna(row.limit) and row.limit < BOUNDS[row.unit]:
        return "ruled_out"
    return "undecided"


def _languages(level: pd.DataFrame) -> pd.DataFrame:
    whole = level[(level["grouping"] == "all") & (level["reduce"] == "max")]
    names = {
        "pearson": "effect",
        "pearson_low": "low",
        "pearson_high": "high",
        "permutation_p": "p",
        "n": "n_languages",
    }
    elsewhere = ("alignment on " + whole["alignment_task"]).where(whole["alignment_task"] != whole["task"], "")
    found = whole.rename(columns=names).assign(question="languages", unit="correlation", limit=whole["pearson_high"])
    of_pearson = whole["note"].str.replace(f"(; )?{SAME_ORDER}", "", regex=True)
    return found.assign(note=_joined(elsewhere, of_pearson))


def _items(pooled: pd.DataFrame) -> pd.DataFrame:
    pooled = pooled[pooled["at"] != "layer"].rename(columns={"odds_ratio": "effect"})
    somewhere = pooled["at"] == "somewhere"
    return pooled.assign(
        question=np.where(somewhere, "items_somewhere", "items_pooled"),
        unit="odds ratio",
        limit=pooled["high_layers"].where(somewhere, pooled["high"]),
        note=_joined(("layer " + pooled["layer"].astype(str)).where(somewhere, ""), pooled["note"]),
    )


def _same_item(same: pd.DataFrame) -> pd.DataFrame:
    return same[same["form"] == "linear"].assign(question="same_item", limit=same["high"])


def _joined(first: pd.Series[Any], second: pd.Series[Any]) -> list[str]:
    return ["; ".join(filter(None, both)) for both in zip(first, second.fillna(""), strict=True)]
