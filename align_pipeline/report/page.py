"""The report as one HTML page: plain sentences first, then sortable tables and figures, all inline."""

from __future__ import annotations

import html
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd

from align_pipeline import __version__
from align_pipeline.data.items import ENGLISH
from align_pipeline.measurements import sections
from align_pipeline.page.numbers import layer_range, task_name
from align_pipeline.page.part import Part
from align_pipeline.page.template import render as fill
from align_pipeline.report import models as across
from align_pipeline.report import tuning
from align_pipeline.report.results import Results


def render(
    results: Results,
    files: Mapping[str, str],
    failed: Sequence[str],
    methods: str,
    plots_folder: Path,
    drawings: dict[str, Callable[[], Any]] | None = None,
) -> str:
    """The HTML of the page.

    Args:
        results: the results of all analyses.
        files: the CSV files beside the page, with a description of each.
        failed: failed jobs to list, one line each.
        methods: the paragraph for a paper, from `methods.paragraph`.
        plots_folder: the folder for PNG and SVG copies of the figures.
        drawings: gets the function that draws each figure, by the figure's name.
    """
    studies = sorted(set(_studies(results)))
    models, tasks = (sorted(set(names)) for names in zip(*studies, strict=True)) if studies else ([], [])
    tables = {name: table for name, table in vars(results).items() if isinstance(table, pd.DataFrame)}
    if results.translation is not None:
        tables |= {f"translation_{name}": table for name, table in vars(results.translation).items()}
    tables |= results.tables.added
    drawings = {} if drawings is None else drawings
    parts = [
        Part(model, task, tables, results.study, results.languages, len(models), plots_folder, drawings)
        for model, task in studies
    ]
    names = sorted({task_name(task) for task in tasks})
    return fill(
        "align_pipeline/report/page.html",
        title=f"Alignment and accuracy: {', '.join(models)} on {', '.join(names)}",
        provenance=list(_provenance(results, models, names)),
        failed=failed,
        notes=results.notes,
        models=across.show(tables, results.study, results.languages, plots_folder, drawings),
        parts=[
            SimpleNamespace(
                title=f"{task_name(part.task)}, {part.model}",
                sections=[*(section.show(part) for section in sections()), tuning.show(part)],
                published=part.of("against_published"),
            )
            for part in parts
        ],
        files=files,
        methods=re.sub(r" \\citep\{([^}]*)\}", r" (\1)", methods),
    )


def headlines(page: str, count: int = 3) -> list[str]:
    """The first findings of a page as plain text, for the console."""
    box = re.search(r'class="findings">(.*?)</ul>', page, re.DOTALL)
    found = re.findall(r"<li>(.*?)</li>", box[1], re.DOTALL) if box else []
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", "", one)).split()) for one in found[:count]]


def _studies(results: Results) -> Iterator[tuple[str, str]]:
    """(model, task) pairs of all tables with both columns."""
    for model, task, _, _ in results.study.blocks:
        yield model, task
    for table in (results.study.predictions, results.tables.translations, *results.tables.added.values()):
        if {"model", "task"} <= set(table):
            yield from table[["model", "task"]].drop_duplicates().itertuples(index=False, name=None)


def _provenance(results: Results, models: Sequence[str], tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    tables, summaries = results.tables, results.tables.summaries
    configs = {
        s["model"]: ((s.get("config") or {}).get("model") or {}) for s in summaries if isinstance(s.get("model"), str)
    }
    yield "Models", "; ".join(_described(name, configs.get(name, {})) for name in models)
    yield "Tasks", ", ".join(tasks)
    having = (results.study.predictions, results.study.items, tables.translations)
    codes = {code for table in having for code in table["language"].unique()} - {ENGLISH}
    yield "Languages", f"{len(codes)}, and English as the pivot"
    translated = f", {len(tables.translations):,} of translations" if len(tables.translations) else ""
    yield "Rows", f"{len(tables.alignment):,} of alignment, {len(tables.predictions):,} of predictions{translated}"
    layers = sorted({int(k) for block in results.study.blocks.values() for k in block.layers})
    if layers:
        yield "Layers", layer_range(layers)
    sources = sorted({f"{d.get('dataset', '?')} ({d.get('source', '?')})" for s in summaries if (d := s.get("data"))})
    yield "Data", "; ".join(sources) or "not recorded (there is no summary.json with the tables)"
    folders = [str(folder) for folder in tables.folders]
    yield (
        "Read from",
        f"{len(folders)} folders in {os.path.commonpath(folders)}" if len(folders) > 1 else folders[0],
    )
    versions = sorted(
        {f"{k} {v}" for s in summaries for k, v in (s.get("versions") or {}).items() if k in ("torch", "transformers")}
    )
    yield "Made by", f"align_pipeline {__version__}" + (f"; runs with {', '.join(versions)}" if versions else "")


def _described(name: str, config: Mapping[str, Any]) -> str:
    more = [str(config[key]) for key in ("path", "revision", "dtype") if config.get(key)]
    return f"{name} ({', '.join(more)})" if more else name
