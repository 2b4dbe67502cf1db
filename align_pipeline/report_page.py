"""The report as one page of HTML: plain sentences first, then tables that sort and figures, all inline."""

from __future__ import annotations

import base64
import html
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import pandas as pd

from align_pipeline import __version__, analysis, patching_analysis, patching_plots, plots, translation_analysis
from align_pipeline.config import TREATMENT
from align_pipeline.records import ENGLISH

if TYPE_CHECKING:
    from align_pipeline.report import Results

_TEMPLATE = Path(__file__).parent / "report_template.html"


def render(results: Results, files: Mapping[str, str], failed: Sequence[str], plots_folder: Path) -> str:
    """The page.

    Args:
        results: what the analyses found.
        files: the CSV files beside the page, and what is in them.
        failed: jobs to list as failed, one line each.
        plots_folder: where every figure also goes as PNG and SVG.
    """
    page = Page(plots_folder)
    _head(page, results, failed)
    for model, task in sorted(set(_studies(results))):
        _section(page, results, model, task)
    _tail(page, files)
    body = page.parts[0] + page.contents() + "\n".join(page.parts[1:])
    template = Template(_TEMPLATE.read_text(encoding="utf-8"))
    return template.substitute(title=html.escape(_page_title(results)), body=body)


def _studies(results: Results) -> Iterator[tuple[str, str]]:
    for model, task, _, _ in results.study.blocks:
        yield model, task
    answered = results.study.predictions
    yield from answered[["model", "task"]].drop_duplicates().itertuples(index=False, name=None)
    if results.translation is not None:
        translated = results.translation.scores[["model", "task"]]
        yield from translated.drop_duplicates().itertuples(index=False, name=None)


def _page_title(results: Results) -> str:
    models = sorted({model for model, _ in _studies(results)})
    tasks = sorted({_task(task) for _, task in _studies(results)})
    return f"Alignment and accuracy: {', '.join(models)} on {', '.join(tasks)}"


def _task(task: str) -> str:
    return plots.TASKS.get(task, task)


_METRIC_HTML = {"dali": "DALI", "dali_strong": "DALI<sub>S</sub>", "mexa_t": "MEXA<sub>T</sub>", "mexa": "MEXA"}


def _metric(metric: str, pooling: str) -> str:
    kind = html.escape(plots.POOLINGS.get(pooling, pooling))
    return f"{_METRIC_HTML.get(metric, html.escape(metric))} ({kind})"


# --------------------------------------------------------------------------------------------------------------- HTML


@dataclass
class Page:
    """The report while it grows: pieces of HTML, and where its plots go."""

    folder: Path
    parts: list[str] = field(default_factory=list)
    headings: list[tuple[str, str]] = field(default_factory=list)

    def add(self, *pieces: str) -> None:
        """Append pieces of HTML."""
        self.parts.extend(pieces)

    def heading(self, text: str) -> None:
        """Start a section, listed in the contents."""
        anchor = f"section-{len(self.headings) + 1}"
        self.headings.append((anchor, text))
        self.add(f'<h2 id="{anchor}">{html.escape(text)}</h2>')

    def contents(self) -> str:
        """Links to the sections."""
        links = "".join(f'<a href="#{anchor}">{html.escape(text)}</a>' for anchor, text in self.headings)
        return f"<nav>{links}</nav>" if len(self.headings) > 1 else ""

    def figure(self, name: str, draw: Callable[[], Any], caption: str, narrow: bool = False) -> str:
        """Draw a figure, keep it as PNG and SVG, and return it inline.

        Args:
            name: the files' name without ending.
            draw: see `plots.save`.
            caption: says what is shown and what n is; also the text for those who cannot see it.
            narrow: do not use the page's full width.
        """
        stem = self.folder / plots.slug(name)
        plots.save(draw, stem)
        data = base64.b64encode(stem.with_name(f"{stem.name}.svg").read_bytes()).decode()
        plain = html.escape(re.sub(r"<[^>]+>", "", caption))
        kind = ' class="narrow"' if narrow else ""
        image = f'<img loading="lazy" alt="{plain}" src="data:image/svg+xml;base64,{data}">'
        return f"<figure{kind}>{image}<figcaption>{caption}</figcaption></figure>"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        head: the heading, HTML.
        value: what a row is sorted by there.
        show: the value as HTML.
        text: left-aligned, sorted as text, and HTML already.
        whole: the cell as HTML from the row, instead of `show`.
    """

    head: str
    value: Callable[[Any], Any]
    show: Callable[[Any], str] = str
    text: bool = False
    whole: Callable[[Any], str] | None = None


def _html_table(rows: Sequence[Any], columns: Sequence[Column], caption: str) -> str:
    """A table that sorts by a click on a heading; missing values show as a dash with the row's note as its tip."""
    head = "".join(f'<th scope="col"{_class(c)}>{c.head}</th>' for c in columns)
    body = "".join(f"<tr>{''.join(_cell(row, c) for c in columns)}</tr>" for row in rows)
    return (
        f'<p class="caption">{caption}</p><div class="scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(column: Column) -> str:
    return ' class="t"' if column.text else ""


def _cell(row: Any, column: Column) -> str:
    value = column.value(row)
    if value is None or (not isinstance(value, str) and pd.isna(value)):
        note = html.escape(str(getattr(row, "note", "")), quote=True)
        return f'<td class="none" title="{note}">–</td>' if note else '<td class="none">–</td>'
    if column.text:
        return f'<td class="t">{value}</td>'
    shown = column.whole(row) if column.whole else column.show(value)
    return f'<td data-v="{float(value):.10g}">{shown}</td>'


def _number(digits: int, sign: bool = False) -> Callable[[Any], str]:
    return lambda value: f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "−")


