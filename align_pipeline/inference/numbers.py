"""Metrics that give a number per item instead of yes or no: their means by language and layer.

Over languages they are compared with accuracy as shares of aligned items are. The tests over items need yes or no.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.study import SERIES

NUMBERS = [*SERIES, "layer", "inner", "best_layer", "n", "mean", "sd", "chance"]
_TEXTS = dict.fromkeys([*SERIES, "item_id"], object)


def split(alignment: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of metrics that say yes or no, and those of metrics that give numbers (``value`` is missing)."""
    missing = alignment["value"].isna()
    if not missing.any():
        return alignment, alignment.iloc[:0]
    return alignment[~missing].astype({"value": np.int8}), alignment[missing]


def means(numbers: pd.DataFrame, baselines: pd.DataFrame, last_layers: Mapping[str, int] | None = None) -> pd.DataFrame:
    """Means over items; rows that occur more than once count once.

    Args:
        numbers: from `split`, with ``margin``.
        baselines: as `BASELINES`.
        last_layers: index L of the layer after the final norm, by model; default: the model's highest layer here.

    Returns:
        columns `NUMBERS`: inner (bool: below L, or all if there is no other), best_layer (bool: the lowest inner layer
        with the highest mean), n (items), mean, sd (over items), chance (mean of mismatched items, if it is known).
    """
    if numbers.empty:
        return pd.DataFrame(columns=NUMBERS)
    keys = [*SERIES, "layer"]
    rows = numbers[numbers["language"] != ENGLISH].astype(_TEXTS).drop_duplicates([*keys, "item_id"])
    found = rows.groupby(keys)["margin"].agg(n="size", mean="mean", sd="std").reset_index()
    last = found["model"].map({**found.groupby("model")["layer"].max(), **(last_layers or {})})
    found["inner"] = found["layer"] < last
    found["inner"] |= ~found.groupby(SERIES)["inner"].transform("any")
    best = found[found["inner"]].sort_values(["mean", "layer"], ascending=[False, True], kind="stable")
    found["best_layer"] = found.index.isin(best.drop_duplicates(SERIES).index)
    mismatched = baselines[baselines["kind"] == "mismatched"].astype(_TEXTS).drop_duplicates([*keys, "item_id"])
    chance = mismatched.groupby(keys)["value"].mean().rename("chance").reset_index()
    return found.merge(chance, "left", keys)[NUMBERS].astype({"mean": float, "chance": float})


def as_shares(found: pd.DataFrame) -> pd.DataFrame:
    """`means` with the names that shares of aligned items have in `study.tally`."""
    return found.rename(columns={"mean": "share"})
