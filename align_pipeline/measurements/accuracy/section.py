"""The section of the report."""

from __future__ import annotations

from functools import partial

from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import plots
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.page.part import Part, Section
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """Calibration: does the model's confidence match its accuracy?"""
    table, bins, sure = part.of("calibration"), part.of("reliability"), part.of("confidence")
    if table.empty:
        return Markup()
    return render(
        "align_pipeline/measurements/accuracy/section.html",
        reliability=part.draw(partial(plots.reliability, bins), "reliability"),
        languages=table.loc[table["language"] != ENGLISH, "language"].nunique(),
        answers=bins["n"].sum(),
        pivots=table["pivot"].nunique(),
        calibration=table.sort_values("ece"),
        confidence=sure,
        difference=sure["difference"].median() if sure["difference"].notna().any() else None,
    )


SECTION = Section(
    "predictions",
    PREDICTIONS,
    _show,
    optional=frozenset(
        (
            *("correct_norm", "loglikelihoods", "prompt_tokens", "item_tokens", "option_similarity"),
            *("english_overlap", "category", "cluster"),
        )
    ),
)
