"""The study's answers from tables alone: ``python -m align_pipeline.report runs=<folder or glob> out=<folder>``.

Reads every ``alignment.parquet`` and ``predictions.parquet`` in the folders and below them, whoever wrote them; writes
CSV files, plots (PNG and SVG) and one self-contained ``report.html``. Needs no model, no torch and no network.
"""

from __future__ import annotations

import base64
import glob
import html
import json
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

if __name__ == "__main__":  # before numpy loads: on tall, thin matrices BLAS threads mostly wait for each other
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from align_pipeline import __version__, analysis, plots
from align_pipeline.config import CONF
from align_pipeline.errors import InputError, unknown
from align_pipeline.records import ALIGNMENT, ENGLISH, PREDICTIONS

PACKAGE = Path(__file__).parent
USAGE = """Usage: python -m align_pipeline.report runs=<folder or glob> out=<folder>

  runs   a run's folder, a folder of runs, or a glob such as 'outputs/runs/*'; may be given several times
  out    where report.html, the CSV files and plots/ go; made if it does not exist
  seed   of the bootstrap (default 0)"""
_OPTIONAL = {
    "margin",
    "correct_norm",
    "loglikelihoods",
    "prompt_tokens",
    "item_tokens",
    "option_similarity",
    "category",
}
_PUBLISHED_MODEL = re.compile(r"llama-?3\.1-8b(?!.*(instruct|chat))", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Tables:
    """What the folders hold.

    Attributes:
        alignment: as `records.ALIGNMENT` without ``margin``, texts as categories.
        predictions: as `records.PREDICTIONS`, columns that no file has left out.
        folders: with at least one table.
        summaries: the ``summary.json`` beside the tables, where there is one.
    """

    alignment: pd.DataFrame
    predictions: pd.DataFrame
    folders: tuple[Path, ...]
    summaries: tuple[Mapping[str, Any], ...]


def read(runs: Sequence[Path]) -> Tables:
    """Read all tables in the folders and below them.

    Raises:
        InputError: no tables, or a file that is not such a table.
    """
    folders = sorted({found for run in runs for found in _folders(run)})
    if not folders:
        shown = ", ".join(str(run) for run in runs) or "nothing"
        raise InputError(f"There is no alignment.parquet or predictions.parquet in {shown} or below.")
    alignment = _table([f / "alignment.parquet" for f in folders], ALIGNMENT, {"margin"})
    predictions = _table([f / "predictions.parquet" for f in folders], PREDICTIONS, set())
    summaries = [_summary(folder / "summary.json") for folder in folders]
    return Tables(alignment, predictions, tuple(folders), tuple(s for s in summaries if s))


def _folders(run: Path) -> Iterator[Path]:
    for name in ("alignment.parquet", "predictions.parquet"):
        for path in run.rglob(name):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(run).parts):
                yield path.parent.resolve()


def _summary(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}.") from error
    return content if isinstance(content, dict) else {}


def _table(paths: Sequence[Path], schema: pa.Schema, left_out: set[str]) -> pd.DataFrame:
    fields = [f for f in schema if f.name not in left_out]
    parts = [_read(path, fields) for path in paths if path.is_file()]
    if not parts:
        return pd.DataFrame({f.name: pd.Series(dtype=_dtype(f)) for f in fields if f.name not in _OPTIONAL})
    common = [f.name for f in fields if any(f.name in part.column_names for part in parts)]
    table = pa.concat_tables(parts, promote_options="permissive").select(common)
    return table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)


def _dtype(f: pa.Field) -> Any:
    return object if pa.types.is_string(f.type) else f.type.to_pandas_dtype()