def _p(value: Any) -> str:
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def _p_text(value: Any) -> str:
    return "p &lt; 0.001" if value < 0.001 else f"p = {value:.3f}"


def _count(value: Any) -> str:
    return f"{int(value):,}"


def _range(low: Any, high: Any, digits: int = 2) -> str:
    show = _number(digits)
    return "" if pd.isna(low) or pd.isna(high) else f" [{show(low)}, {show(high)}]"


def _get(name: str) -> Callable[[Any], Any]:
    return lambda row: getattr(row, name)


def _interval(low: str, high: str) -> Column:
    return Column("95% interval", _get(low), whole=lambda row: _range(getattr(row, low), getattr(row, high)).strip())


def _numeric(head: str, name: str, digits: int = 3, sign: bool = False) -> Column:
    return Column(head, _get(name), _number(digits, sign))


# --------------------------------------------------------------------------------------------------------- the report


def _head(page: Page, results: Results, failed: Sequence[str]) -> None:
    items = results.study.items
    languages = results.study.predictions["language"].tolist() + items["language"].tolist()
    languages += results.tables.translations["language"].tolist()
    count = len({code for code in languages if code != ENGLISH})
    page.add(
        f"<h1>{html.escape(_page_title(results))}</h1>"
        '<p class="lead">Does the model map other languages onto English inside, and does that go with right answers? '
        "First language by language, then item by item.</p>"
        f"<dl>{''.join(f'<dt>{name}</dt><dd>{value}</dd>' for name, value in _provenance(results, count))}</dl>"
    )
    if failed:
        listed = "".join(f"<li>{html.escape(job)}</li>" for job in failed)
        page.add(
            f'<div class="warn"><b>{len(failed)} of the jobs failed</b> and are not in this report:'
            f"<ul>{listed}</ul></div>"
        )
    for note in results.notes:
        page.add(f'<p class="note">{html.escape(note)}</p>')


def _provenance(results: Results, languages: int) -> Iterator[tuple[str, str]]:
    summaries = results.tables.summaries
    models = {
        s["model"]: ((s.get("config") or {}).get("model") or {}) for s in summaries if isinstance(s.get("model"), str)
    }
    named = sorted({model for model, _ in _studies(results)})
    yield "Models", html.escape("; ".join(_described(name, models.get(name, {})) for name in named))
    yield "Tasks", html.escape(", ".join(sorted({_task(task) for _, task in _studies(results)})))
    yield "Languages", f"{languages} and English, which is the pivot and never a point"
    rows = len(results.tables.alignment)
    translated = len(results.tables.translations)
    counts = f"{rows:,} of alignment, {len(results.tables.predictions):,} of predictions"
    yield "Rows", counts + (f", {translated:,} of translations" if translated else "")
    layers = sorted({int(k) for block in results.study.blocks.values() for k in block.layers})
    if layers:
        yield "Layers", _layers(layers)
    sources = sorted({f"{d.get('dataset', '?')} ({d.get('source', '?')})" for s in summaries if (d := s.get("data"))})
    yield "Data", html.escape("; ".join(sources)) if sources else "not recorded (no summary.json beside the tables)"
    folders = [str(folder) for folder in results.tables.folders]
    yield (
        "Read from",
        html.escape(f"{len(folders)} folders in {os.path.commonpath(folders)}" if len(folders) > 1 else folders[0]),
    )
    versions = sorted(
        {f"{k} {v}" for s in summaries for k, v in (s.get("versions") or {}).items() if k in ("torch", "transformers")}
    )
    yield (
        "Made by",
        html.escape(f"align_pipeline {__version__}" + (f"; runs with {', '.join(versions)}" if versions else "")),
    )


def _described(name: str, config: Mapping[str, Any]) -> str:
    more = [str(config[key]) for key in ("path", "revision", "dtype") if config.get(key)]
    return f"{name} ({', '.join(more)})" if more else name


def _layers(layers: Sequence[int]) -> str:
    whole = len(layers) == layers[-1] - layers[0] + 1
    return f"{layers[0]} to {layers[-1]}" if whole and len(layers) > 2 else ", ".join(map(str, layers))


@dataclass(frozen=True)
class Part:
    """A report's tables for one model and task."""

    model: str
    task: str
    results: Results

    def of(self, name: str) -> pd.DataFrame:
        """The rows of one of the results' tables."""
        table: pd.DataFrame = getattr(self.results, name)
        return table[(table["model"] == self.model) & (table["task"] == self.task)]

    def of_translation(self, name: str) -> pd.DataFrame:
        """The model's rows of one of the tables about translation."""
        table: pd.DataFrame = getattr(self.results.translation, name)
        keys = {key: value for key, value in (("model", self.model), ("task", self.task)) if key in table}
        return table[(table[list(keys)] == pd.Series(keys)).all(axis=1)]

    @property
    def metrics(self) -> list[tuple[str, str]]:
        """Metric and pooling, in the order of DALI, DALI_S, MEXA_T, others."""
        found = [
            (metric, pooling)
            for model, task, metric, pooling in self.results.study.blocks
            if (model, task) == (self.model, self.task)
        ]
        order = list(plots.METRICS)
        return sorted(found, key=lambda m: (order.index(m[0]) if m[0] in order else len(order), m))

    def name(self, *words: str) -> str:
        """A plot's name; the model is in it only where there are several."""
        several = len({model for model, _ in _studies(self.results)}) > 1
        return "_".join([words[0], *([self.model] if several else []), self.task, *words[1:]])


