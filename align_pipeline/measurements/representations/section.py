"""The section of the report."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.figures.style import POOLINGS
from align_pipeline.measurements.representations.figures import LABELS, by_layer
from align_pipeline.measurements.representations.statistics import KEYS, middle_third
from align_pipeline.measurements.representations.table import REPRESENTATIONS
from align_pipeline.page import columns
from align_pipeline.page.numbers import as_number
from align_pipeline.page.part import Part, Section, fullest
from align_pipeline.page.template import render

_FIRST = ("mean", "last", "weighted")
"""Poolings in the order of the page."""


def _show(part: Part) -> Markup:
    """Representations by layer, and over the middle third."""
    rows = part.of("representations")
    if rows.empty:
        return Markup()
    rows, several = fullest(rows.astype(dict.fromkeys(KEYS, object)), KEYS)
    parts = [(name, rows[rows["pooling"] == name]) for name in _FIRST if (rows["pooling"] == name).any()]
    return render(
        "align_pipeline/measurements/representations/section.html",
        several=several,
        poolings=[
            SimpleNamespace(
                name=POOLINGS.get(name, name),
                image=part.draw(partial(by_layer, own), "representations", name),
                languages=own["language"].nunique(),
                n=own["n"].max(),
                middle=_wide(own, part.study.last_layers.get(part.model)),
                measures=[_column(measure) for measure in LABELS if (own["measure"] == measure).any()],
            )
            for name, own in parts
        ],
    )


def _wide(rows: pd.DataFrame, last: int | None) -> pd.DataFrame:
    """A row per language; the measures' values, and their chance levels as ``<measure>_chance``; last: see
    `middle_third`."""
    middle = middle_third(rows, last)
    index = ["language", "pivot", "n"]
    value, chance = (middle.pivot(index=index, columns="measure", values=kind) for kind in ("value", "chance"))
    wide = value.join(chance.add_suffix("_chance"))
    return wide.reset_index().sort_values("language")


def _column(measure: str) -> columns.Column:
    """A measure, with its chance level in brackets."""

    def show(row: Any) -> str:
        value, chance = getattr(row, measure), getattr(row, f"{measure}_chance")
        return as_number(value, 2) + ("" if pd.isna(chance) else f" ({as_number(chance, 2)})")

    return columns.Column(LABELS[measure], lambda row: getattr(row, measure), show)


SECTION = Section(
    "representations",
    REPRESENTATIONS,
    _show,
    csv="similarity of states with those of their translations: a value per language, measure, pooling and layer",
)
