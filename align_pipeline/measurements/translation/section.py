"""Its section of the report."""

from __future__ import annotations

import html
from functools import partial
from typing import Any

import pandas as pd

from align_pipeline.figures import style
from align_pipeline.measurements.translation import figures
from align_pipeline.measurements.translation import statistics as translation_analysis
from align_pipeline.page.html import (
    Column,
    Page,
    as_count,
    as_number,
    as_p,
    as_range,
    folded,
    html_table,
    interval_column,
    metric_name,
    number_column,
    p_text,
    task_name,
    value_of,
)
from align_pipeline.page.level import LEVEL_COLUMNS, in_order
from align_pipeline.page.part import Part


def section(page: Page, part: Part) -> None:
    """The section of a task that is translated."""
    if part.of("translation_scores").empty:
        return
    scored, level = part.of("translation_scores"), part.of("translation_level")
    score = translation_analysis.headline(scored)
    name = style.SCORES[score]
    asymmetry, sentences = part.of("translation_asymmetry"), part.of("translation_sentences")
    whole = level[(level["score"] == score) & (level["reduce"] == "max")]
    best = sentences[(sentences["score"] == score) & sentences["best_layer"].astype(bool)]
    over = asymmetry[(asymmetry["score"] == score) & (asymmetry["language"] == "all")]
    own = [_translation_level_finding(row, name) for row in whole[whole["alignment_task"] == part.task].itertuples()]
    own += [_asymmetry_finding(row, name) for row in over.itertuples()]
    for (metric, pooling, direction), rows in best.groupby(["metric", "pooling", "direction"]):
        own.append(_sentence_finding(metric_name(str(metric), str(pooling)), str(direction), rows, name))
    page.add(f'<ul class="findings">{"".join(f"<li>{finding}</li>" for finding in own)}</ul>')
    _translation_overview(page, part, scored)
    page.add("<h3>Languages: alignment against translation</h3>")
    points = part.of("translation_points")
    for i, (key, rows) in enumerate(in_order(points[(points["score"] == score) & (points["reduce"] == "max")])):
        source, metric, pooling = key
        numbers = whole[(whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1)]
        caption = (
            f"Mean {name} of a language's sentences against the share of aligned items "
            f"({metric_name(metric, pooling)} on {html.escape(task_name(source))}, max over layers), in both "
            f"directions; a point is a language, n = {rows['language'].nunique()}."
        )
        drawn = partial(figures.translation_scatter, rows, numbers)
        figure = page.figure(part.name("translation", source, metric, pooling), drawn, caption)
        page.add(folded(figure, f"{metric_name(metric, pooling)} on {html.escape(task_name(source))}", i == 0))
    columns = [
        Column("Direction", value_of("direction"), text=True),
        Column("Score", lambda r: style.SCORES[r.score], text=True),
        Column(
            "Metric",
            lambda r: f"{metric_name(r.metric, r.pooling)} on {html.escape(task_name(r.alignment_task))}",
            text=True,
        ),
        Column("Over layers", value_of("reduce"), text=True),
        *LEVEL_COLUMNS[:7],
    ]
    caption = (
        "Correlation over languages between the share of aligned items and the mean score of the sentences. Intervals: "
        "95%, percentile bootstrap over languages; p: two-sided."
    )
    page.add(html_table(list(level.itertuples()), columns, caption))
    columns = [
        *columns[1:4],
        Column("n", value_of("n"), as_count),
        number_column("Spearman, en-xx", "spearman_en_xx"),
        number_column("xx-en", "spearman_xx_en"),
        number_column("Difference", "difference", sign=True),
        interval_column("low", "high"),
        Column("p", value_of("p"), as_p),
    ]
    caption = (
        "Does alignment go with translation into English as with translation out of it? xx-en minus en-xx; interval: "
        "bootstrap over languages; p: two-sided, directions swapped at random within languages."
    )
    page.add(html_table(list(part.of("translation_directions").itertuples()), columns, caption))
    _translation_accuracy(page, part)
    _translation_sentences(page, part, best, name)


def _translation_level_finding(row: Any, name: str) -> str:
    lead = f"<b>{metric_name(row.metric, row.pooling)} over languages, {row.direction}.</b> "
    if pd.isna(row.pearson):
        return f"{lead}The correlation of alignment with {name} is {html.escape(row.note)}."
    verdict = (
        "There is no sign that alignment goes with translation"
        if row.pearson_p >= 0.05
        else f"Languages that are {'better' if row.pearson > 0 else 'worse'} aligned are translated better"
    )
    return (
        f"{lead}{verdict}: Pearson r = {as_number(2)(row.pearson)}{as_range(row.pearson_low, row.pearson_high)} with "
        f"{name}, {p_text(row.pearson_p)}; Spearman {as_number(2)(row.spearman)}; n = {row.n} languages, max over "
        "layers."
    )


def _asymmetry_finding(row: Any, name: str) -> str:
    text = (
        f"<b>Directions.</b> Mean {name} is {row.en_xx:.1f} out of English and {row.xx_en:.1f} into it, over "
        f"{row.n} languages"
    )
    if pd.isna(row.p):
        return f"{text} ({html.escape(row.note)})."
    gap = f"{as_number(1, sign=True)(row.difference)}{as_range(row.low, row.high, 1)}"
    return f"{text}; difference {gap}, {p_text(row.p)} (Wilcoxon)."