def _section(page: Page, results: Results, model: str, task: str) -> None:
    part = Part(model, task, results)
    page.heading(f"{_task(task)}, {model}")
    if results.translation is not None and not part.of_translation("scores").empty:
        _translation_part(page, part)
        _layer_part(page, part)
        _translation_patching_part(page, part)
        return
    findings = list(_findings(part))
    if findings:
        page.add(f'<ul class="findings">{"".join(f"<li>{f}</li>" for f in findings)}</ul>')
    _overview(page, part)
    _language_part(page, part)
    _layer_part(page, part)
    _instance_part(page, part)
    _pooled_part(page, part)
    _patching_part(page, part)
    _calibration_part(page, part)
    _published_part(page, part)


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
            yield _instance_finding(_metric(metric, pooling), rows, own)
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
    name = f"<b>{_metric(row.metric, row.pooling)} over languages.</b> "
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
        f"{name}{verdict}{degree}: Pearson r = {_number(2)(row.pearson)}{_range(row.pearson_low, row.pearson_high)}, "
        f"{_p_text(row.pearson_p)}; Spearman {_number(2)(row.spearman)}; n = {row.n} languages, max over layers."
    )
    if not pd.isna(row.partial_pearson):
        text += f" Given tokenizer fertility, r = {_number(2)(row.partial_pearson)} ({_p_text(row.partial_pearson_p)})."
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
        f"median difference is {_number(1, sign=True)(100 * tested['difference'].median())} points."
    )
    cmh = pooled[(pooled["method"] == "cmh") & (pooled["contrast"] == "ts_tf") & pooled["odds_ratio"].notna()]
    logit = pooled[
        (pooled["adjusted_for"] == "covariates and language")
        & (pooled["term"] == "aligned")
        & pooled["odds_ratio"].notna()
    ]
    for row in cmh.itertuples():
        text += (
            f" All languages together: odds ratio {row.odds_ratio:.2f}{_range(row.low, row.high)} (CMH, "
            f"{_p_text(row.p)})"
        )
        text += "." if logit.empty else ";"
    for row in logit.itertuples():
        text += (
            f" for right against wrong, given English confidence, length, fertility, option similarity, category and "
            f"language, {row.odds_ratio:.2f}{_range(row.low, row.high)} ({_p_text(row.p)})."
        )
    return text


def _overview(page: Page, part: Part) -> None:
    cells, groups, known = part.of("cells"), part.of("groups"), part.results.languages
    units = pd.concat([cells[["language", "pivot"]], groups[["language", "pivot"]]]).drop_duplicates()
    table = units.merge(groups.drop(columns=["model", "task"]), how="left", on=["language", "pivot"])
    table["name"] = [known["name"].get(code, code) for code in table["language"]]
    own = part.of("points").drop_duplicates(["language", "pivot"])[["language", "pivot", "fertility"]]
    table = table.merge(own, how="left", on=["language", "pivot"])
    columns = [
        Column("Language", lambda r: html.escape(str(r.name)), text=True),
        Column("Code", lambda r: html.escape(r.language), text=True),
        *([Column("Pivot", lambda r: html.escape(r.pivot), text=True)] if table["pivot"].nunique() > 1 else []),
        *[Column(h, _get(n), _count) for h, n in (("n", "n"), ("TS", "ts"), ("TF", "tf"))],
        _numeric("Accuracy", "accuracy"),
        Column("±", _get("stderr"), _number(3)),
        _numeric("English", "english_accuracy"),
        _numeric("Fertility", "fertility", 2),
    ]
    for i, (metric, pooling) in enumerate(part.metrics):
        rows = cells[(cells["metric"] == metric) & (cells["pooling"] == pooling)]
        best = rows.loc[rows["best_layer"], ["language", "pivot", "share", "layer"]]
        best = best.rename(columns={"share": f"max_{i}", "layer": f"at_{i}"})
        mean = rows[rows["inner"].astype(bool)].groupby(["language", "pivot"])["share"].mean().rename(f"mean_{i}")
        table = table.merge(best, how="left", on=["language", "pivot"]).merge(
            mean.reset_index(), how="left", on=["language", "pivot"]
        )
        name = _metric(metric, pooling)
        columns += [
            _numeric(f"{name}<br>max", f"max_{i}"),
            Column("at layer", _get(f"at_{i}"), _count),
            _numeric("mean", f"mean_{i}"),
        ]
    table["note"] = table["note"].fillna("there are no predictions")
    table = table.sort_values(["accuracy", "language"], ascending=[False, True])
    caption = (
        "Every language. n: items with an answer; ±: standard error; English: accuracy on the English versions; TS, "
        "TF: "
        "right in English and right, wrong here; fertility: tokens per token of the English item; then the share of "
        "aligned items, max and mean over the layers before the final norm. Click a heading to sort."
    )
    page.add("<h3>The languages</h3>", _html_table(list(table.itertuples()), columns, caption))


_LEVEL_COLUMNS = [
    Column("n", _get("n"), _count),
    _numeric("Pearson", "pearson"),
    _interval("pearson_low", "pearson_high"),
    Column("p", _get("pearson_p"), _p),
    _numeric("Spearman", "spearman"),
    _interval("spearman_low", "spearman_high"),
    Column("p", _get("spearman_p"), _p),
    _numeric("given fertility", "partial_pearson"),
    Column("p", _get("partial_pearson_p"), _p),
]