def _read(path: Path, fields: Sequence[pa.Field]) -> pa.Table:
    """One file, by name alone: folders called ``lang=swh`` are no partitions of it."""
    try:
        texts = [f.name for f in fields if pa.types.is_string(f.type)]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            have = set(file.schema_arrow.names)
            missing = [f.name for f in fields if f.name not in have | _OPTIONAL]
            if missing:
                raise InputError(f"{path} has no column {missing[0]}, so it is not such a table.")
            fields = [f for f in fields if f.name in have]
            table = file.read(columns=[f.name for f in fields])
        columns = [_column(table[f.name], f) for f in fields]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0].rstrip('.')}.") from error
    for f, column in zip(fields, columns, strict=True):
        empty = column.null_count and f.name not in _OPTIONAL
        if empty or (f.name in ("value", "correct") and not _binary(column)):
            raise InputError(f"{path} has {'empty cells' if empty else 'other values than 0 and 1'} in {f.name}.")
        if f.name == "confidence" and not pa.compute.all(pa.compute.is_finite(column)).as_py() and len(column):
            raise InputError(f"{path} has values in {f.name} that are not finite.")
    return pa.table(dict(zip([f.name for f in fields], columns, strict=True)))


def _column(column: pa.ChunkedArray, f: pa.Field) -> pa.ChunkedArray:
    if not pa.types.is_string(f.type):
        return column.cast(f.type)
    if pa.types.is_dictionary(column.type):
        return column.cast(pa.dictionary(pa.int32(), pa.string()))
    return column.cast(pa.string()).dictionary_encode()


def _binary(column: pa.ChunkedArray) -> bool:
    ends = pa.compute.min_max(column).as_py()
    return not len(column) or (ends["min"] >= 0 and ends["max"] <= 1)


def languages() -> pd.DataFrame:
    """Name, script, family and resource class by FLORES code, from ``conf/lang``."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    rows = [yaml.load(path.read_bytes(), loader) for path in sorted((CONF / "lang").glob("*.yaml"))]
    table = pd.DataFrame([row for row in rows if row], columns=["flores", "name", "script", "family", "resource"])
    return table.dropna(subset="flores").drop_duplicates("flores").set_index("flores")


def published() -> pd.DataFrame:
    """The study's released figures for Llama-3.1-8B; the file's first lines say where they are from."""
    texts = dict.fromkeys(("task", "language", "pivot", "quantity", "pooling", "reduce", "note"), str)
    table = pd.read_csv(
        PACKAGE / "published.csv",
        comment="#",
        dtype={**texts, "layer": "Int64"},
        keep_default_na=False,
        na_values={"layer": [""]},
    )
    return table


# ------------------------------------------------------------------------------------------------------------ results


@dataclass(frozen=True)
class Results:
    """All tables of a report; those in `FILES` become CSV files."""

    tables: Tables
    study: analysis.Study
    languages: pd.DataFrame
    cells: pd.DataFrame
    points: pd.DataFrame
    language_level: pd.DataFrame
    instance_level: pd.DataFrame
    calibration: pd.DataFrame
    regression: pd.DataFrame
    confidence: pd.DataFrame
    reliability: pd.DataFrame
    groups: pd.DataFrame
    against_published: pd.DataFrame
    notes: tuple[str, ...] = field(default=())


FILES = {
    "language_level": "correlation over languages of alignment and accuracy",
    "instance_level": "TS against TF and right against wrong, per language, metric and layer",
    "regression": "pooled over languages: Cochran-Mantel-Haenszel and logistic regression",
    "calibration": "calibration error and Brier score per language",
    "confidence": "confidence of aligned against other items, per language and metric",
    "groups": "accuracy and sizes of TS and TF per language",
    "points": "what the correlations compare: alignment and accuracy per language",
    "against_published": "beside the figures of the study's released outputs",
}


def analyse(tables: Tables, seed: int = 0) -> Results:
    """Run every analysis on the tables."""
    known = languages()
    study = analysis.join(tables.alignment, tables.predictions, last_layers(tables.summaries))
    cells = analysis.tally(study)
    points = analysis.points(study, cells)
    return Results(
        tables=tables,
        study=study,
        languages=known,
        cells=cells,
        points=points,
        language_level=analysis.language_level(points, known, seed=seed),
        instance_level=analysis.instance_level(cells),
        calibration=analysis.calibration(study.predictions),
        regression=analysis.regression(study, cells),
        confidence=analysis.confidence(study, cells),
        reliability=analysis.reliability(study.predictions),
        groups=analysis.groups(study.predictions),
        against_published=against_published(study, points),
        notes=(*study.notes, *_about_layers(study, tables)),
    )


def last_layers(summaries: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Index of each model's layer after the final norm, where a summary tells (``num_layers``)."""
    return {s["model"]: s["num_layers"] for s in summaries if "model" in s and isinstance(s.get("num_layers"), int)}


