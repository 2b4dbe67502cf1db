"""Its section of the report."""

from __future__ import annotations

import html
from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import curves, plots
from align_pipeline.inference import study as analysis
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
    """Headline findings, then alignment against accuracy over languages, by layer and over items."""
    if not part.of("translation_scores").empty:  # there is no accuracy to set it against
        _layer_part(page, part)
        return
    findings = "".join(f"<li>{finding}</li>" for finding in _findings(part))
    if findings:
        page.add(f'<ul class="findings">{findings}</ul>')
    _overview(page, part)
    _language_part(page, part)
    _layer_part(page, part)
    _instance_part(page, part)
    _pooled_part(page, part)


def _findings(part: Part) -> Iterator[str]:
    """The headline answers in plain sentences."""
    level = part.of("language_level")
    for row in level[(level["grouping"] == "all") & (level["reduce"] == "max")].itertuples():
        yield _level_finding(row)
    instance, pooled = part.of("instance_level"), part.of("regression")
    best = instance[instance["best_layer"] & (instance["contrast"] == "ts_tf")]
    for metric, pooling in part.metrics:
        rows = best[(best["metric"] == metric) & (best["pooling"] == pooling)]
        own = pooled[(pooled["metric"] == metric) & (pooled["pooling"] == pooling) & (pooled["at"] == "best_layer")]
        if len(rows):
            yield _instance_finding(metric_name(metric, pooling), rows, own)
    table = part.of("calibration")
    other = table[table["language"] != ENGLISH]
    if len(other):
        over = other["overconfidence"].median()
        low, high = other["ece"].min(), other["ece"].max()
        english = table.loc[table["language"] == ENGLISH, "ece"]
        yield (
            f"<b>Confidence.</b> In the median language the model is {'over' if over > 0 else 'under'}confident by "
            f"{abs(100 * over):.1f} points (mean confidence against accuracy); expected calibration error is {low:.3f} "
            f"to {high:.3f}" + (f", {english.mean():.3f} in English." if len(english) else ".")
        )


def _level_finding(row: Any) -> str:
    name = f"<b>{metric_name(row.metric, row.pooling)} over languages.</b> "
    if pd.isna(row.pearson):
        return f"{name}The correlation of alignment with accuracy is {html.escape(row.note)}."
    strength = abs(row.pearson)
    verdict = (
        "There is no sign that alignment goes with accuracy"
        if row.pearson_p >= 0.05
        else f"Languages that are {'better' if row.pearson > 0 else 'worse'} aligned are answered better"
    )
    degree = " (strongly)" if row.pearson_p < 0.05 and strength >= 0.7 else ""
    text = (
        f"{name}{verdict}{degree}: Pearson r = {as_number(2)(row.pearson)}"
        f"{as_range(row.pearson_low, row.pearson_high)}, {p_text(row.pearson_p)}; "
        f"Spearman {as_number(2)(row.spearman)}; n = {row.n} languages, max over layers."
    )
    if not pd.isna(row.partial_pearson):
        text += (
            f" Given tokenizer fertility, r = {as_number(2)(row.partial_pearson)} ({p_text(row.partial_pearson_p)})."
        )
    return text


def _instance_finding(name: str, rows: pd.DataFrame, pooled: pd.DataFrame) -> str:
    tested = rows[rows["p_holm"].notna()]
    lead = f"<b>{name} over items.</b> "
    if tested.empty:
        return f"{lead}TS against TF is {html.escape(str(rows['note'].iloc[0]))}."
    sure, n = int((tested["p_holm"] < 0.05).sum()), len(tested)
    text = (
        f"{lead}Items that transfer (TS) are aligned more often than those that fail (TF) in {sure} of {n} "
        f"language{'' if n == 1 else 's'} at the language's best layer (one-sided z, Holm over layers, p &lt; 0.05); "
        "the "
        f"median difference is {as_number(1, sign=True)(100 * tested['difference'].median())} points."
    )
    cmh = pooled[(pooled["method"] == "cmh") & (pooled["contrast"] == "ts_tf") & pooled["odds_ratio"].notna()]
    logit = pooled[
        (pooled["adjusted_for"] == "covariates and language")
        & (pooled["term"] == "aligned")
        & pooled["odds_ratio"].notna()
    ]
    for row in cmh.itertuples():
        text += (
            f" All languages together: odds ratio {row.odds_ratio:.2f}{as_range(row.low, row.high)} (CMH, "
            f"{p_text(row.p)})"
        )
        text += "." if logit.empty else ";"
    for row in logit.itertuples():
        text += (
            f" for right against wrong, given English confidence, length, fertility, option similarity, category and "
            f"language, {row.odds_ratio:.2f}{as_range(row.low, row.high)} ({p_text(row.p)})."
        )
    return text


