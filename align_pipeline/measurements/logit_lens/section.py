"""The section of the report."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.measurements.logit_lens.figures import by_layer
from align_pipeline.measurements.logit_lens.table import KEYS, LOGIT_LENS
from align_pipeline.page.part import Part, Section
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """The lens by layer, and each language's peaks."""
    rows = part.of("logit_lens").drop_duplicates([*KEYS, "layer"], keep="last")  # several jobs may have the same
    if rows.empty:
        return Markup()
    rows = rows.astype(dict.fromkeys(KEYS, object))
    return render(
        "align_pipeline/measurements/logit_lens/section.html",
        image=part.draw(partial(by_layer, rows), "logit_lens"),
        peaks=_peaks(rows),
    )


def _peaks(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per language: the highest probability of both answers, its layer, and the chance level there."""
    found: list[dict[str, Any]] = []
    for (language, pivot), own in rows.groupby(["language", "pivot"], sort=True):
        told: dict[str, Any] = {"language": language, "pivot": pivot}
        for quantity in ("english", "own"):
            one = own[(own["quantity"] == quantity) & own["value"].notna()]
            if len(one):
                best = one.sort_values(["value", "layer"], ascending=[True, False]).iloc[-1]
                told |= {quantity: best["value"], f"{quantity}_layer": best["layer"], "n": best["n"]}
                told |= {"chance": best["chance"]} if quantity == "english" else {}
        found.append(told)
    return pd.DataFrame([told for told in found if "n" in told])


SECTION = Section(
    "logit_lens",
    LOGIT_LENS,
    _show,
    csv="logit lens: a value per language, quantity, script and layer",
)
