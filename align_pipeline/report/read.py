"""Read the tables of folders, and check their columns, their values and that each folder is of one job."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from align_pipeline.config.patch import UNPATCHED
from align_pipeline.errors import InputError
from align_pipeline.measurements import sections
from align_pipeline.page.part import Section
from align_pipeline.store import folders


@dataclass(frozen=True)
class Tables:
    """The contents of the folders.

    Attributes:
        by_name: each table that the measurements' sections read, with the section's columns without those that no file
            has; texts as categories.
        folders: those with at least one table.
        summaries: the ``summary.json`` files beside the tables.
        left_out: a sentence on what the reader chose not to see; "" if nothing.
    """

    by_name: Mapping[str, pd.DataFrame]
    folders: tuple[Path, ...]
    summaries: tuple[Mapping[str, Any], ...]
    left_out: str = ""


def read(runs: Sequence[Path]) -> Tables:
    """Read all tables in the folders and below them.

    Raises:
        InputError: there are no tables, or a file is not such a table.
    """
    every = sections()
    known = {name: one for section in every for name, one in section.tables().items()}
    own = sorted(section.table for section in every)
    found = sorted({folder for run in runs for folder in _folders(run, own)})
    if not found:
        shown = ", ".join(str(run) for run in runs) or "nothing"
        raise InputError(f"There is no {' or '.join(f'{name}.parquet' for name in own)} in {shown} or its subfolders.")
    _refuse_mixtures(found)
    tables = {name: _table([folder / f"{name}.parquet" for folder in found], one) for name, one in known.items()}
    return Tables(tables, tuple(found), tuple(s for s in map(folders.summary_of, found) if s))


def _folders(run: Path, tables: Iterable[str]) -> Iterator[Path]:
    for name in tables:
        for path in run.rglob(f"{name}.parquet"):
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(run).parts):
                yield path.parent.resolve()


def _refuse_mixtures(found: Sequence[Path]) -> None:
    """Refuse a folder with files of several jobs, a name that is used for several models, and maps of one language that
    were learned from different sentences.

    Raises:
        InputError: there is such a folder or name; names the files.
    """
    models: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    learned: dict[tuple[str, ...], tuple[Path, Mapping[str, Any]]] = {}
    for folder in found:
        owners = folders.owners_of(folder)
        said = {name: owner for name, owner in owners.items() if owner is not None}
        summary = folders.summary_of(folder)
        if len(set(said.values())) > 1 or (said and len(said) < len(owners)):
            names = sorted(owners, key=lambda name: str(owners[name]))
            raise InputError(
                f"{folder} holds files of two jobs ({names[0]} and {names[-1]}); run the job again in another folder, "
                "or remove the files of the other job."
            )
        for row in summary.get("languages") or ():
            if "map_pairs" in row:
                own = (str(summary.get("model")), str(summary.get("task")), str(row["language"]))
                first, pairs = learned.setdefault(own, (folder, row["map_pairs"]))
                if pairs != row["map_pairs"]:
                    raise InputError(
                        f"Maps of {row['language']} were learned from {_said(pairs)} in {first} and from "
                        f"{_said(row['map_pairs'])} in {folder}; make a report of each."
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
                f"in {folder}; give each its own model.name and run one of them again (its passes are in the cache)."
            )


def _said(pairs: Mapping[str, Any]) -> str:
    return f"{pairs['count']} sentences of {pairs['name']}"


def _table(paths: Sequence[Path], section: Section) -> pd.DataFrame:
    parts = [_read(path, section) for path in paths if path.is_file()]
    if not parts:
        return pd.DataFrame(
            {f.name: pd.Series(dtype=_dtype(f)) for f in section.schema if f.name not in section.optional}
        )
    common = [f.name for f in section.schema if any(f.name in part.column_names for part in parts)]
    table = pa.concat_tables(parts, promote_options="permissive").select(common)
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas(split_blocks=True, self_destruct=True)
    return frame


def _dtype(f: pa.Field) -> Any:
    return object if pa.types.is_string(f.type) else f.type.to_pandas_dtype()


def _read(path: Path, section: Section) -> pa.Table:
    """Read one file; folders named like ``lang=swh`` are not treated as partitions."""
    try:
        wanted = list(section.schema)
        texts = [f.name for f in wanted if pa.types.is_string(f.type) and f.name in pq.read_schema(path).names]
        with pq.ParquetFile(path, read_dictionary=texts) as file:
            have = set(file.schema_arrow.names)
            missing = [f.name for f in wanted if f.name not in have | section.optional]
            if missing:
                raise InputError(f"{path} has no column {missing[0]}, so it is not a table of this kind.")
            wanted = [f for f in wanted if f.name in have]
            table = file.read(columns=[f.name for f in wanted])
        columns = [_column(table[f.name], f) for f in wanted]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0].rstrip('.')}.") from error
    for f, column in zip(wanted, columns, strict=True):
        empty = column.null_count and f.name not in section.optional | section.empty
        if empty or (pa.types.is_int8(f.type) and f.name in ("value", "correct") and not _binary(column)):
            raise InputError(f"{path} has {'empty cells' if empty else 'values other than 0 and 1'} in {f.name}.")
    table = pa.table(dict(zip([f.name for f in wanted], columns, strict=True)))
    for name, is_possible, why in _laws(table):
        row = pc.index(is_possible, False).as_py()
        if row >= 0:
            (cells,) = table.slice(row, 1).to_pylist()
            raise InputError(f"{path}, row {row + 1}: {name} is {cells[name]}, but {why.format_map(cells)}.")
    return table


def _laws(table: pa.Table) -> Iterator[tuple[str, pa.ChunkedArray, str]]:
    """Validity rules: a column, a mask of the rows whose value is possible, and the rule in words."""
    have = set(table.column_names)
    if {"value", "item_id"} <= have and "kind" not in have:  # of alignment, not of baselines
        number = table["margin"].is_valid() if "margin" in have else pa.scalar(False)
        yield "value", pc.or_(table["value"].is_valid(), number), "only a metric's number in margin can stand for it"
    if "confidence" in have:
        is_share = pc.and_(pc.greater_equal(table["confidence"], 0), pc.less_equal(table["confidence"], 1))
        yield "confidence", is_share, "it must be a probability from 0 to 1"
    for name in sorted({"gold", "prediction"} & have):
        is_option = pc.greater_equal(table[name], 0)
        if "loglikelihoods" in have:
            count = pc.list_value_length(table["loglikelihoods"])
            is_option = pc.and_kleene(is_option, pc.less(table[name], count))
        yield name, is_option, "options are counted from 0, and each has a log-likelihood"
    if {"gold", "prediction", "correct"} <= have:
        is_right = pc.equal(table["prediction"], table["gold"]).cast(pa.int8())
        yield "correct", pc.equal(table["correct"], is_right), "prediction is {prediction} and gold is {gold}"
    if "layer" in have:
        layer, unpatched = table["layer"], pa.scalar(False)
        if "condition" in have:
            unpatched = pc.equal(table["condition"].cast(pa.string()), UNPATCHED)
        yield "layer", pc.or_(pc.greater_equal(layer, 0), unpatched), "layers are counted from 0"


def _column(column: pa.ChunkedArray, f: pa.Field) -> pa.ChunkedArray:
    if not pa.types.is_string(f.type):
        return column.cast(f.type)
    if pa.types.is_dictionary(column.type):
        return column.cast(pa.dictionary(pa.int32(), pa.string()))
    return column.cast(pa.string()).dictionary_encode()


def _binary(column: pa.ChunkedArray) -> bool:
    ends = pc.min_max(column).as_py()
    return ends["min"] is None or (ends["min"] >= 0 and ends["max"] <= 1)
