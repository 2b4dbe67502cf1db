"""The report as one HTML page: plain sentences first, then sortable tables and figures, all inline."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
from markupsafe import Markup

from align_pipeline.data.items import ENGLISH
from align_pipeline.figures import interactive, style
from align_pipeline.measurements import sections
from align_pipeline.page.numbers import layer_range, task_name
from align_pipeline.page.part import Part
from align_pipeline.page.template import render as fill
from align_pipeline.report import models as across
from align_pipeline.report import tuning
from align_pipeline.report.results import Results

_IN_STUDY = ("alignment", "baselines", "predictions", "patching", "translation_patching")
"""Tables of which the study has all models, tasks and languages."""


def render(
    results: Results,
    files: Mapping[str, str],
    failed: Sequence[str],
    methods: str,
    plots_folder: Path,
    drawings: dict[str, Callable[[], Any]],
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
    tables = {**results.tables.by_name, **results.by_name}
    whole = Part("", "", tables, results.study, results.languages, len(models), plots_folder, drawings)
    names = sorted({task_name(task) for task in tasks})
    chapters = [
        _chapter(replace(whole, model=model, task=task), place) for place, (model, task) in enumerate(studies, 1)
    ]
    codes = sorted(_languages(results))
    shown = [one for chapter in chapters for one in (*chapter.sections, *(lead.figure for lead in chapter.leads))]
    is_live = any('class="live"' in one for one in shown)
    return fill(
        "align_pipeline/report/page.html",
        title=f"Alignment and accuracy: {_listed(models, 'models')} on {_listed(names, 'tasks')}",
        lead=" · ".join(_sizes(results)),
        provenance=list(_provenance(results, models, names)),
        failed=failed,
        notes=results.notes,
        models=across.show(whole),
        parts=chapters,
        leads=[chapter for chapter in chapters if chapter.leads],
        files=files,
        methods=re.sub(r" \\citep\{([^}]*)\}", r" (\1)", methods),
        languages=_as_script(interactive.about(pd.Series(codes))) if codes else "",
        css=Markup(_beside("page.css")),
        js=Markup(_beside("page.js")),
        library=Markup(interactive.library()) if is_live else "",
    )


def _chapter(part: Part, place: int) -> SimpleNamespace:
    """A model and task: its answers for the top of the page, its sections, and their headings for the contents."""
    contents: list[tuple[str, str]] = []

    def numbered(heading: re.Match[str]) -> str:
        contents.append((f"section-{place}-{len(contents) + 1}", html.unescape(re.sub(r"<[^>]+>", "", heading[1]))))
        return f'<h3 id="{contents[-1][0]}">{heading[1]}</h3>'

    shown = [*(section.show(part) for section in sections()), tuning.show(part)]
    return SimpleNamespace(
        title=f"{task_name(part.task)}, {part.model}",
        leads=sorted(
            [*tuning.leads(part), *(lead for section in sections() for lead in section.leads(part))],
            key=lambda lead: lead.place,
        ),
        sections=[Markup(re.sub(r"<h3>(.*?)</h3>", numbered, str(section), flags=re.DOTALL)) for section in shown],
        contents=contents,
        published=part.of("against_published"),
    )


def _beside(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _as_script(value: Any) -> Markup:
    """JSON that can stand within a script element."""
    return Markup(json.dumps(value, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"))


def _listed(names: Sequence[str], kind: str) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{len(names)} {kind}"


def _apart(results: Results) -> list[pd.DataFrame]:
    return [table for name, table in results.tables.by_name.items() if name not in _IN_STUDY]


def _languages(results: Results) -> set[str]:
    """The codes of the languages in all tables."""
    tables = (results.study.predictions, results.study.items, *_apart(results))
    return {str(code) for table in tables if "language" in table for code in table["language"].unique()}


def _sizes(results: Results) -> Iterator[str]:
    """What the page is about, in numbers."""
    yield f"{style.languages(len(_languages(results) - {ENGLISH}))} compared with English"
    layers = sorted({int(k) for block in results.study.blocks.values() for k in block.layers})
    if layers:
        yield f"layer{'s' if len(layers) > 1 else ''} {layer_range(layers)}"
    answers = len(results.study.predictions)
    if answers:
        yield f"{answers:,} answers"


def headlines(page: str, count: int = 3) -> list[str]:
    """The first answers of a page as plain text, for the console, with the task and model if there are several; of
    several models, first what compares them."""
    compared = re.search(r'<h2 id="models">.*?class="findings">(.*?)</ul>', page, re.DOTALL)
    found = re.findall(r"<li>(.*?)</li>", compared[1], re.DOTALL) if compared else []
    study = ""
    card = r'<summary>(.*?)</summary>|class="question">(.*?)</h3>\s*<p class="answer">(.*?)</p>'
    short = page.partition('<h2 id="in-short">')[2]
    for name, question, answer in re.findall(card, short, re.DOTALL):
        study = f"{name}: " if name else study
        if answer:
            found.append(study + (f"{question} {answer}" if answer.startswith("No answer") else answer))
    return [" ".join(html.unescape(re.sub(r"<[^>]+>", "", one)).split()) for one in found[:count]]


def _studies(results: Results) -> Iterator[tuple[str, str]]:
    """(model, task) pairs of all tables with both columns."""
    for model, task, _, _ in results.study.blocks:
        yield model, task
    for table in (results.study.predictions, results.by_name["numbers"], *_apart(results)):
        if {"model", "task"} <= set(table):
            yield from table[["model", "task"]].drop_duplicates().itertuples(index=False, name=None)


def _provenance(results: Results, models: Sequence[str], tasks: Sequence[str]) -> Iterator[tuple[str, str]]:
    tables, summaries = results.tables.by_name, results.tables.summaries
    configs = {
        s["model"]: ((s.get("config") or {}).get("model") or {}) for s in summaries if isinstance(s.get("model"), str)
    }
    yield "Models", "; ".join(_described(name, configs.get(name, {})) for name in models)
    yield "Tasks", ", ".join(tasks)
    counted = ["alignment", "predictions", *(["translations"] if len(tables["translations"]) else [])]
    yield "Rows", ", ".join(f"{len(tables[name]):,} of {name}" for name in counted)
    layers = sorted({int(k) for block in results.study.blocks.values() for k in block.layers})
    if layers:
        yield "Layers", layer_range(layers)
    sources = sorted({f"{d.get('dataset', '?')} ({d.get('source', '?')})" for s in summaries if (d := s.get("data"))})
    yield "Data", "; ".join(sources) or "not recorded (there is no summary.json with the tables)"
    yield "Read from", f"{len(results.tables.folders)} folder{'s' if len(results.tables.folders) > 1 else ''} of tables"
    versions = sorted(
        {f"{k} {v}" for s in summaries for k, v in (s.get("versions") or {}).items() if k in ("torch", "transformers")}
    )
    ran = f"; runs with {', '.join(versions)}" if versions else ""
    yield "Made by", f"align_pipeline {metadata.version('align_pipeline')}{ran}"


def _described(name: str, config: Mapping[str, Any]) -> str:
    more = [str(config[key]) for key in ("path", "revision", "dtype") if config.get(key)]
    more = [Path(one).name if Path(one).is_absolute() else one for one in more]  # no folders of the machine
    return f"{name} ({', '.join(more)})" if more else name