def _about_layers(study: analysis.Study, tables: Tables) -> Iterator[str]:
    told = last_layers(tables.summaries)
    highest: dict[str, tuple[int, bool]] = {}
    for (model, *_), block in study.blocks.items():
        layer, whole = int(block.layers[-1]), len(block.layers) == block.layers[-1] + 1
        before = highest.get(model, (layer, whole))
        highest[model] = max(before, (layer, whole))
    for model, (layer, whole) in sorted(highest.items()):
        if model not in told and not whole:
            yield (
                f"The tables of {model} hold only some layers; layer {layer}, the highest, is taken for the one after "
                "the final norm, which maxima, means and best layers leave out."
            )


def against_published(study: analysis.Study, points: pd.DataFrame) -> pd.DataFrame:
    """A run of the study's model beside the study's released figures.

    Returns:
        a row per figure that both have: model, task, language, pivot, quantity (accuracy or a metric), pooling, reduce,
        run, published, difference (run minus published), n_run, n_published, note.
    """
    answered = study.items[study.items["correct"].notna()]
    english = study.predictions[study.predictions["language"] == ENGLISH]
    accuracy = pd.concat([answered, english]).groupby(analysis.UNIT)["correct"].agg(run="mean", n_run="size")
    accuracy = accuracy.reset_index().assign(quantity="accuracy", pooling="", reduce="")
    own = points[points["reduce"] != "layer"].drop_duplicates(
        ["model", "alignment_task", "metric", "pooling", "reduce", "language", "pivot"]
    )
    own = own.assign(task=own["alignment_task"]).rename(
        columns={"metric": "quantity", "alignment": "run", "n": "n_run"}
    )
    keys = ["task", "language", "pivot", "quantity", "pooling", "reduce"]
    both = pd.concat([accuracy, own], ignore_index=True)[["model", *keys, "run", "n_run"]]
    both = both[both["model"].map(lambda name: bool(_PUBLISHED_MODEL.search(str(name))))].astype(
        dict.fromkeys(["model", *keys], object)
    )
    figures = published().rename(columns={"value": "published", "n": "n_published"})
    found = both.merge(figures.drop(columns="layer"), on=keys)
    found["difference"] = found["run"].astype(float) - found["published"]
    columns = ["model", *keys, "run", "published", "difference", "n_run", "n_published", "note"]
    return found[columns].sort_values(["model", *keys], ignore_index=True)


# ------------------------------------------------------------------------------------------------------------ writing


def write(runs: Sequence[Path], out: Path, failed: Sequence[str] = (), seed: int = 0) -> Path:
    """Analyse all runs and write the report; what was there under the same names is replaced, the page itself last.

    Args:
        runs: folders with tables, or above folders with tables; several may hold the same rows.
        out: made if it does not exist.
        failed: jobs to list as failed, one line each.
        seed: of the bootstrap.

    Returns:
        the path of ``report.html``.

    Raises:
        InputError: no tables, tables that contradict each other, or a place that cannot be written to.
    """
    results = analyse(read(runs), seed)
    try:
        out.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".report-", dir=out))
        try:
            _write_all(results, making, failed)
            (out / "plots").mkdir(exist_ok=True)
            made = [p for p in sorted(making.rglob("*")) if p.is_file()]
            for path in sorted(made, key=lambda p: p.name == "report.html"):
                os.replace(path, out / path.relative_to(making))
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"Nothing can be written to {out}: {error.strerror}; out=<folder> names another place."
        ) from error
    return out / "report.html"