def _language_part(page: Page, part: Part) -> None:
    level, points = part.of("language_level"), part.of("points")
    if level.empty:
        page.add("<h3>Languages: alignment against accuracy</h3>")
        page.add('<p class="note">Not defined, because there are no accuracies for these languages in the tables.</p>')
        return
    page.add("<h3>Languages: alignment against accuracy</h3>")
    whole = level[(level["grouping"] == "all") & (level["reduce"] != "layer")]
    names = [
        Column("Metric", lambda r: _metric(r.metric, r.pooling) + _elsewhere(r), text=True),
        Column("Over layers", lambda r: r.reduce, text=True),
    ]
    caption = (
        "Correlation over languages between the share of aligned items and accuracy. Intervals: 95%, percentile "
        "bootstrap over "
        "languages; p: two-sided; last columns: partial correlation given tokenizer fertility. A dash is explained "
        "by its tip."
    )
    page.add(_html_table(list(whole.itertuples()), [*names, *_LEVEL_COLUMNS], caption))
    classes = part.results.languages["resource"]
    for i, (key, rows) in enumerate(_in_order(points[points["reduce"] == "max"])):
        source, metric, pooling = key
        numbers = whole[
            (whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1) & (whole["reduce"] == "max")
        ]
        caption = (
            f"Accuracy against the share of aligned items ({_metric(metric, pooling)}, max over layers); a point is a "
            f"language, n = {len(rows)}; English is left out."
        )
        name = part.name("scatter", *([] if source == part.task else [source]), metric, pooling)
        figure = page.figure(name, partial(plots.scatter, rows, numbers.iloc[0], classes), caption)
        page.add(_folded(figure, f"{_metric(metric, pooling)}: accuracy against alignment", i == 0))
    layers = level[(level["grouping"] == "all") & (level["reduce"] == "layer")]
    if layers["pearson"].notna().any() and layers["layer"].nunique() > 1:
        caption = (
            f"Pearson correlation over languages of alignment at one layer with accuracy, n = {layers['n'].max()} "
            "languages; bands: 95% bootstrap intervals."
        )
        page.add(page.figure(part.name("correlation"), partial(plots.correlation_by_layer, layers), caption))
    _subsets(page, level)


def _elsewhere(row: Any) -> str:
    return "" if row.alignment_task == row.task else f" on {html.escape(_task(row.alignment_task))}"


def _in_order(table: pd.DataFrame) -> list[tuple[tuple[str, str, str], pd.DataFrame]]:
    order = list(plots.METRICS)
    groups = [
        ((str(k[0]), str(k[1]), str(k[2])), rows) for k, rows in table.groupby(["alignment_task", "metric", "pooling"])
    ]
    return sorted(groups, key=lambda g: (order.index(g[0][1]) if g[0][1] in order else len(order), g[0]))


def _subsets(page: Page, level: pd.DataFrame) -> None:
    chosen = level[(level["grouping"] != "all") & (level["reduce"] != "layer") & (level["n"] >= analysis.MIN_LANGUAGES)]
    if chosen.empty:
        return
    names = [
        Column("Subset", lambda r: f"{r.grouping}: {html.escape(r.group)}", text=True),
        Column("Metric", lambda r: _metric(r.metric, r.pooling) + _elsewhere(r), text=True),
        Column("Over layers", lambda r: r.reduce, text=True),
    ]
    caption = (
        "The same within scripts, families and resource classes (Joshi et al. 2020) of at least "
        f"{analysis.MIN_LANGUAGES} languages; smaller ones, and all layers, are in language_level.csv."
    )
    page.add(
        _folded(
            _html_table(list(chosen.itertuples()), [*names, *_LEVEL_COLUMNS], caption),
            "Within scripts, families and resource classes",
            False,
        )
    )


def _folded(content: str, summary: str, is_open: bool) -> str:
    return f"<details{' open' if is_open else ''}><summary>{summary}</summary>{content}</details>"


def _layer_part(page: Page, part: Part) -> None:
    if not part.metrics:
        return
    page.add("<h3>Layers: where languages meet English</h3>")
    cells = part.of("cells")
    for i, (metric, pooling) in enumerate(part.metrics):
        rows = cells[(cells["metric"] == metric) & (cells["pooling"] == pooling)]
        name, last = _metric(metric, pooling), _last(part, metric, pooling)
        count, n = rows["language"].nunique(), int(rows["n"].max())
        lines = page.figure(
            part.name("curves", metric, pooling),
            partial(plots.curves, rows, last),
            f"Share of aligned items by layer, {name}: {count} languages, n = {n:,} items each at most. Layer 0 is "
            "the embedding.",
        )
        heat = page.figure(
            part.name("heatmap", metric, pooling),
            partial(plots.heatmap, rows),
            f"The same as a map, {name}: {count} languages, n = {n:,} items each at most, sorted by their best "
            "layer's share (ring).",
        )
        page.add(_folded(lines + heat, f"{name}: share of aligned items by layer", i == 0))


def _last(part: Part, metric: str, pooling: str) -> int:
    """The first layer that is not counted; beyond all layers if every one is."""
    block = part.results.study.blocks[part.model, part.task, metric, pooling]
    outside = block.layers[~block.inner]
    return int(outside[0]) if len(outside) else int(block.layers[-1]) + 1


