"""Its section of the report."""

from __future__ import annotations

import html
from functools import partial

import pandas as pd

from align_pipeline.measurements.patching import figures as patching_plots
from align_pipeline.measurements.patching import statistics as patching_analysis
from align_pipeline.measurements.patching.section import control_name
from align_pipeline.page.html import (
    Column,
    Page,
    as_count,
    folded,
    html_table,
    interval_column,
    number_column,
    value_of,
)
from align_pipeline.page.part import Part


def section(page: Page, part: Part) -> None:
    """Patched translation."""
    effects, found = part.of("translation_patching_effects"), part.of("translation_patching")
    if effects.empty:
        return
    page.add("<h3>Patching: is misalignment the cause?</h3>")
    for i, (key, rows) in enumerate(effects.groupby(patching_plots.KIND_TRANSLATION, sort=False)):
        same = patching_plots.KIND_TRANSLATION[2:]
        table = found[(found[same] == list(key[2:])).all(axis="columns")]
        kind = f"{key[2]}, {html.escape(patching_plots.kind_name(next(rows.itertuples())))}"
        caption = f"Corpus chrF++ of what is generated with the activation replaced, by layer: {kind}."
        name = part.name("translation_patching", *map(str, key[2:]))
        content = page.figure(name, partial(patching_plots.translation, rows), caption)
        content += _translation_patching_table(table)
        against = part.of("translation_patching_contrasts")
        against = against[(against[same] == list(key[2:])).all(axis="columns")]
        if len(against):
            shown = _translation_control_table(against[against["at"] == patching_analysis.MIDDLE])
            content += folded(shown, "The parallel activation against each control", False)
        page.add(folded(content, f"Patched: {kind}", i == 0))


def _translation_patching_table(table: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Replaced by", lambda r: html.escape(patching_plots.condition_name(r.condition)), text=True),
        Column("n", value_of("n"), as_count),
        number_column("Unpatched", "unpatched", 1),
        Column("Best layer", value_of("best_layer"), as_count),
        number_column("chrF++ there", "best", 1),
        number_column("Middle third", "middle_difference", 1, sign=True),
        interval_column("middle_low", "middle_high"),
        number_column("Due to the concept", "attributable", 1, sign=True),
        interval_column("attributable_low", "attributable_high"),
        Column("Strongest control", lambda r: html.escape(control_name(r.strongest_control)), text=True),
    ]
    caption = (
        "Corpus chrF++ of translations with the activation at the end of the source sentence replaced. Middle third: "
        "change against unpatched, mean over the layers from a third to two thirds of the depth, which nothing was "
        "selected for; the best layer is chosen on the same sentences. Due to the concept: the parallel activation "
        "minus the strongest control that lacks the concept. Intervals: 95%, paired bootstrap over sentences. BLEU, "
        "and layer by layer: <code>translation_patching_effects.csv</code>."
    )
    return html_table(list(table.itertuples()), columns, caption)


def _translation_control_table(middle: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Control", lambda r: html.escape(control_name(r.control)), text=True),
        Column("Lacks the concept", lambda r: "yes" if r.lacks_concept else "no", text=True),
        Column("n", value_of("n"), as_count),
        number_column("Difference, chrF++", "chrf_difference", 1, sign=True),
        interval_column("chrf_low", "chrf_high"),
        number_column("BLEU", "bleu_difference", 1, sign=True),
        interval_column("bleu_low", "bleu_high"),
    ]
    caption = (
        "Scores with the parallel activation minus those with the control: means over the middle third of the layers "
        "with paired bootstrap intervals. Layer by layer: <code>translation_patching_contrasts.csv</code>."
    )
    return html_table(list(middle.itertuples()), columns, caption)