def _overview(page: Page, part: Part) -> None:
    """Accuracy and best alignment of each language."""
    cells, groups, known = part.of("cells"), part.of("groups"), part.languages
    units = pd.concat([cells[["language", "pivot"]], groups[["language", "pivot"]]]).drop_duplicates()
    table = units.merge(groups.drop(columns=["model", "task"]), how="left", on=["language", "pivot"])
    table["name"] = [known["name"].get(code, code) for code in table["language"]]
    own = part.of("points").drop_duplicates(["language", "pivot"])[["language", "pivot", "fertility"]]
    table = table.merge(own, how="left", on=["language", "pivot"])
    columns = [
        Column("Language", lambda r: html.escape(str(r.name)), text=True),
        Column("Code", lambda r: html.escape(r.language), text=True),
        *([Column("Pivot", lambda r: html.escape(r.pivot), text=True)] if table["pivot"].nunique() > 1 else []),
        *[Column(h, value_of(n), as_count) for h, n in (("n", "n"), ("TS", "ts"), ("TF", "tf"))],
        number_column("Accuracy", "accuracy"),
        Column("±", value_of("stderr"), as_number(3)),
        number_column("English", "english_accuracy"),
        number_column("Fertility", "fertility", 2),
    ]
    for i, (metric, pooling) in enumerate(part.metrics):
        rows = cells[(cells["metric"] == metric) & (cells["pooling"] == pooling)]
        best = rows.loc[rows["best_layer"], ["language", "pivot", "share", "layer"]]
        best = best.rename(columns={"share": f"max_{i}", "layer": f"at_{i}"})
        mean = rows[rows["inner"].astype(bool)].groupby(["language", "pivot"])["share"].mean().rename(f"mean_{i}")
        table = table.merge(best, how="left", on=["language", "pivot"]).merge(
            mean.reset_index(), how="left", on=["language", "pivot"]
        )
        name = metric_name(metric, pooling)
        columns += [
            number_column(f"{name}<br>max", f"max_{i}"),
            Column("at layer", value_of(f"at_{i}"), as_count),
            number_column("mean", f"mean_{i}"),
        ]
    table["note"] = table["note"].fillna("there are no predictions")
    table = table.sort_values(["accuracy", "language"], ascending=[False, True])
    caption = (
        "Every language. n: items with an answer; ±: standard error; English: accuracy on the English versions; TS, "
        "TF: "
        "right in English and right, wrong here; fertility: tokens per token of the English item; then the share of "
        "aligned items, max and mean over the layers before the final norm. Click a heading to sort."
    )
    page.add("<h3>The languages</h3>", html_table(list(table.itertuples()), columns, caption))


def _language_part(page: Page, part: Part) -> None:
    """Over languages: does alignment go with accuracy?"""
    level, points = part.of("language_level"), part.of("points")
    if level.empty:
        page.add("<h3>Languages: alignment against accuracy</h3>")
        page.add('<p class="note">Not defined, because there are no accuracies for these languages in the tables.</p>')
        return
    page.add("<h3>Languages: alignment against accuracy</h3>")
    whole = level[(level["grouping"] == "all") & (level["reduce"] != "layer")]
    names = [
        Column("Metric", lambda r: metric_name(r.metric, r.pooling) + _elsewhere(r), text=True),
        Column("Over layers", lambda r: r.reduce, text=True),
    ]
    caption = (
        "Correlation over languages between the share of aligned items and accuracy. Intervals: 95%, percentile "
        "bootstrap over "
        "languages; p: two-sided; last columns: partial correlation given tokenizer fertility. A dash is explained "
        "by its tip."
    )
    page.add(html_table(list(whole.itertuples()), [*names, *LEVEL_COLUMNS], caption))
    classes = part.languages["resource"]
    for i, (key, rows) in enumerate(in_order(points[points["reduce"] == "max"])):
        source, metric, pooling = key
        numbers = whole[
            (whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1) & (whole["reduce"] == "max")
        ]
        caption = (
            f"Accuracy against the share of aligned items ({metric_name(metric, pooling)}, max over layers); a point "
            f"is a language, n = {len(rows)}; English is left out."
        )
        name = part.name("scatter", *([] if source == part.task else [source]), metric, pooling)
        figure = page.figure(name, partial(plots.scatter, rows, numbers.iloc[0], classes), caption)
        page.add(folded(figure, f"{metric_name(metric, pooling)}: accuracy against alignment", i == 0))
    layers = level[(level["grouping"] == "all") & (level["reduce"] == "layer")]
    if layers["pearson"].notna().any() and layers["layer"].nunique() > 1:
        caption = (
            f"Pearson correlation over languages of alignment at one layer with accuracy, n = {layers['n'].max()} "
            "languages; bands: 95% bootstrap intervals."
        )
        page.add(page.figure(part.name("correlation"), partial(curves.correlation_by_layer, layers), caption))
    _subsets(page, level)