def _instance_part(page: Page, part: Part) -> None:
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
            _metric(metric, pooling),
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
        page.add(_folded(figures, f"{name}: TS against TF", i == 0))
    _instance_table(page, instance[instance["best_layer"]])


def _instance_table(page: Page, best: pd.DataFrame) -> None:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Metric", lambda r: _metric(r.metric, r.pooling), text=True),
        Column("Groups", lambda r: {"ts_tf": "TS, TF", "right_wrong": "right, wrong"}[r.contrast], text=True),
        Column("Layer", _get("layer"), _count),
        Column("n<sub>a</sub>", _get("n_a"), _count),
        Column("n<sub>b</sub>", _get("n_b"), _count),
        _numeric("Aligned a", "mean_a"),
        _numeric("Aligned b", "mean_b"),
        _numeric("Difference", "difference", sign=True),
        _interval("low", "high"),
        _numeric("z", "z", 2),
        *[
            Column(h, _get(n), _p)
            for h, n in (("p", "p_one_sided"), ("Fisher", "p_fisher"), ("Holm", "p_holm"), ("BH", "p_bh"))
        ],
    ]
    caption = (
        "At each language's best layer. p: one-sided two-proportion z-test of a being aligned more often than b; "
        "Fisher: exact "
        "test, same direction; Holm, BH: p adjusted over the layers. All layers: instance_level.csv."
    )
    page.add(
        _folded(
            _html_table(list(best.itertuples()), columns, caption), "Table: every language at its best layer", False
        )
    )


def _pooled_part(page: Page, part: Part) -> None:
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
        Column("Metric", lambda r: _metric(r.metric, r.pooling), text=True),
        Column("Method", lambda r: {"cmh": "CMH", "logit": "logistic"}[r.method], text=True),
        Column("Groups", lambda r: {"ts_tf": "TS, TF", "right_wrong": "right, wrong"}[r.contrast], text=True),
        Column("Adjusted for", lambda r: "" if pd.isna(r.adjusted_for) else str(r.adjusted_for), text=True),
        Column("Term", lambda r: html.escape(str(r.term).replace("_", " ")), text=True),
        Column("n", _get("n"), _count),
        Column("Languages", _get("n_languages"), _count),
        _numeric("Odds ratio", "odds_ratio"),
        _interval("low", "high"),
        _numeric("z", "z", 2),
        Column("p", _get("p"), _p),
        Column("Note", lambda r: html.escape(r.note), text=True),
    ]
    caption = (
        "Each language at its best layer. CMH: Cochran-Mantel-Haenszel with languages as strata. Logistic: "
        "correctness on alignment, "
        "errors clustered by item, since the same items recur in all languages; numeric covariates per standard "
        "deviation. p: two-sided."
    )
    page.add(_html_table(list(best.itertuples()), columns, caption))


def _patching_part(page: Page, part: Part) -> None:
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
            content += _folded(shown, "The parallel activation against each control", False)
        by_category = part.of("patching_categories")
        by_category = by_category[(by_category[same] == rows[same].iloc[0]).all(axis="columns")]
        if by_category["category"].nunique() > 1 and not (by_category["head"] >= 0).any():
            content += _folded(_category_table(by_category, table), "By the items' category", False)
        page.add(_folded(content, f"Patched: {kind}", i == 0))


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
        *([Column("Head", _get("head"), _count)] if heads else []),
        Column("TF", _get("n_tf"), _count),
        Column("TS", _get("n_ts"), _count),
        Column("Best layer", _get("best_layer"), _count),
        _numeric("corrected there", "best_correction"),
        _numeric("Middle third", "middle_correction"),
        _interval("middle_low", "middle_high"),
        _numeric("damaged", "middle_damage"),
        _numeric("Due to the concept", "attributable", sign=True),
        _interval("attributable_low", "attributable_high"),
        Column("Strongest control", lambda r: html.escape(_control(r.strongest_control)), text=True),
    ]
    caption = (
        "Share of TF items corrected (and, where they were patched, of TS items damaged). Middle third: mean over the "
        "layers from a third to two thirds of the depth, which nothing was selected for; the best layer is chosen on "
        "the same items. Due to the concept: the parallel activation minus the strongest control that lacks the "
        "concept. Late layers hand over the answer itself: there options reordered is the control to look at."
    )
    return _html_table(list(table.itertuples()), columns, caption)


def _control_table(middle: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Control", lambda r: html.escape(_control(r.control)), text=True),
        Column("Lacks the concept", lambda r: "yes" if r.lacks_concept else "no", text=True),
        Column("n", _get("n"), _count),
        _numeric("Difference", "difference", sign=True),
        _interval("low", "high"),
        _numeric("of log-odds", "log_odds_difference", sign=True),
        _interval("log_odds_low", "log_odds_high"),
    ]
    caption = (
        "Correction rate with the parallel activation minus that with the control, on the same TF items, and the same "
        "of the gold option's log-odds: means over the middle third of the layers with bootstrap intervals. Layer by "
        "layer, with McNemar's test: <code>patching_contrasts.csv</code>."
    )
    return _html_table(list(middle.itertuples()), columns, caption)


