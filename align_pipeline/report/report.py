"""The study's answers from tables alone: ``python -m align_pipeline.report runs=<folder or glob> out=<folder>``.

Reads every table of `measurements.tables` in the folders and below them; writes CSV files, plots (PNG and SVG) and
one self-contained ``report.html``. Needs no model, no torch and no network.
"""

from __future__ import annotations

import glob
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from align_pipeline import machine
from align_pipeline.config.lang import known_languages
from align_pipeline.errors import InputError, unknown
from align_pipeline.inference import answers, items, languages
from align_pipeline.inference import study as analysis
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.alignment.table import ALIGNMENT
from align_pipeline.measurements.patching import statistics as patching_analysis
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.measurements.tables import SCHEMAS
from align_pipeline.measurements.translation import statistics as translation_analysis
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.measurements.translation_patching import statistics as translation_patching_analysis
from align_pipeline.measurements.translation_patching.table import TRANSLATION_PATCHING
from align_pipeline.report.page import render
from align_pipeline.store import folders

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
    "spbleu",
    "comet",
    "cometkiwi",
    "head",
    "donor_gold",
}
_PUBLISHED_MODEL = re.compile(r"llama-?3\.1-8b(?!.*(?:instruct|chat))", re.IGNORECASE)


# ------------------------------------------------------------------------------------------------------------ reading


@dataclass(frozen=True)
class Tables:
    """What the folders hold.

    Attributes:
        alignment: as `ALIGNMENT` without ``margin``, texts as categories.
        predictions: as `PREDICTIONS`, columns that no file has left out.
        translations: as `TRANSLATIONS`, likewise.
        patching: as `PATCHING`.
        translation_patching: as `TRANSLATION_PATCHING` without ``hypothesis``.
        folders: with at least one table.
        summaries: the ``summary.json`` beside the tables, where there is one.
    """

    alignment: pd.DataFrame
    predictions: pd.DataFrame
    translations: pd.DataFrame
    patching: pd.DataFrame
    translation_patching: pd.DataFrame
    folders: tuple[Path, ...]
    summaries: tuple[Mapping[str, Any], ...]


def read(runs: Sequence[Path]) -> Tables:
    """Read all tables in the folders and below them.

    Raises:
        InputError: no tables, or a file that is not such a table.
    """
    found = sorted({folder for run in runs for folder in _folders(run)})
    if not found:
        shown = ", ".join(str(run) for run in runs) or "nothing"
        raise InputError(f"There is no {' or '.join(f'{name}.parquet' for name in SCHEMAS)} in {shown} or below.")
    _refuse_mixtures(found)
    alignment = _table([f / "alignment.parquet" for f in found], ALIGNMENT, {"margin"})
    predictions = _table([f / "predictions.parquet" for f in found], PREDICTIONS, set())
    translations = _table([f / "translations.parquet" for f in found], TRANSLATIONS, set())
    patching = _table([f / "patching.parquet" for f in found], PATCHING, set())
    again = _table([f / "translation_patching.parquet" for f in found], TRANSLATION_PATCHING, {"hypothesis"})
    summaries = [folders.summary_of(folder) for folder in found]
    given = tuple(s for s in summaries if s)
    return Tables(alignment, predictions, translations, patching, again, tuple(found), given)


def _folders(run: Path) -> Iterator[Path]:
    for name in SCHEMAS:
        for path in run.rglob(f"{name}.parquet"):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(run).parts):
                yield path.parent.resolve()


def _refuse_mixtures(found: Sequence[Path]) -> None:
    """Refuse a folder whose files are of several jobs, and a name that stands for several models.

    Raises:
        InputError: there is one; names the files.
    """
    models: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    for folder in found:
        owners = folders.owners_of(folder)
        said = {name: owner for name, owner in owners.items() if owner is not None}
        summary = folders.summary_of(folder)
        if len(set(said.values())) > 1 or (said and len(said) < len(owners)):
            names = sorted(owners, key=lambda name: str(owners[name]))
            raise InputError(
                f"{folder} holds files of two jobs ({names[0]} and {names[-1]}): run the job again, in a folder of its "
                "own, or remove the files that do not belong."
            )
        model = (summary.get("config") or {}).get("model")
        if not isinstance(model, Mapping):
            continue
        asked = {key: value for key, value in model.items() if key not in ("device", "parallel")}
        where, before = models.setdefault(str(summary.get("model")), (folder, asked))
        key = next((key for key in asked if asked[key] != before.get(key, asked[key])), None)
        if key is not None:
            raise InputError(
                f"Two models are called '{summary['model']}': model.{key} is {before[key]} in {where} and {asked[key]} "
                f"in {folder}; give each its own model.name and run one of them again (the cache has its passes)."
            )


def _table(paths: Sequence[Path], schema: pa.Schema, left_out: set[str]) -> pd.DataFrame:
    fields = [f for f in schema if f.name not in left_out]
    parts = [_read(path, fields) for path in paths if path.is_file()]
    if not parts:
        return pd.DataFrame({f.name: pd.Series(dtype=_dtype(f)) for f in fields if f.name not in _OPTIONAL})
    common = [f.name for f in fields if any(f.name in part.column_names for part in parts)]
    table = pa.concat_tables(parts, promote_options="permissive").select(common)
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _dtype(f: pa.Field) -> Any:
    return object if pa.types.is_string(f.type) else f.type.to_pandas_dtype()


def _read(path: Path, fields: Sequence[pa.Field]) -> pa.Table:
    """One file, by name alone: folders called ``lang=swh`` are no partitions of it."""
    try:
        texts = [f.name for f in fields if pa.types.is_string(f.type) and f.name in pq.read_schema(path).names]
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