def _elsewhere(row: Any) -> str:
    return "" if row.alignment_task == row.task else f" on {html.escape(task_name(row.alignment_task))}"


def _subsets(page: Page, level: pd.DataFrame) -> None:
    chosen = level[(level["grouping"] != "all") & (level["reduce"] != "layer") & (level["n"] >= analysis.MIN_LANGUAGES)]
    if chosen.empty:
        return
    names = [
        Column("Subset", lambda r: f"{r.grouping}: {html.escape(r.group)}", text=True),
        Column("Metric", lambda r: metric_name(r.metric, r.pooling) + _elsewhere(r), text=True),
        Column("Over layers", lambda r: r.reduce, text=True),
    ]
    caption = (
        "The same within scripts, families and resource classes (Joshi et al. 2020) of at least "
        f"{analysis.MIN_LANGUAGES} languages; smaller ones, and all layers, are in language_level.csv."
    )
    page.add(
        folded(
            html_table(list(chosen.itertuples()), [*names, *LEVEL_COLUMNS], caption),
            "Within scripts, families and resource classes",
            False,
        )
    )


def _layer_part(page: Page, part: Part) -> None:
    """Alignment by layer."""
    if not part.metrics:
        return
    page.add("<h3>Layers: where languages meet English</h3>")
    cells = part.of("cells")
    for i, (metric, pooling) in enumerate(part.metrics):
        rows = cells[(cells["metric"] == metric) & (cells["pooling"] == pooling)]
        name, last = metric_name(metric, pooling), _last(part, metric, pooling)
        count, n = rows["language"].nunique(), int(rows["n"].max())
        lines = page.figure(
            part.name("curves", metric, pooling),
            partial(curves.curves, rows, last),
            f"Share of aligned items by layer, {name}: {count} languages, n = {n:,} items each at most. Layer 0 is "
            "the embedding.",
        )
        heat = page.figure(
            part.name("heatmap", metric, pooling),
            partial(curves.heatmap, rows),
            f"The same as a map, {name}: {count} languages, n = {n:,} items each at most, sorted by their best "
            "layer's share (ring).",
        )
        page.add(folded(lines + heat, f"{name}: share of aligned items by layer", i == 0))


def _last(part: Part, metric: str, pooling: str) -> int:
    """The first layer that is not counted; beyond all layers if every one is."""
    block = part.study.blocks[part.model, part.task, metric, pooling]
    outside = block.layers[~block.inner]
    return int(outside[0]) if len(outside) else int(block.layers[-1]) + 1