def _sentence_finding(metric: str, direction: str, rows: pd.DataFrame, name: str) -> str:
    lead = f"<b>{metric} over sentences, {direction}.</b> "
    tested = rows[rows["p_holm"].notna()]
    if tested.empty:
        return f"{lead}Aligned against other sentences is {html.escape(str(rows['note'].iloc[0]))}."
    sure, n = int((tested["p_holm"] < 0.05).sum()), len(tested)
    return (
        f"{lead}Aligned sentences have a higher {name} in {sure} of {n} language{'' if n == 1 else 's'} at the "
        "language's best layer (one-sided Mann-Whitney, Holm over layers, p &lt; 0.05); the median rank-biserial "
        f"correlation is {as_number(2, sign=True)(tested['rank_biserial'].median())}."
    )


def _translation_overview(page: Page, part: Part, scored: pd.DataFrame) -> None:
    known = part.languages
    table = scored[["language"]].drop_duplicates()
    table["name"] = [known["name"].get(code, code) for code in table["language"]]
    columns = [
        Column("Language", lambda r: html.escape(str(r.name)), text=True),
        Column("Code", lambda r: html.escape(r.language), text=True),
    ]
    for direction, rows in scored.groupby("direction"):
        end = "_" + str(direction).replace("-", "_")
        own = rows.drop(columns=["model", "task", "direction"]).dropna(axis="columns", how="all").set_index("language")
        table = table.merge(own.add_suffix(end), how="left", on="language")
        columns.append(Column(f"{direction}<br>n", value_of(f"n{end}"), as_count))
        columns += [number_column(name, f"{score}{end}", 1) for score, name in style.SCORES.items() if score in own]
        columns += [number_column(head.replace("_", " "), f"{head}{end}") for head in ("empty", "copies", "cut_off")]
    caption = (
        "Every language. Scores: means of sacrebleu's sentence scores (corpus scores are in summary.json); empty, "
        "copies (of the source), cut off (still going on after the most tokens allowed): shares of sentences."
    )
    page.add("<h3>The languages</h3>", html_table(list(table.itertuples()), columns, caption))
    found = part.of("translation_asymmetry")
    chosen = found[(found["score"] == translation_analysis.headline(scored)) & (found["language"] != "all")]
    if len(chosen):
        caption = (
            "Translation into English against translation out of it, means over sentences; a point is a language, "
            f"n = {len(chosen)}; on the dashed line both are equal."
        )
        page.add(page.figure(part.name("directions"), partial(figures.directions, chosen), caption, narrow=True))


def _translation_accuracy(page: Page, part: Part) -> None:
    table = part.tables["translation_accuracy"]  # its tasks are those that were answered
    rows = table[table["model"] == part.model]
    if rows.empty:
        return
    columns = [
        Column("Task", lambda r: html.escape(task_name(r.task)), text=True),
        Column("Direction", value_of("direction"), text=True),
        Column("Score", lambda r: style.SCORES[r.score], text=True),
        *LEVEL_COLUMNS[:7],
    ]
    caption = "Correlation over languages of a task's accuracy with translation quality."
    page.add("<h3>Languages: accuracy against translation</h3>", html_table(list(rows.itertuples()), columns, caption))


def _translation_sentences(page: Page, part: Part, best: pd.DataFrame, name: str) -> None:
    if best.empty:
        return
    page.add("<h3>Sentences: are aligned ones translated better?</h3>")
    for key, rows in best.groupby(["metric", "pooling"]):
        metric, pooling = map(str, key)
        if rows["rank_biserial"].notna().any():
            caption = (
                f"Rank-biserial correlation of being aligned ({metric_name(metric, pooling)}) with {name}, at each "
                "language's best layer: how much more often an aligned sentence beats another than the other way "
                f"round, with its 95% interval; n = {rows['language'].nunique()} languages."
            )
            drawn = partial(figures.rank_biserial, rows)
            page.add(page.figure(part.name("sentences", metric, pooling), drawn, caption))
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Direction", value_of("direction"), text=True),
        Column("Metric", lambda r: metric_name(r.metric, r.pooling), text=True),
        *[
            Column(h, value_of(n), as_count)
            for h, n in (("Layer", "layer"), ("aligned", "n_aligned"), ("other", "n_other"))
        ],
        number_column(f"{name}, aligned", "mean_aligned", 1),
        number_column("other", "mean_other", 1),
        number_column("Rank-biserial", "rank_biserial", sign=True),
        interval_column("low", "high"),
        *[Column(h, value_of(n), as_p) for h, n in (("p", "p_one_sided"), ("Holm", "p_holm"), ("BH", "p_bh"))],
    ]
    caption = (
        "At each language's best layer. p: one-sided Mann-Whitney test of aligned sentences being translated better; "
        "Holm, BH: p adjusted over the layers. All layers and scores: translation_sentences.csv."
    )
    page.add(folded(html_table(list(best.itertuples()), columns, caption), "Table: every language", False))