def _category_table(rates: pd.DataFrame, table: pd.DataFrame) -> str:
    """Correction rates per category at each condition's best layer."""
    keys = ["language", "pivot", "condition"]
    best = table.rename(columns={"best_layer": "layer"})[[*keys, "layer"]].dropna()
    rows = rates.astype({"layer": float}).merge(best.astype({"layer": float}), on=[*keys, "layer"])
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Replaced by", lambda r: html.escape(patching_plots.condition_name(r.condition)), text=True),
        Column("Category", lambda r: html.escape(r.category), text=True),
        Column("Best layer", _get("layer"), _count),
        Column("TF", _get("n_tf"), _count),
        _numeric("Corrected", "correction_rate"),
    ]
    caption = "Share of TF items corrected, by category, at the layer that is best over all categories."
    return _html_table(list(rows.itertuples()), columns, caption)


def _translation_patching_part(page: Page, part: Part) -> None:
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
            content += _folded(shown, "The parallel activation against each control", False)
        page.add(_folded(content, f"Patched: {kind}", i == 0))


def _translation_patching_table(table: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Replaced by", lambda r: html.escape(patching_plots.condition_name(r.condition)), text=True),
        Column("n", _get("n"), _count),
        _numeric("Unpatched", "unpatched", 1),
        Column("Best layer", _get("best_layer"), _count),
        _numeric("chrF++ there", "best", 1),
        _numeric("Middle third", "middle_difference", 1, sign=True),
        _interval("middle_low", "middle_high"),
        _numeric("Due to the concept", "attributable", 1, sign=True),
        _interval("attributable_low", "attributable_high"),
        Column("Strongest control", lambda r: html.escape(_control(r.strongest_control)), text=True),
    ]
    caption = (
        "Corpus chrF++ of translations with the activation at the end of the source sentence replaced. Middle third: "
        "change against unpatched, mean over the layers from a third to two thirds of the depth, which nothing was "
        "selected for; the best layer is chosen on the same sentences. Due to the concept: the parallel activation "
        "minus the strongest control that lacks the concept. Intervals: 95%, paired bootstrap over sentences. BLEU, "
        "and layer by layer: <code>translation_patching_effects.csv</code>."
    )
    return _html_table(list(table.itertuples()), columns, caption)


def _translation_control_table(middle: pd.DataFrame) -> str:
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Control", lambda r: html.escape(_control(r.control)), text=True),
        Column("Lacks the concept", lambda r: "yes" if r.lacks_concept else "no", text=True),
        Column("n", _get("n"), _count),
        _numeric("Difference, chrF++", "chrf_difference", 1, sign=True),
        _interval("chrf_low", "chrf_high"),
        _numeric("BLEU", "bleu_difference", 1, sign=True),
        _interval("bleu_low", "bleu_high"),
    ]
    caption = (
        "Scores with the parallel activation minus those with the control: means over the middle third of the layers "
        "with paired bootstrap intervals. Layer by layer: <code>translation_patching_contrasts.csv</code>."
    )
    return _html_table(list(middle.itertuples()), columns, caption)


def _control(name: Any) -> str:
    return patching_plots.condition_name(name) if isinstance(name, str) else ""


def _calibration_part(page: Page, part: Part) -> None:
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
        Column("n", _get("n"), _count),
        _numeric("Accuracy", "accuracy"),
        _numeric("Confidence", "confidence"),
        _numeric("Overconfidence", "overconfidence", sign=True),
        _numeric("ECE", "ece"),
        _numeric("Brier", "brier"),
        _numeric("Brier, all options", "brier_options"),
    ]
    caption = (
        "Calibration per language. ECE: expected calibration error, ten equal bins; Brier: mean squared gap between "
        "confidence and correctness (0 is best); over all options it is 0 to 2."
    )
    page.add(_html_table(list(table.sort_values("ece").itertuples()), columns, caption))
    sure = part.of("confidence")
    if sure["difference"].notna().any():
        columns = [
            Column("Language", lambda r: html.escape(r.language), text=True),
            Column("Metric", lambda r: _metric(r.metric, r.pooling), text=True),
            *[
                Column(h, _get(n), _count)
                for h, n in (("Layer", "layer"), ("n aligned", "n_aligned"), ("n other", "n_other"))
            ],
            _numeric("Confidence, aligned", "confidence_aligned"),
            _numeric("other", "confidence_other"),
            _numeric("Difference", "difference", sign=True),
            _interval("low", "high"),
            Column("p (Welch)", _get("p_welch"), _p),
            Column("p (Mann-Whitney)", _get("p_mannwhitney"), _p),
        ]
        median = sure["difference"].median()
        caption = (
            "Confidence of aligned against other items at each language's best layer; the median difference is "
            f"{_number(3, sign=True)(median)}. p: two-sided."
        )
        page.add(
            _folded(
                _html_table(list(sure.itertuples()), columns, caption), "Is the model surer of aligned items?", False
            )
        )


