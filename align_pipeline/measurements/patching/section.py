"""Its section of the report."""

from __future__ import annotations

import html
from collections.abc import Iterator
from typing import Any

import pandas as pd

from align_pipeline.config.patch import TREATMENT
from align_pipeline.measurements.patching import figures as patching_plots
from align_pipeline.measurements.patching import statistics as patching_analysis
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
    """Patching: is misalignment the cause?"""
    effects, found = part.of("patching_effects"), part.of("patching")
    if not (effects["n_tf"] > 0).any():
        return
    page.add("<h3>Patching: is misalignment the cause?</h3>")
    for i, (_, rows) in enumerate(effects.groupby(patching_plots.KIND, sort=False)):
        row = next(rows.itertuples())
        same = [column for column in ("component", "site", "window") if column in found]
        table = found[(found[same] == rows[same].iloc[0]).all(axis="columns")]
        kind = html.escape(patching_plots.kind_name(row))
        content = "".join(_patching_findings(table, kind))
        for name, draw in patching_plots.figures(rows):
            caption = (
                f"Share of items right in English and wrong unpatched that patching makes right, by layer: {kind}."
            )
            content += page.figure(
                part.name("patching", str(row.component), str(row.site), str(row.window), name), draw, caption
            )
        content += _patching_table(table)
        against = part.of("patching_contrasts")
        against = against[(against[same] == rows[same].iloc[0]).all(axis="columns") & (against["head"] < 0)]
        if len(against):
            shown = _control_table(against[against["at"] == patching_analysis.MIDDLE])
            content += folded(shown, "The parallel activation against each control", False)
        by_category = part.of("patching_categories")
        by_category = by_category[(by_category[same] == rows[same].iloc[0]).all(axis="columns")]
        if by_category["category"].nunique() > 1 and not (by_category["head"] >= 0).any():
            content += folded(_category_table(by_category, table), "By the items' category", False)
        page.add(folded(content, f"Patched: {kind}", i == 0))


def _patching_findings(table: pd.DataFrame, kind: str) -> Iterator[str]:
    treated = table[(table["condition"] == TREATMENT) & table["attributable"].notna() & (table["head"] < 0)]
    if treated.empty:
        return
    n, languages = int(treated["n_tf"].sum()), len(treated)
    weights = treated["n_tf"] / n
    corrected = float((treated["middle_correction"] * weights).sum())
    clear = int((treated["attributable_low"] > 0).sum())
    yield (
        f"<p>With the parallel English activation ({kind}), {corrected:.1%} of {n:,} failed items in {languages} "
        f"language{'s' * (languages > 1)} become right, on average over the middle third of the layers. In {clear} of "
        f"{languages} this is clearly more (95% interval of the difference above 0) than with the strongest control "
        "that lacks the concept.</p>"
    )


def _patching_table(table: pd.DataFrame) -> str:
    heads = bool((table["head"] >= 0).any())
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Replaced by", lambda r: html.escape(patching_plots.condition_name(r.condition)), text=True),
        *([Column("Head", value_of("head"), as_count)] if heads else []),
        Column("TF", value_of("n_tf"), as_count),
        Column("TS", value_of("n_ts"), as_count),
        Column("Best layer", value_of("best_layer"), as_count),
        number_column("corrected there", "best_correction"),
        number_column("Middle third", "middle_correction"),
        interval_column("middle_low", "middle_high"),
        number_column("damaged", "middle_damage"),
        number_column("Due to the concept", "attributable", sign=True),
        interval_column("attributable_low", "attributable_high"),
        Column("Strongest control", lambda r: html.escape(control_name(r.strongest_control)), text=True),
    ]
    caption = (
        "Share of TF items corrected (and, where they were patched, of TS items damaged). Middle third: mean over the "
        "layers from a third to two thirds of the depth, which nothing was selected for; the best layer is chosen on "
        "the same items. Due to the concept: the parallel activation minus the strongest control that lacks the "
        "concept. Late layers hand over the answer itself: there options reordered is the control to look at."
    )
    return html_table(list(table.itertuples()), columns, caption)


def _control_table(middle: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Control", lambda r: html.escape(control_name(r.control)), text=True),
        Column("Lacks the concept", lambda r: "yes" if r.lacks_concept else "no", text=True),
        Column("n", value_of("n"), as_count),
        number_column("Difference", "difference", sign=True),
        interval_column("low", "high"),
        number_column("of log-odds", "log_odds_difference", sign=True),
        interval_column("log_odds_low", "log_odds_high"),
    ]
    caption = (
        "Correction rate with the parallel activation minus that with the control, on the same TF items, and the same "
        "of the gold option's log-odds: means over the middle third of the layers with bootstrap intervals. Layer by "
        "layer, with McNemar's test: <code>patching_contrasts.csv</code>."
    )
    return html_table(list(middle.itertuples()), columns, caption)


def _category_table(rates: pd.DataFrame, table: pd.DataFrame) -> str:
    """Correction rates per category at each condition's best layer."""
    keys = ["language", "pivot", "condition"]
    best = table.rename(columns={"best_layer": "layer"})[[*keys, "layer"]].dropna()
    rows = rates.astype({"layer": float}).merge(best.astype({"layer": float}), on=[*keys, "layer"])
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Replaced by", lambda r: html.escape(patching_plots.condition_name(r.condition)), text=True),
        Column("Category", lambda r: html.escape(r.category), text=True),
        Column("Best layer", value_of("layer"), as_count),
        Column("TF", value_of("n_tf"), as_count),
        number_column("Corrected", "correction_rate"),
    ]
    caption = "Share of TF items corrected, by category, at the layer that is best over all categories."
    return html_table(list(rows.itertuples()), columns, caption)


def control_name(name: Any) -> str:
    """A control's name."""
    return patching_plots.condition_name(name) if isinstance(name, str) else ""
