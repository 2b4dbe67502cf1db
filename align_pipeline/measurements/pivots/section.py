"""The section of the report."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.config.lang import name_of
from align_pipeline.data.items import ENGLISH
from align_pipeline.inference.consistency import consistency
from align_pipeline.inference.pivots import Best, best, layer_of, matrix, named, seen_from, transfer
from align_pipeline.measurements.pivots.figures import every_layer, heat_map
from align_pipeline.measurements.pivots.table import PIVOTS
from align_pipeline.page.numbers import metric_name
from align_pipeline.page.part import Part, Section, fullest, of_metric, place_of
from align_pipeline.page.template import render

_TEXTS = ["language", "pivot", "set", "pivot_set", "metric", "pooling"]


def _show(part: Part) -> Markup:
    """Which pivot predicts accuracy best, and the matrix of languages by pivots."""
    rows = part.of("pivots")
    if rows.empty:
        return Markup()
    rows = rows.astype(dict.fromkeys(_TEXTS, object))
    rows, several = fullest(rows, ["language", "pivot", "metric", "pooling"])
    predictions = part.study.predictions
    predictions = predictions[(predictions["model"] == part.model) & (predictions["task"] == part.task)]
    found = {(str(a), str(b)) for a, b in rows[["metric", "pooling"]].itertuples(index=False)}
    shown = sorted(found, key=lambda key: (place_of(key[0]), key))
    agree = _agreement(predictions, sorted(rows["pivot"].unique()))
    return render(
        "align_pipeline/measurements/pivots/section.html",
        metrics=[_metric(part, rows, predictions, agree, *key) for key in shown],
        several=several,
    )


def _metric(part: Part, rows: pd.DataFrame, predictions: pd.DataFrame, agree: Any, metric: str, pooling: str) -> Any:
    own = of_metric(rows, metric, pooling)
    layer = layer_of(own, _last(part, own))
    shares = matrix(own, layer)
    found = judged(shares, predictions)
    at = own[own["layer"] == layer]
    table = named(found).merge(transfer(at).add_prefix("transfer_"), left_on="pivot", right_on="transfer_pivot")
    table = table.merge(agree, "left", "pivot").assign(share=shares.mean().reindex(table["pivot"]).to_numpy())
    return SimpleNamespace(
        name=metric_name(metric, pooling),
        layer=layer,
        best=found,
        best_name=name_of(found.best),
        best_r=float(found.r[found.pivots.index(found.best)]) if found.best else None,
        best_p=float(found.p[found.pivots.index(found.best)]) if found.best else None,
        english_r=float(found.r[found.pivots.index(ENGLISH)]) if ENGLISH in found.pivots else None,
        image=part.draw(partial(heat_map, shares, layer), "pivots", metric, pooling),
        layers=part.draw(partial(every_layer, own), "pivots", "layers", metric, pooling),
        table=table.assign(note=found.note),
        languages=int(found.n.max()),
        n=at["n"].max(),
        chance=at["chance"].mean(),
    )


def judged(shares: pd.DataFrame, predictions: pd.DataFrame) -> Best:
    """`inference.pivots.best` of a matrix with the languages' accuracies from the predictions."""
    own = predictions[predictions["language"] != ENGLISH]
    accuracy = own.groupby("language", observed=True)["correct"].mean()
    both = shares[shares.index.isin(accuracy.index.astype(str))]
    values = accuracy[list(both.index)].to_numpy(float) if len(both) else pd.Series(dtype=float).to_numpy()
    return best(both.to_numpy(float), values, tuple(shares.columns))


def _agreement(predictions: pd.DataFrame, pivots: list[str]) -> pd.DataFrame:
    """Median over languages of how often an answer is that of the pivot, and of Cohen's kappa, per pivot."""
    found = (consistency(seen_from(predictions, pivot))[["agreement", "kappa"]].median() for pivot in pivots)
    return pd.DataFrame(found).assign(pivot=pivots)


def _last(part: Part, rows: pd.DataFrame) -> int:
    """L; without alignment tables of all layers, the highest layer of the table counts as the last."""
    inner = [int(k) for block in part.blocks.values() for k in block.layers[block.inner]]
    return max(inner) + 1 if inner else int(rows["layer"].max())


SECTION = Section(
    "pivots",
    PIVOTS,
    _show,
    csv="items aligned with each pivot, in all and among those that transfer and fail, per language, metric and layer",
)
