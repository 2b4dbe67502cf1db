"""The study's answers from tables only: ``python -m align_pipeline.report runs=<folder or glob> out=<folder>``.

Reads every table of `measurements.sections` in the folders and below them; writes CSV files, plots (PNG and SVG) and
one self-contained ``report.html``. Needs no model, no torch and no network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from align_pipeline.arguments import Arguments, command
from align_pipeline.errors import InputError
from align_pipeline.figures.look import Look
from align_pipeline.measurements import sections
from align_pipeline.report import paper
from align_pipeline.report.latex import prose
from align_pipeline.report.methods import bibliography, paragraph
from align_pipeline.report.page import headlines, render
from align_pipeline.report.read import read
from align_pipeline.report.results import FILES, Results, analyse
from align_pipeline.report.select import Choice, choose, labelled, labels_of

USAGE = """Usage: python -m align_pipeline.report runs=<folder or glob> out=<folder>

  runs        a run's folder, a folder of runs, or a glob such as 'outputs/runs/*'; may be given several times
  out         folder for report.html, the CSV files and plots/; created if it does not exist
  models      only these models, separated by commas; default: all
  tasks       only these tasks
  languages   only these languages, by lang= name or FLORES code; English, the pivot, always stays
  labels      other names of models, as in labels=llama3.1-8b:Llama,gemma3-270m:Gemma
  reference   the model that others are compared with; default: the smallest, or the earliest checkpoint
  seed        random seed of the bootstrap (default 0)
  style       style=paper also writes figures (PDF, SVG) and tables (LaTeX) for a paper to paper/; with it:
    width       of figures: column (default, 3.25 inches), text (6.75) or a number of inches
    font        a TrueType font (default DejaVu Sans; STIXGeneral is like Times)
    fontsize    of axis labels, in points (default 8); other labels are one point smaller
    names       codes (default) or names of languages
    color       colour languages by resource (class) or family; default: a colour for each labelled language
    highlight   the languages to label, at most 12; default: 12 at equal distances in the ranking by alignment"""


def write(runs: Sequence[Path], out: Path, failed: Sequence[str] = (), seed: int = 0) -> Path:
    """Analyse all runs and write the report; existing files of the same names are replaced, the page last.

    Args:
        runs: folders with tables, or their parent folders; several may contain the same rows.
        out: output folder; created if it does not exist.
        failed: failed jobs to list, one line each.
        seed: of the bootstrap.

    Returns:
        the path of ``report.html``.

    Raises:
        InputError: there are no tables, tables contradict each other, or the output cannot be written.
    """
    return save(analyse(read(runs), seed), out, failed)


def save(results: Results, out: Path, failed: Sequence[str] = (), look: Look | None = None) -> Path:
    """Write the report of finished analyses; arguments, result and errors as in `write`.

    Args:
        results: the analyses.
        out: output folder.
        failed: failed jobs.
        look: of the figures for a paper; None to write none.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        making = Path(tempfile.mkdtemp(prefix=".report-", dir=out))
        try:
            _write_all(results, making, failed, look)
            for folder in sorted(p for p in making.rglob("*") if p.is_dir()):
                (out / folder.relative_to(making)).mkdir(exist_ok=True)
            made = [p for p in sorted(making.rglob("*")) if p.is_file()]
            for path in sorted(made, key=lambda p: p.name == "report.html"):
                os.replace(path, out / path.relative_to(making))
        finally:
            shutil.rmtree(making, ignore_errors=True)
    except OSError as error:
        raise InputError(
            f"Nothing can be written to {out}: {error.strerror}; choose another folder with out=<folder>."
        ) from error
    return out / "report.html"


def _write_all(results: Results, folder: Path, failed: Sequence[str], look: Look | None) -> None:
    tables = dict(_tables(results))
    for name, (table, _) in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)
    text = paragraph(results.tables.summaries)
    if text:
        (folder / "methods.tex").write_text(prose(text) + "\n", encoding="utf-8")
        (folder / "references.bib").write_text(bibliography(text), encoding="utf-8")
    (folder / "plots").mkdir()
    drawings: dict[str, Callable[[], Any]] = {}
    files = {name: about for name, (_, about) in tables.items()}
    page = render(results, files, failed, text, folder / "plots", drawings)
    if look is not None:
        (folder / "paper").mkdir()
        paper.write(folder / "paper", look, tables, drawings, bool(text))
    (folder / "report.html").write_text(page, encoding="utf-8")


def _tables(results: Results) -> Iterator[tuple[str, tuple[pd.DataFrame, str]]]:
    """The name, rows and description of each CSV file."""
    rare = ("against_published", "numbers", "patching", "translation_patching", "tuning", "models")
    for name, about in FILES.items():
        table = results.by_name.get(name)  # without translations there are no tables about them
        if table is not None and (not name.startswith(rare) or len(table)):
            yield name, (table, about)
    for section in sections():
        if section.csv and len(results.tables.by_name[section.table]):
            yield section.table, (results.tables.by_name[section.table], section.csv)


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _run)


def _run(given: Sequence[str]) -> None:
    keys = ("runs", "out", "models", "tasks", "languages", "labels", "reference", "seed", "style", *paper.KEYS)
    asked = Arguments(given, keys, required=("runs", "out"))
    seed, out = asked.whole("seed", 0), asked.path("out")
    assert out is not None  # required
    wanted = paper.asked(asked)
    choice = Choice(*(asked.names(key) for key in ("models", "tasks", "languages", "labels")))
    tables = choose(read(asked.folders("runs")), choice)
    if tables.left_out:
        print(tables.left_out)
    labels = labels_of(choice.labels, tables)
    results = labelled(analyse(tables, seed, asked.text("reference")), labels)
    page = save(results, out, look=paper.look_of(wanted, results) if wanted else None)
    for finding in headlines(page.read_text(encoding="utf-8")):
        print(f"- {finding}")
    print(f"Report: {page}")
    if wanted:
        print(f"Paper: {page.parent / 'paper' / 'paper.tex'}")
