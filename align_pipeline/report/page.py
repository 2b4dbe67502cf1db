"""The report as one page of HTML: plain sentences first, then tables that sort and figures, all inline."""

from __future__ import annotations

import html
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from align_pipeline import __version__
from align_pipeline.data.items import ENGLISH
from align_pipeline.measurements.accuracy import section as accuracy
from align_pipeline.measurements.alignment import section as alignment
from align_pipeline.measurements.patching import section as patching
from align_pipeline.measurements.translation import section as translation
from align_pipeline.measurements.translation_patching import section as translation_patching
from align_pipeline.page.html import (
    Column,
    Page,
    as_count,
    html_table,
    layer_range,
    metric_name,
    number_column,
    task_name,
    value_of,
)
from align_pipeline.page.part import Part
from align_pipeline.report.results import Results

SECTIONS = (translation.section, alignment.section, patching.section, translation_patching.section, accuracy.section)
"""Of the measurements, in the page's order; each adds nothing where a part has none of its tables."""
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
    tasks = sorted({task_name(task) for _, task in _studies(results)})
    return f"Alignment and accuracy: {', '.join(models)} on {', '.join(tasks)}"


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
    yield "Tasks", html.escape(", ".join(sorted({task_name(task) for _, task in _studies(results)})))
    yield "Languages", f"{languages} and English, which is the pivot and never a point"
    rows = len(results.tables.alignment)
    translated = len(results.tables.translations)
    counts = f"{rows:,} of alignment, {len(results.tables.predictions):,} of predictions"
    yield "Rows", counts + (f", {translated:,} of translations" if translated else "")
    layers = sorted({int(k) for block in results.study.blocks.values() for k in block.layers})
    if layers:
        yield "Layers", layer_range(layers)
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


def _section(page: Page, results: Results, model: str, task: str) -> None:
    tables = {name: table for name, table in vars(results).items() if isinstance(table, pd.DataFrame)}
    if results.translation is not None:
        tables |= {f"translation_{name}": table for name, table in vars(results.translation).items()}
    models = len({model for model, _ in _studies(results)})
    part = Part(model, task, tables, results.study, results.languages, models)
    page.heading(f"{task_name(task)}, {model}")
    for section in SECTIONS:
        section(page, part)
    _published_part(page, part)


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
            lambda r: "accuracy" if r.quantity == "accuracy" else f"{metric_name(r.quantity, r.pooling)}, {r.reduce}",
            text=True,
        ),
        *[number_column(h, n, 4) for h, n in (("This run", "run"), ("Published", "published"))],
        number_column("Difference", "difference", 4, sign=True),
        *[Column(h, value_of(n), as_count) for h, n in (("n here", "n_run"), ("n there", "n_published"))],
        Column("Note", lambda r: html.escape(r.note), text=True),
    ]
    page.add(
        html_table(
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
