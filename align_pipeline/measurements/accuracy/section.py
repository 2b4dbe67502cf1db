"""Its section of the report."""

from __future__ import annotations

import html
from functools import partial

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import plots
from align_pipeline.page.html import (
    Column,
    Page,
    as_count,
    as_number,
    as_p,
    folded,
    html_table,
    interval_column,
    metric_name,
    number_column,
    value_of,
)
from align_pipeline.page.part import Part


def section(page: Page, part: Part) -> None:
    """Is the model as sure as it is right?"""
    table, bins = part.of("calibration"), part.of("reliability")
    if table.empty:
        return
    page.add("<h3>Confidence and calibration</h3>")
    count = table.loc[table["language"] != ENGLISH, "language"].nunique()
    caption = (
        f"Accuracy against confidence in ten bins, {count} languages and English, n = {bins['n'].sum():,} answers; "
        "confidence is the softmax over "
        "the options' log-likelihoods at the answer; on the dashed line it can be taken at its word. Thin lines "
        "leave out bins of fewer than ten answers."
    )
    page.add(page.figure(part.name("reliability"), partial(plots.reliability, bins), caption, narrow=True))
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        *([Column("Pivot", lambda r: html.escape(r.pivot), text=True)] if table["pivot"].nunique() > 1 else []),
        Column("n", value_of("n"), as_count),
        number_column("Accuracy", "accuracy"),
        number_column("Confidence", "confidence"),
        number_column("Overconfidence", "overconfidence", sign=True),
        number_column("ECE", "ece"),
        number_column("Brier", "brier"),
        number_column("Brier, all options", "brier_options"),
    ]
    caption = (
        "Calibration per language. ECE: expected calibration error, ten equal bins; Brier: mean squared gap between "
        "confidence and correctness (0 is best); over all options it is 0 to 2."
    )
    page.add(html_table(list(table.sort_values("ece").itertuples()), columns, caption))
    sure = part.of("confidence")
    if sure["difference"].notna().any():
        columns = [
            Column("Language", lambda r: html.escape(r.language), text=True),
            Column("Metric", lambda r: metric_name(r.metric, r.pooling), text=True),
            *[
                Column(h, value_of(n), as_count)
                for h, n in (("Layer", "layer"), ("n aligned", "n_aligned"), ("n other", "n_other"))
            ],
            number_column("Confidence, aligned", "confidence_aligned"),
            number_column("other", "confidence_other"),
            number_column("Difference", "difference", sign=True),
            interval_column("low", "high"),
            Column("p (Welch)", value_of("p_welch"), as_p),
            Column("p (Mann-Whitney)", value_of("p_mannwhitney"), as_p),
        ]
        median = sure["difference"].median()
        caption = (
            "Confidence of aligned against other items at each language's best layer; the median difference is "
            f"{as_number(3, sign=True)(median)}. p: two-sided."
        )
        page.add(
            folded(html_table(list(sure.itertuples()), columns, caption), "Is the model surer of aligned items?", False)
        )