def _write_all(results: Results, folder: Path, failed: Sequence[str]) -> None:
    for name in FILES:
        table = getattr(results, name)
        if name != "against_published" or len(table):
            table.to_csv(folder / f"{name}.csv", index=False)
    (folder / "plots").mkdir()
    page = Page(folder / "plots")
    _head(page, results, failed)
    for model, task in sorted({(m, t) for m, t in _studies(results)}):
        _section(page, results, model, task)
    _tail(page, results)
    template = Template((PACKAGE / "report_template.html").read_text(encoding="utf-8"))
    body = page.parts[0] + page.contents() + "\n".join(page.parts[1:])
    text = template.substitute(title=html.escape(_page_title(results)), body=body)
    (folder / "report.html").write_text(text, encoding="utf-8")


def _studies(results: Results) -> Iterator[tuple[str, str]]:
    for model, task, _, _ in results.study.blocks:
        yield model, task
    answered = results.study.predictions
    yield from answered[["model", "task"]].drop_duplicates().itertuples(index=False, name=None)


def _page_title(results: Results) -> str:
    models = sorted({model for model, _ in _studies(results)})
    tasks = sorted({_task(task) for _, task in _studies(results)})
    return f"Alignment and accuracy: {', '.join(models)} on {', '.join(tasks)}"


def _task(task: str) -> str:
    return plots.TASKS.get(task, task)


_METRIC_HTML = {"dali": "DALI", "dali_strong": "DALI<sub>S</sub>", "mexa_t": "MEXA<sub>T</sub>", "mexa": "MEXA"}


def _metric(metric: str, pooling: str) -> str:
    return f"{_METRIC_HTML.get(metric, html.escape(metric))} ({html.escape(pooling)})"


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
        f'<div class="scroll"><table class="sortable"><caption>{caption}</caption>'
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


def _p(value: float) -> str:
    return "&lt;0.001" if value < 0.001 else f"{value:.3f}"


def _p_text(value: float) -> str:
    return "p &lt; 0.001" if value < 0.001 else f"p = {value:.3f}"


def _count(value: Any) -> str:
    return f"{int(value):,}"