def _translation_part(page: Page, part: Part) -> None:
    """The section of a task that is translated."""
    scored, level = part.of_translation("scores"), part.of_translation("level")
    score = translation_analysis.headline(scored)
    name = plots.SCORES[score]
    asymmetry, sentences = part.of_translation("asymmetry"), part.of_translation("sentences")
    whole = level[(level["score"] == score) & (level["reduce"] == "max")]
    best = sentences[(sentences["score"] == score) & sentences["best_layer"].astype(bool)]
    over = asymmetry[(asymmetry["score"] == score) & (asymmetry["language"] == "all")]
    own = [_translation_level_finding(row, name) for row in whole[whole["alignment_task"] == part.task].itertuples()]
    own += [_asymmetry_finding(row, name) for row in over.itertuples()]
    for (metric, pooling, direction), rows in best.groupby(["metric", "pooling", "direction"]):
        own.append(_sentence_finding(_metric(str(metric), str(pooling)), str(direction), rows, name))
    page.add(f'<ul class="findings">{"".join(f"<li>{finding}</li>" for finding in own)}</ul>')
    _translation_overview(page, part, scored)
    page.add("<h3>Languages: alignment against translation</h3>")
    points = part.of_translation("points")
    for i, (key, rows) in enumerate(_in_order(points[(points["score"] == score) & (points["reduce"] == "max")])):
        source, metric, pooling = key
        numbers = whole[(whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1)]
        caption = (
            f"Mean {name} of a language's sentences against the share of aligned items "
            f"({_metric(metric, pooling)} on {html.escape(_task(source))}, max over layers), in both directions; a "
            f"point is a language, n = {rows['language'].nunique()}."
        )
        drawn = partial(plots.translation_scatter, rows, numbers)
        figure = page.figure(part.name("translation", source, metric, pooling), drawn, caption)
        page.add(_folded(figure, f"{_metric(metric, pooling)} on {html.escape(_task(source))}", i == 0))
    columns = [
        Column("Direction", _get("direction"), text=True),
        Column("Score", lambda r: plots.SCORES[r.score], text=True),
        Column(
            "Metric", lambda r: f"{_metric(r.metric, r.pooling)} on {html.escape(_task(r.alignment_task))}", text=True
        ),
        Column("Over layers", _get("reduce"), text=True),
        *_LEVEL_COLUMNS[:7],
    ]
    caption = (
        "Correlation over languages between the share of aligned items and the mean score of the sentences. Intervals: "
        "95%, percentile bootstrap over languages; p: two-sided."
    )
    page.add(_html_table(list(level.itertuples()), columns, caption))
    columns = [
        *columns[1:4],
        Column("n", _get("n"), _count),
        _numeric("Spearman, en-xx", "spearman_en_xx"),
        _numeric("xx-en", "spearman_xx_en"),
        _numeric("Difference", "difference", sign=True),
        _interval("low", "high"),
        Column("p", _get("p"), _p),
    ]
    caption = (
        "Does alignment go with translation into English as with translation out of it? xx-en minus en-xx; interval: "
        "bootstrap over languages; p: two-sided, directions swapped at random within languages."
    )
    page.add(_html_table(list(part.of_translation("directions").itertuples()), columns, caption))
    _translation_accuracy(page, part)
    _translation_sentences(page, part, best, name)


def _translation_level_finding(row: Any, name: str) -> str:
    lead = f"<b>{_metric(row.metric, row.pooling)} over languages, {row.direction}.</b> "
    if pd.isna(row.pearson):
        return f"{lead}The correlation of alignment with {name} is {html.escape(row.note)}."
    verdict = (
        "There is no sign that alignment goes with translation"
        if row.pearson_p >= 0.05
        else f"Languages that are {'better' if row.pearson > 0 else 'worse'} aligned are translated better"
    )
    return (
        f"{lead}{verdict}: Pearson r = {_number(2)(row.pearson)}{_range(row.pearson_low, row.pearson_high)} with "
        f"{name}, {_p_text(row.pearson_p)}; Spearman {_number(2)(row.spearman)}; n = {row.n} languages, max over "
        "layers."
    )


def _asymmetry_finding(row: Any, name: str) -> str:
    text = (
        f"<b>Directions.</b> Mean {name} is {row.en_xx:.1f} out of English and {row.xx_en:.1f} into it, over "
        f"{row.n} languages"
    )
    if pd.isna(row.p):
        return f"{text} ({html.escape(row.note)})."
    gap = f"{_number(1, sign=True)(row.difference)}{_range(row.low, row.high, 1)}"
    return f"{text}; difference {gap}, {_p_text(row.p)} (Wilcoxon)."


def _sentence_finding(metric: str, direction: str, rows: pd.DataFrame, name: str) -> str:
    lead = f"<b>{metric} over sentences, {direction}.</b> "
    tested = rows[rows["p_holm"].notna()]
    if tested.empty:
        return f"{lead}Aligned against other sentences is {html.escape(str(rows['note'].iloc[0]))}."
    sure, n = int((tested["p_holm"] < 0.05).sum()), len(tested)
    return (
        f"{lead}Aligned sentences have a higher {name} in {sure} of {n} language{'' if n == 1 else 's'} at the "
        "language's best layer (one-sided Mann-Whitney, Holm over layers, p &lt; 0.05); the median rank-biserial "
        f"correlation is {_number(2, sign=True)(tested['rank_biserial'].median())}."
    )


def _translation_overview(page: Page, part: Part, scored: pd.DataFrame) -> None:
    known = part.results.languages
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
        columns.append(Column(f"{direction}<br>n", _get(f"n{end}"), _count))
        columns += [_numeric(name, f"{score}{end}", 1) for score, name in plots.SCORES.items() if score in own]
        columns += [_numeric(head.replace("_", " "), f"{head}{end}") for head in ("empty", "copies", "cut_off")]
    caption = (
        "Every language. Scores: means of sacrebleu's sentence scores (corpus scores are in summary.json); empty, "
        "copies (of the source), cut off (still going on after the most tokens allowed): shares of sentences."
    )
    page.add("<h3>The languages</h3>", _html_table(list(table.itertuples()), columns, caption))
    figures = part.of_translation("asymmetry")
    chosen = figures[(figures["score"] == translation_analysis.headline(scored)) & (figures["language"] != "all")]
    if len(chosen):
        caption = (
            "Translation into English against translation out of it, means over sentences; a point is a language, "
            f"n = {len(chosen)}; on the dashed line both are equal."
        )
        page.add(page.figure(part.name("directions"), partial(plots.directions, chosen), caption, narrow=True))


