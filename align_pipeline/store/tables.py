"""The writer of a run's parquet tables.

Ids are shared by all languages, so every table joins on ``(task, language, pivot, item_id)``.
`language` is a FLORES code (``swh_Latn``), whatever name the data set uses. `pivot` names the English set that a row is
paired with (``eng_Latn``, or XCOPA's ``translation-sw``); English rows have the name of their own set there.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from align_pipeline.errors import writing

TEXT, INT, FLOAT = pa.string(), pa.int32(), pa.float64()


JOB = b"align_pipeline.job"
"""Metadata key of a parquet file: the digest of the job that wrote it, as ``job`` in ``summary.json``."""


class Table:
    """A parquet file being written, under a temporary name until it is complete."""

    def __init__(self, path: Path, schema: pa.Schema, job: str = "") -> None:
        self.path, self.schema = path, schema.with_metadata({JOB: job.encode()}) if job else schema
        self.partial = unfinished(path)
        self.writer = pq.ParquetWriter(self.partial, self.schema, compression="zstd")

    def append(self, **columns: Any) -> None:
        """Add rows; a single value, as opposed to a sequence or array, is repeated for all rows."""
        length = max(len(v) for v in columns.values() if not isinstance(v, str))
        if not length:
            return
        arrays = []
        for field in self.schema:
            value = columns[field.name]
            arrays.append(
                pa.repeat(pa.scalar(value, field.type), length)
                if isinstance(value, str)
                else pa.array(value, type=field.type)
            )
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema))


@contextmanager
def table(folder: Path, name: str, schema: pa.Schema, job: str = "") -> Iterator[Table]:
    """Write ``<name>.parquet`` atomically: no file is left if the block fails.

    Args:
        folder: the output folder.
        name: the table's name.
        schema: its columns.
        job: the digest of the job, for the file's metadata; "" for none.
    """
    with writing(folder):
        written = Table(folder / f"{name}.parquet", schema, job)
    try:
        yield written
        with writing(folder):
            written.writer.close()
            os.replace(written.partial, written.path)
    finally:
        written.writer.close()
        written.partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    temporary = unfinished(path)
    with writing(path.parent):
        try:
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """A unique temporary name for a file that is not complete yet; process ids alone repeat across nodes."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