def _range(low: float, high: float, digits: int = 2) -> str:
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
            f'<div class="warn"><b>{len(failed)} of the jobs failed</b> and are not in this report:<ul>{listed}</ul></div>'
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
    yield "Rows", f"{rows:,} of alignment, {len(results.tables.predictions):,} of predictions"
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
    findings = list(_findings(part))
    if findings:
        page.add(f'<ul class="findings">{"".join(f"<li>{f}</li>" for f in findings)}</ul>')
    _overview(page, part)
    _language_part(page, part)
    _layer_part(page, part)
    _instance_part(page, part)
    _pooled_part(page, part)
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
            f"<b>Confidence.</b> In the median language the model is {abs(over):.1%} "
            f"{'over' if over > 0 else 'under'}confident (mean confidence against accuracy); expected calibration error "
            f"is {low:.3f} to {high:.3f}" + (f", {english.mean():.3f} in English." if len(english) else ".")
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
        f"language{'' if n == 1 else 's'} at the language's best layer (one-sided z, Holm over layers, p &lt; 0.05); the "
        f"median difference is {_number(1, sign=True)(100 * tested['difference'].median())} points."
    )
    cmh = pooled[(pooled["method"] == "cmh") & (pooled["contrast"] == "ts_tf") & pooled["odds_ratio"].notna()]
    logit = pooled[
        (pooled["adjusted_for"] == "covariates and language")
        & (pooled["term"] == "aligned")
        & pooled["odds_ratio"].notna()
    ]
    for row in cmh.itertuples():
        text += f" All languages together: odds ratio {row.odds_ratio:.2f}{_range(row.low, row.high)} (CMH, {_p_text(row.p)})"
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
        "Every language. n: items with an answer; ±: standard error; English: accuracy on the English versions; TS, TF: "
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
    _numeric("Pearson given fertility", "partial_pearson"),
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
        "Correlation over languages between the share of aligned items and accuracy. Intervals: 95%, percentile bootstrap over "
        "languages; p: two-sided; last columns: partial correlation given tokenizer fertility. A dash is explained by its tip."
    )
    page.add(_html_table(list(whole.itertuples()), [*names, *_LEVEL_COLUMNS], caption))
    classes = part.results.languages["resource"]
    for i, (key, rows) in enumerate(_in_order(points[points["reduce"] == "max"])):
        source, metric, pooling = key
        numbers = whole[
            (whole[["alignment_task", "metric", "pooling"]] == list(key)).all(axis=1) & (whole["reduce"] == "max")
        ]
        caption = f"Accuracy against the share of aligned items ({_metric(metric, pooling)}, max over layers); a point is a language, n = {len(rows)}; English is left out."
        name = part.name("scatter", *([] if source == part.task else [source]), metric, pooling)
        figure = page.figure(name, partial(plots.scatter, rows, numbers.iloc[0], classes), caption)
        page.add(_folded(figure, f"{_metric(metric, pooling)}: accuracy against alignment", i == 0))
    layers = level[(level["grouping"] == "all") & (level["reduce"] == "layer")]
    if layers["pearson"].notna().any() and layers["layer"].nunique() > 1:
        caption = f"Pearson correlation over languages of alignment at one layer with accuracy, n = {layers['n'].max()} languages; bands: 95% bootstrap intervals."
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
    caption = f"The same within scripts, families and resource classes (Joshi et al. 2020) of at least {analysis.MIN_LANGUAGES} languages; smaller ones, and all layers, are in language_level.csv."
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
            f"Share of aligned items by layer, {name}: {count} languages, n = {n:,} items each at most. Layer 0 is the embedding.",
        )
        heat = page.figure(
            part.name("heatmap", metric, pooling),
            partial(plots.heatmap, rows),
            f"The same as a map, {name}: {count} languages, n = {n:,} items each at most, sorted by their best layer's share (ring).",
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
            f"Alignment of items that transfer (TS) and of those that fail (TF) by layer, {name}; n = {n}. Below: odds ratio of "
            "being aligned, TS against TF, pooled over languages (Cochran-Mantel-Haenszel).",
        )
        figures += page.figure(
            part.name("differences", metric, pooling),
            partial(plots.forest, best),
            f"Share aligned, TS minus TF, at each language's best layer, {name}, with Newcombe's 95% interval; n = {n}.",
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
        "At each language's best layer. p: one-sided two-proportion z-test of a being aligned more often than b; Fisher: exact "
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
            "Odds ratio of a right answer, aligned against other items, each language at its best layer; logistic regression with "
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
        "Each language at its best layer. CMH: Cochran-Mantel-Haenszel with languages as strata. Logistic: correctness on alignment, "
        "errors clustered by item, since the same items recur in all languages; numeric covariates per standard deviation. p: two-sided."
    )
    page.add(_html_table(list(best.itertuples()), columns, caption))


