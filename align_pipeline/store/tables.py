"""The records that flow through a run, and the schemas of the tables it writes.

Ids are shared by all languages, so every table joins on ``(task, language, pivot, item_id)``.
`language` is a FLORES code (``swh_Latn``), whatever the data set calls it; `pivot` names the English set that a row
is paired with (``eng_Latn``, or XCOPA's ``translation-sw``), and English rows carry their own set's name there.
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
"""Key of a parquet file's metadata: the digest of the job that wrote it, as ``job`` in ``summary.json``."""


class Table:
    """A parquet file in the making: rows go to a temporary name and appear under their own only when all are there."""

    def __init__(self, path: Path, schema: pa.Schema, job: str = "") -> None:
        self.path, self.schema = path, schema.with_metadata({JOB: job.encode()}) if job else schema
        self.partial = unfinished(path)
        self.writer = pq.ParquetWriter(self.partial, self.schema, compression="zstd")

    def append(self, **columns: Any) -> None:
        """Add rows; a column that is one value, not a sequence or array, is repeated."""
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
    """Write ``<name>.parquet`` atomically: nothing is left of it if the block fails.

    Args:
        folder: where.
        name: of the table.
        schema: its columns.
        job: the digest that the file's metadata names its job by; "" names none.
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
    """A name that nobody else writes to, for a file that is not complete yet; process numbers repeat over nodes."""
    return path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