def _translation_accuracy(page: Page, part: Part) -> None:
    assert part.results.translation is not None
    table = part.results.translation.accuracy
    rows = table[table["model"] == part.model]
    if rows.empty:
        return
    columns = [
        Column("Task", lambda r: html.escape(_task(r.task)), text=True),
        Column("Direction", _get("direction"), text=True),
        Column("Score", lambda r: plots.SCORES[r.score], text=True),
        *_LEVEL_COLUMNS[:7],
    ]
    caption = "Correlation over languages of a task's accuracy with translation quality."
    page.add("<h3>Languages: accuracy against translation</h3>", _html_table(list(rows.itertuples()), columns, caption))


def _translation_sentences(page: Page, part: Part, best: pd.DataFrame, name: str) -> None:
    if best.empty:
        return
    page.add("<h3>Sentences: are aligned ones translated better?</h3>")
    for key, rows in best.groupby(["metric", "pooling"]):
        metric, pooling = map(str, key)
        if rows["rank_biserial"].notna().any():
            caption = (
                f"Rank-biserial correlation of being aligned ({_metric(metric, pooling)}) with {name}, at each "
                "language's best layer: how much more often an aligned sentence beats another than the other way "
                f"round, with its 95% interval; n = {rows['language'].nunique()} languages."
            )
            drawn = partial(plots.rank_biserial, rows)
            page.add(page.figure(part.name("sentences", metric, pooling), drawn, caption))
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Direction", _get("direction"), text=True),
        Column("Metric", lambda r: _metric(r.metric, r.pooling), text=True),
        *[Column(h, _get(n), _count) for h, n in (("Layer", "layer"), ("aligned", "n_aligned"), ("other", "n_other"))],
        _numeric(f"{name}, aligned", "mean_aligned", 1),
        _numeric("other", "mean_other", 1),
        _numeric("Rank-biserial", "rank_biserial", sign=True),
        _interval("low", "high"),
        *[Column(h, _get(n), _p) for h, n in (("p", "p_one_sided"), ("Holm", "p_holm"), ("BH", "p_bh"))],
    ]
    caption = (
        "At each language's best layer. p: one-sided Mann-Whitney test of aligned sentences being translated better; "
        "Holm, BH: p adjusted over the layers. All layers and scores: translation_sentences.csv."
    )
    page.add(_folded(_html_table(list(best.itertuples()), columns, caption), "Table: every language", False))


def _published_part(page: Page, part: Part) -> None:
    table = part.of("against_published")
    if table.empty:
        return
    page.add("<h3>Beside the study's released figures</h3>")
    size = table["difference"].abs()
    page.add(
        f"<p>{len(table)} figures of this run have a counterpart in the outputs that the study's authors released for "
        "Llama-3.1-8B "
        f"(arXiv 2504.09378); the median absolute difference is {size.median():.4f}, the largest {size.max():.4f}.</p>"
    )
    columns = [
        Column("Language", lambda r: html.escape(r.language), text=True),
        Column("Pivot", lambda r: html.escape(r.pivot), text=True),
        Column(
            "Figure",
            lambda r: "accuracy" if r.quantity == "accuracy" else f"{_metric(r.quantity, r.pooling)}, {r.reduce}",
            text=True,
        ),
        *[_numeric(h, n, 4) for h, n in (("This run", "run"), ("Published", "published"))],
        _numeric("Difference", "difference", 4, sign=True),
        *[Column(h, _get(n), _count) for h, n in (("n here", "n_run"), ("n there", "n_published"))],
        Column("Note", lambda r: html.escape(r.note), text=True),
    ]
    page.add(
        _html_table(
            list(table.itertuples()),
            columns,
            "This run minus the published figure. Alignment: max and mean over layers 0 to 31.",
        )
    )


def _tail(page: Page, files: Mapping[str, str]) -> None:
    page.heading("Method and files")
    page.add(
        "<p>An item is aligned at a layer if its English and its other version are closer to each other than to what "
        "they must be told "
        "apart from: the item's other options for DALI (and, for DALI<sub>S</sub>, the options of the same language "
        "among themselves), the other items for MEXA "
        "and MEXA<sub>T</sub>. Layer k is hidden state k: 0 is the embedding; the last one, after the final norm, is "
        "shown but left out of maxima, means and best layers. "
        "TS: right in English and here; TF: right in English, wrong here. English is the pivot and never a point.</p>"
        "<p>A language's best layer is chosen on the same items that are then compared at it; Holm and "
        "Benjamini-Hochberg over all layers guard against that choice. "
        "Cochran-Mantel-Haenszel takes the languages' items as independent, although they are translations of each "
        "other; the regression with errors clustered by item does not.</p>"
    )
    listed = "".join(f"<dt><code>{name}.csv</code></dt><dd>{what}</dd>" for name, what in files.items())
    page.add(f"<dl>{listed}<dt><code>plots/</code></dt><dd>every figure as PNG and SVG</dd></dl>")
    page.add(
        '<p class="note">An empty cell of a CSV file is explained in the column <code>note</code> of its row, or '
        "does not apply to the row's kind.</p>"
    )
