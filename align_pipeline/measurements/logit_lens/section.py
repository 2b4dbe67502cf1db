"""The section of the report."""

from __future__ import annotations

from functools import partial

import pandas as pd
from markupsafe import Markup

from align_pipeline.measurements.logit_lens.figures import by_layer
from align_pipeline.measurements.logit_lens.table import KEYS, LOGIT_LENS
from align_pipeline.page.part import Part, Section, fullest
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """The lens by layer, and each language's peaks."""
    rows = part.of("logit_lens")
    if rows.empty:
        return Markup()
    rows, several = fullest(rows.astype(dict.fromkeys(KEYS, object)), ["language", "pivot", "quantity"], ["script"])
    return render(
        "align_pipeline/measurements/logit_lens/section.html",
        several=several,
        image=part.draw(partial(by_layer, rows), "logit_lens"),
        peaks=_peaks(rows),
    )


def _peaks(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per language: the highest probability of both answers, its layer, and the chance level there."""
    units = ["language", "pivot"]
    known = rows[rows["value"].notna()].sort_values(["value", "layer"], ascending=[False, True])
    best = known.drop_duplicates([*units, "quantity"]).set_index(units)
    english, own = (best[best["quantity"] == quantity] for quantity in ("english", "own"))
    found = english.join(own[["value", "layer", "n"]], how="outer", rsuffix="_own")
    found["n"] = found["n_own"].fillna(found["n"])
    names = {"value": "english", "layer": "english_layer", "value_own": "own", "layer_own": "own_layer"}
    return found.rename(columns=names).sort_index().reset_index()


SECTION = Section(
    "logit_lens",
    LOGIT_LENS,
    _show,
    csv="logit lens: a value per language, quantity, script and layer",
)