def language_table() -> pd.DataFrame:
    """Name, script, family and resource class by FLORES code, from ``conf/lang``."""
    table = pd.DataFrame(list(known_languages().values()), columns=["flores", "name", "script", "family", "resource"])
    known = table.dropna(subset="flores").drop_duplicates("flores").set_index("flores")
    return known.astype({"resource": "Int64"})


def published() -> pd.DataFrame:
    """The study's released figures for Llama-3.1-8B; the file's first lines say where they are from."""
    table = pd.read_csv(PACKAGE / "published.csv", comment="#", keep_default_na=False, na_values={"layer": [""]})
    return table.astype({"layer": "Int64"})


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
    translation: translation_analysis.Findings | None
    patching: pd.DataFrame
    patching_effects: pd.DataFrame
    patching_contrasts: pd.DataFrame
    patching_categories: pd.DataFrame
    translation_patching: pd.DataFrame
    translation_patching_effects: pd.DataFrame
    translation_patching_contrasts: pd.DataFrame
    notes: tuple[str, ...] = field(default=())


FILES = {
    "language_level": "correlation over languages of alignment and accuracy",
    "instance_level": "TS against TF and right against wrong, per language, metric and layer",
    "regression": "pooled over languages: Cochran-Mantel-Haenszel and logistic regression",
    "calibration": "calibration error and Brier score per language",
    "confidence": "confidence of aligned against other items, per language and metric",
    "groups": "accuracy and sizes of TS and TF per language",
    "points": "what the correlations compare: alignment and accuracy per language",
    "patching": "activation patching: each condition's best layer and middle third, per language",
    "patching_effects": "correction and damage rates and log-odds, per language, condition and layer",
    "patching_contrasts": "the parallel activation against each control, per language and layer",
    "patching_categories": "correction rates by the items' category",
    "translation_patching": "patched translation: each condition's best layer and middle third, per language",
    "translation_patching_effects": "BLEU and chrF++ patched and unpatched, per language, condition and layer",
    "translation_patching_contrasts": "the parallel activation against each control, per language and layer",
    "against_published": "beside the figures of the study's released outputs",
}


def analyse(tables: Tables, seed: int = 0) -> Results:
    """Run every analysis on the tables."""
    known = language_table()
    study = analysis.join(tables.alignment, tables.predictions, last_layers(tables.summaries))
    cells = analysis.tally(study)
    groups = analysis.groups(study.predictions)
    points = analysis.points(study, cells)
    patched = patching_analysis.join(tables.patching, tables.predictions, last_layers(tables.summaries))
    again = translation_patching_analysis.analyse(tables.translation_patching, last_layers(tables.summaries), seed=seed)
    return Results(
        tables=tables,
        study=study,
        languages=known,
        cells=cells,
        points=points,
        language_level=languages.language_level(points, known, seed=seed),
        instance_level=items.instance_level(cells),
        calibration=answers.calibration(study.predictions),
        regression=items.regression(study, cells),
        confidence=answers.confidence(study, cells),
        reliability=answers.reliability(study.predictions),
        groups=groups,
        against_published=against_published(study, points),
        translation=translation_analysis.analyse(tables.translations, study, cells, groups, seed),
        patching=patching_analysis.summary(patched, seed=seed),
        patching_effects=patching_analysis.effects(patched, seed=seed),
        patching_contrasts=patching_analysis.contrasts(patched, seed=seed),
        patching_categories=patching_analysis.by_category(patched),
        translation_patching=again.summary,
        translation_patching_effects=again.effects,
        translation_patching_contrasts=again.contrasts,
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
    keys = ["task", "language", "pivot", "quantity", "pooling", "reduce"]
    by_unit = study.predictions.groupby(analysis.UNIT)["correct"]
    accuracy = pd.DataFrame({"run": by_unit.mean(), "n_run": by_unit.size()}).reset_index()
    accuracy = accuracy.assign(quantity="accuracy", pooling="", reduce="")
    own = points[points["reduce"] != "layer"].drop(columns="task")
    own = own.rename(columns={"alignment_task": "task", "metric": "quantity", "alignment": "run", "n": "n_run"})
    both = pd.concat([accuracy[["model", *keys, "run", "n_run"]], own[["model", *keys, "run", "n_run"]]])
    both = both[both["model"].astype(str).str.contains(_PUBLISHED_MODEL)]
    both = both.drop_duplicates(["model", *keys]).astype(dict.fromkeys(["model", *keys], object))
    figures = published().rename(columns={"value": "published", "n": "n_published"}).drop(columns="layer")
    found = both.merge(figures.astype(dict.fromkeys(keys, object)), on=keys)
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
    sometimes = [name for name in FILES if name.startswith(("against_published", "patching", "translation_patching"))]
    files = {name: what for name, what in FILES.items() if name not in sometimes or len(getattr(results, name))}
    for name in files:
        getattr(results, name).to_csv(folder / f"{name}.csv", index=False)
    if results.translation is not None:
        for name, what in translation_analysis.FILES.items():
            getattr(results.translation, name).to_csv(folder / f"translation_{name}.csv", index=False)
            files[f"translation_{name}"] = what
    (folder / "plots").mkdir()
    page = render(results, files, failed, folder / "plots")
    (folder / "report.html").write_text(page, encoding="utf-8")


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
    machine.let_print()
    try:
        runs, out, seed = arguments(given)
        print(f"Report: {write(runs, out, seed=seed)}")
    except InputError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt:
        sys.exit("Stopped.")
