"""The section of the report."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import plots
from align_pipeline.inference.verdicts import LEVEL
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.page.numbers import metric_names
from align_pipeline.page.part import Part, Section
from align_pipeline.page.template import render


def _show(part: Part) -> Markup:
    """Consistency with English, then calibration."""
    return _consistency(part) + _calibration(part)


def _consistency(part: Part) -> Markup:
    """Consistency: are a language's answers those of English, right or wrong, and more often if items are aligned?"""
    table, aligned = part.of("consistency"), part.of("consistency_alignment")
    if table.empty:
        return Markup()
    known = table[table["agreement"].notna()]
    return render(
        "align_pipeline/measurements/accuracy/consistency.html",
        reasons=sorted(set(table.loc[table["agreement"].isna(), "note"])),
        every=_every(known) if len(known) else None,
        figure=part.draw(partial(plots.agreement, known), "consistency") if len(known) else "",
        table=table.sort_values("agreement", ascending=False),
        pivots=table["pivot"].nunique(),
        aligned=aligned,
        names=metric_names(part.metrics),
        answers=_answers(part, aligned),
    )


def _every(known: pd.DataFrame) -> SimpleNamespace:
    """The numbers of the sentence over all languages: medians, and how many languages are above chance."""
    names = ("agreement", "agreement_chance", "kappa", "rankc", "rankc_chance", "same_wrong", "same_wrong_chance")
    medians = {name: known[name].astype(float).median() for name in names}
    ends = {"low": known["agreement"].min(), "high": known["agreement"].max(), "n": known["n"].max()}
    above = {"tested": known["p"].notna().sum(), "above": (known["p_holm"] < LEVEL).sum()}
    return SimpleNamespace(languages=len(known), **medians, **ends, **above)


def _answers(part: Part, aligned: pd.DataFrame) -> list[tuple[str, list[Any]]]:
    """The rows that have a difference, in the order of the page's metrics: of all items, right ones and wrong ones."""
    known = aligned[aligned["difference"].notna()]
    found = [(english, part.by_metric(known[known["english"] == english])) for english in ("all", "right", "wrong")]
    return [one for one in found if one[1]]


def _calibration(part: Part) -> Markup:
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
