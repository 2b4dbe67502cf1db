"""The study's answers from tables only: ``python -m align_pipeline.report runs=<folder or glob> out=<folder>``.

Reads every table of `measurements.sections` in the folders and below them; writes CSV files, plots (PNG and SVG) and
one self-contained ``report.html``. Needs no model, no torch and no network.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from align_pipeline.errors import InputError
from align_pipeline.measurements import sections
from align_pipeline.measurements.translation import statistics as translation_analysis
from align_pipeline.report.arguments import Arguments, command
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
  seed        random seed of the bootstrap (default 0)"""


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


def save(results: Results, out: Path, failed: Sequence[str] = ()) -> Path:
    """Write the report of finished analyses; arguments, result and errors as in `write`."""
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
            f"Nothing can be written to {out}: {error.strerror}; choose another folder with out=<folder>."
        ) from error
    return out / "report.html"


def _write_all(results: Results, folder: Path, failed: Sequence[str]) -> None:
    rare = ("against_published", "patching", "translation_patching", "tuning")
    sometimes = [name for name in FILES if name.startswith(rare)]
    files = {name: what for name, what in FILES.items() if name not in sometimes or len(getattr(results, name))}
    for name in files:
        getattr(results, name).to_csv(folder / f"{name}.csv", index=False)
    if results.translation is not None:
        for name, what in translation_analysis.FILES.items():
            getattr(results.translation, name).to_csv(folder / f"translation_{name}.csv", index=False)
            files[f"translation_{name}"] = what
    for section in sections():
        if section.csv and len(results.tables.added[section.table]):
            results.tables.added[section.table].to_csv(folder / f"{section.table}.csv", index=False)
            files[section.table] = section.csv
    text = paragraph(results.tables.summaries)
    if text:
        (folder / "methods.tex").write_text(text + "\n", encoding="utf-8")
        (folder / "references.bib").write_text(bibliography(text), encoding="utf-8")
    (folder / "plots").mkdir()
    page = render(results, files, failed, text, folder / "plots")
    (folder / "report.html").write_text(page, encoding="utf-8")


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _run)


def _run(given: Sequence[str]) -> None:
    keys = ("runs", "out", "models", "tasks", "languages", "labels", "seed")
    asked = Arguments(given, keys, required=("runs", "out"))
    seed, out = asked.whole("seed", 0), asked.path("out")
    assert out is not None  # required
    choice = Choice(*(asked.names(key) for key in ("models", "tasks", "languages", "labels")))
    tables = choose(read(asked.folders("runs")), choice)
    if tables.left_out:
        print(tables.left_out)
    labels = labels_of(choice.labels, tables)
    page = save(labelled(analyse(tables, seed), labels), out)
    for finding in headlines(page.read_text(encoding="utf-8")):
        print(f"- {finding}")
    print(f"Report: {page}")
