"""COMET scores for finished runs: ``python -m align_pipeline.comet runs=<folder or glob>``.

unbabel-comet needs older versions of transformers and numpy than this package, so it has its own environment. This
module therefore imports only the package's arguments and errors::

    python -m venv comet && comet/bin/pip install unbabel-comet pyarrow
    comet/bin/python -m align_pipeline.comet runs='outputs/runs/*'    # from a checkout, or pip install --no-deps

It fills the columns ``comet`` (wmt22-comet-da, as in the study) and ``cometkiwi`` (wmt22-cometkiwi-da, which needs no
reference and is gated on the hub) of every ``translations.parquet``. The report then shows COMET first.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from align_pipeline.arguments import Arguments, command
from align_pipeline.errors import InputError, unknown

MODELS = {"comet": "Unbabel/wmt22-comet-da", "cometkiwi": "Unbabel/wmt22-cometkiwi-da"}
USAGE = """Usage: python -m align_pipeline.comet runs=<folder or glob> [scores=comet,cometkiwi] [batch=16]

  runs      a run's folder, a folder of runs, or a glob; may be given several times
  scores    comet (default), cometkiwi, or both separated by a comma
  batch     number of translations in a batch (default 16)

It adds COMET scores to translations.parquet. Run it in a separate environment with unbabel-comet."""


def load(score: str, batch: int) -> Callable[[list[dict[str, str]]], list[float]]:
    """A scorer of ``src``, ``mt`` and ``ref`` texts; its model is downloaded on first use.

    Raises:
        InputError: the package or the model is not available.
    """
    try:
        import torch
        from comet import download_model, load_from_checkpoint
    except ImportError as error:
        raise InputError(
            f"COMET cannot be imported ({error}); it needs a separate environment: python -m venv comet && "
            "comet/bin/pip install unbabel-comet pyarrow, then comet/bin/python -m align_pipeline.comet."
        ) from error
    try:
        model = load_from_checkpoint(download_model(MODELS[score]))
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{MODELS[score]} cannot be loaded ({' '.join(str(error).split())[:200]}); it comes from the hub, where "
            "wmt22-cometkiwi-da is gated: accept its licence and log in with `huggingface-cli login`."
        ) from error
    gpus = int(torch.cuda.is_available())
    return lambda rows: [float(s) for s in model.predict(rows, batch_size=batch, gpus=gpus, progress_bar=False).scores]


def fill(path: Path, score: str, scorer: Callable[[list[dict[str, str]]], list[float]]) -> int:
    """Write a score into a table, atomically; returns the number of rows.

    Args:
        path: a ``translations.parquet``.
        score: the column.
        scorer: from `load`.

    Raises:
        InputError: the file is not such a table.
    """
    try:
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{path} cannot be read as a table: {str(error).splitlines()[0]}.") from error
    missing = {"source", "hypothesis", "reference", score} - set(table.column_names)
    if missing:
        raise InputError(f"{path} has no column {min(missing)}, so it is not a table of translations.")
    texts = zip(*(table[name].to_pylist() for name in ("source", "hypothesis", "reference")), strict=True)
    values = scorer([{"src": src, "mt": mt, "ref": ref} for src, mt, ref in texts])
    place = table.column_names.index(score)
    table = table.set_column(place, table.schema.field(score), pa.array(values, pa.float64()))
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}.partial")
    try:
        pq.write_table(table, temporary, compression="zstd")  # keeps the table's metadata, which names the job
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(values)


def main(given: Sequence[str] | None = None) -> None:
    """The command line."""
    command(given, USAGE, _fill_all)


def _fill_all(given: Sequence[str]) -> None:
    asked = Arguments(given, ("runs", "scores", "batch"), required=("runs",))
    scores, batch = asked.names("scores") or ("comet",), asked.whole("batch", 16, least=1)
    for score in scores:
        if score not in MODELS:
            raise unknown("score", score, MODELS)
    paths = sorted({path for folder in asked.folders("runs") for path in folder.rglob("translations.parquet")})
    if not paths:
        raise InputError(f"There is no translations.parquet in runs={asked.text('runs')} or its subfolders.")
    for score in scores:
        scorer = load(score, batch)
        for path in paths:
            print(f"{path}: {fill(path, score, scorer):,} rows, {score}")


if __name__ == "__main__":
    main()