def _calibration_part(page: Page, part: Part) -> None:
    table, bins = part.of("calibration"), part.of("reliability")
    if table.empty:
        return
    page.add("<h3>Confidence and calibration</h3>")
    count = table.loc[table["language"] != ENGLISH, "language"].nunique()
    caption = (
        f"Accuracy against confidence in ten bins, {count} languages and English, n = {bins['n'].sum():,} answers; confidence is the softmax over "
        "the options' log-likelihoods at the answer; on the dashed line it can be taken at its word. Thin lines leave out bins of fewer than ten answers."
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
    caption = "Calibration per language. ECE: expected calibration error, ten equal bins; Brier: mean squared gap between confidence and correctness (0 is best); over all options it is 0 to 2."
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
        caption = f"Confidence of aligned against other items at each language's best layer; the median difference is {_number(3, sign=True)(median)}. p: two-sided."
        page.add(
            _folded(
                _html_table(list(sure.itertuples()), columns, caption), "Is the model surer of aligned items?", False
            )
        )


def _published_part(page: Page, part: Part) -> None:
    table = part.of("against_published")
    if table.empty:
        return
    page.add("<h3>Beside the study's released figures</h3>")
    size = table["difference"].abs()
    page.add(
        f"<p>{len(table)} figures of this run have a counterpart in the outputs that the study's authors released for Llama-3.1-8B "
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


def _tail(page: Page, results: Results) -> None:
    page.heading("Method and files")
    page.add(
        "<p>An item is aligned at a layer if its English and its other version are closer to each other than to what they must be told "
        "apart from: the item's other options for DALI (and, for DALI<sub>S</sub>, the options of the same language among themselves), the other items for MEXA "
        "and MEXA<sub>T</sub>. Layer k is hidden state k: 0 is the embedding; the last one, after the final norm, is shown but left out of maxima, means and best layers. "
        "TS: right in English and here; TF: right in English, wrong here. English is the pivot and never a point.</p>"
        "<p>A language's best layer is chosen on the same items that are then compared at it; Holm and Benjamini-Hochberg over all layers guard against that choice. "
        "Cochran-Mantel-Haenszel takes the languages' items as independent, although they are translations of each other; the regression with errors clustered by item does not.</p>"
    )
    listed = "".join(
        f"<dt><code>{name}.csv</code></dt><dd>{what}</dd>"
        for name, what in FILES.items()
        if name != "against_published" or len(results.against_published)
    )
    page.add(f"<dl>{listed}<dt><code>plots/</code></dt><dd>every figure as PNG and SVG</dd></dl>")
    page.add(
        '<p class="note">An empty cell of a CSV file is explained in the column <code>note</code> of its row, or does not apply to the row\'s kind.</p>'
    )


# ------------------------------------------------------------------------------------------------------- command line


def arguments(given: Sequence[str]) -> tuple[list[Path], Path, int]:
    """The runs' folders, the report's folder and the seed from ``key=value`` arguments.

    Raises:
        InputError: a key that does not exist, or a value that cannot be used.
    """
    values: dict[str, list[str]] = {}
    for argument in given:
        key, equals, value = argument.partition("=")
        if key not in ("runs", "out", "seed"):
            raise unknown("argument", key, ("runs", "out", "seed"))
        if not equals or not value:
            raise InputError(f"{key} needs a value, as in {key}=<{'number' if key == 'seed' else 'folder'}>.")
        values.setdefault(key, []).append(value)
    for key in ("runs", "out"):
        if key not in values:
            raise InputError(f"{key}=<folder> is missing; --help shows how it is used.")
    seed = values.get("seed", ["0"])[-1]
    if not seed.isdigit():
        raise InputError(f"seed is '{seed}', but must be a whole number, 0 or greater.")
    runs = [path for pattern in values["runs"] for path in _matching(pattern)]
    return runs, Path(values["out"][-1]), int(seed)


def _matching(pattern: str) -> list[Path]:
    if Path(pattern).is_dir():
        return [Path(pattern)]
    found = [Path(name) for name in sorted(glob.glob(pattern, recursive=True))]
    folders = [path if path.is_dir() else path.parent for path in found if path.is_dir() or path.suffix == ".parquet"]
    if not folders:
        raise InputError(f"runs={pattern} matches no folder.")
    return folders


def main(given: Sequence[str] | None = None) -> None:
    """The command line: every mistake of the user's ends in one sentence and an exit code of 1."""
    given = sys.argv[1:] if given is None else given
    if any(argument in ("-h", "--help") for argument in given):
        print(USAGE)
        return
    try:
        runs, out, seed = arguments(given)
        print(f"Report: {write(runs, out, seed=seed)}")
    except InputError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")


if __name__ == "__main__":
    main()