def _instance_part(page: Page, part: Part) -> None:
    """Over items, per language."""
    instance, pooled = part.of("instance_level"), part.of("regression")
    if instance.empty:
        return
    page.add("<h3>Items: does alignment tell right from wrong?</h3>")
    transfer = instance[instance["contrast"] == "ts_tf"]
    if not (transfer["n_a"] * transfer["n_b"] > 0).any():
        page.add(f'<p class="note">TS against TF is {html.escape(str(transfer["note"].iloc[0]))}.</p>')
    for i, (metric, pooling) in enumerate(part.metrics):
        rows = transfer[(transfer["metric"] == metric) & (transfer["pooling"] == pooling)]
        odds = pooled[(pooled["metric"] == metric) & (pooled["pooling"] == pooling) & (pooled["method"] == "cmh")]
        odds = odds[(odds["contrast"] == "ts_tf") & (odds["at"] == "layer")]
        best = rows[rows["best_layer"] & rows["difference"].notna()]
        if best.empty:
            continue
        name, n = (
            metric_name(metric, pooling),
            f"{best['n_a'].sum():,} TS and {best['n_b'].sum():,} TF items in {len(best)} languages",
        )
        figures = page.figure(
            part.name("transfer", metric, pooling),
            partial(plots.transfer, rows, odds),
            f"Alignment of items that transfer (TS) and of those that fail (TF) by layer, {name}; n = {n}. Below: "
            "odds ratio of "
            "being aligned, TS against TF, pooled over languages (Cochran-Mantel-Haenszel).",
        )
        figures += page.figure(
            part.name("differences", metric, pooling),
            partial(plots.forest, best),
            f"Share aligned, TS minus TF, at each language's best layer, {name}, with Newcombe's 95% interval; n = "
            f"{n}.",
        )
        page.add(folded(figures, f"{name}: TS against TF", i == 0))
    _instance_table(page, instance[instance["best_layer"]])


def _instance_table(page: Page, best: pd.DataFrame) -> None:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Metric", lambda r: metric_name(r.metric, r.pooling), text=True),
        Column("Groups", lambda r: {"ts_tf": "TS, TF", "right_wrong": "right, wrong"}[r.contrast], text=True),
        Column("Layer", value_of("layer"), as_count),
        Column("n<sub>a</sub>", value_of("n_a"), as_count),
        Column("n<sub>b</sub>", value_of("n_b"), as_count),
        number_column("Aligned a", "mean_a"),
        number_column("Aligned b", "mean_b"),
        number_column("Difference", "difference", sign=True),
        interval_column("low", "high"),
        number_column("z", "z", 2),
        *[
            Column(h, value_of(n), as_p)
            for h, n in (("p", "p_one_sided"), ("Fisher", "p_fisher"), ("Holm", "p_holm"), ("BH", "p_bh"))
        ],
    ]
    caption = (
        "At each language's best layer. p: one-sided two-proportion z-test of a being aligned more often than b; "
        "Fisher: exact "
        "test, same direction; Holm, BH: p adjusted over the layers. All layers: instance_level.csv."
    )
    page.add(
        folded(html_table(list(best.itertuples()), columns, caption), "Table: every language at its best layer", False)
    )


def _pooled_part(page: Page, part: Part) -> None:
    """Over items, pooled over languages."""
    pooled = part.of("regression")
    best = pooled[pooled["at"] == "best_layer"]
    if best.empty:
        return
    page.add("<h3>All languages together</h3>")
    logit = best[(best["method"] == "logit") & (best["term"] == "aligned")]
    if logit["odds_ratio"].notna().any():
        caption = (
            "Odds ratio of a right answer, aligned against other items, each language at its best layer; logistic "
            "regression with "
            f"errors clustered by item; n = {logit['n'].max():,} answers to {logit['n_items'].max():,} items."
        )
        page.add(page.figure(part.name("odds"), partial(plots.odds, logit), caption))
    columns = [
        Column("Metric", lambda r: metric_name(r.metric, r.pooling), text=True),
        Column("Method", lambda r: {"cmh": "CMH", "logit": "logistic"}[r.method], text=True),
        Column("Groups", lambda r: {"ts_tf": "TS, TF", "right_wrong": "right, wrong"}[r.contrast], text=True),
        Column("Adjusted for", lambda r: "" if pd.isna(r.adjusted_for) else str(r.adjusted_for), text=True),
        Column("Term", lambda r: html.escape(str(r.term).replace("_", " ")), text=True),
        Column("n", value_of("n"), as_count),
        Column("Languages", value_of("n_languages"), as_count),
        number_column("Odds ratio", "odds_ratio"),
        interval_column("low", "high"),
        number_column("z", "z", 2),
        Column("p", value_of("p"), as_p),
        Column("Note", lambda r: html.escape(r.note), text=True),
    ]
    caption = (
        "Each language at its best layer. CMH: Cochran-Mantel-Haenszel with languages as strata. Logistic: "
        "correctness on alignment, "
        "errors clustered by item, since the same items recur in all languages; numeric covariates per standard "
        "deviation. p: two-sided."
    )
    page.add(html_table(list(best.itertuples()), columns, caption))
