"""Build ``summary.json`` and the console table from the results of the measurements."""

from __future__ import annotations

import hashlib
import logging
import math
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from enum import Enum
from importlib import metadata
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.table import Table
from rich.text import Text

from align_pipeline import distributed
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import OWN_FILES, ItemSet, Pair, ParallelTask, sides_of
from align_pipeline.engine.identity import commit
from align_pipeline.measurements.base import Column, Job, Measurement, Told
from align_pipeline.measurements.passes import Passes
from align_pipeline.store import folders

log = logging.getLogger(__name__)

_PACKAGES = (
    "align_pipeline",
    "torch",
    "transformers",
    "datasets",
    "accelerate",
    "numpy",
    "pyarrow",
    "sacrebleu",
    "wandb",
)


def content(
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    weak: Mapping[tuple[str, str], Mapping[str, int]],
    passes: Passes,
    stages: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """The full content of ``summary.json``.

    Args:
        job: the job.
        rows: from `languages`.
        weak: from `data.tasks.weak`.
        passes: the forward passes, for their token counts.
        stages: all stages that exist; a stage that did not run gets no tokens.
        settings: the resolved config.
    """
    tokens = {stage: passes.tokens.get(stage, (0, 0)) for stage in stages}
    made = {
        "job": folders.identity(job.config),
        "task": job.task.name,
        "model": job.config.model.name,
        "parameters": passes.parameters(),
        "revision": None if job.given else job.config.model.revision,
        "commit": None if job.given else commit(job.config.model),
        "languages": rows,
        "data": provenance(job.task, job.source, job.pairs, weak),
        "num_layers": job.num_layers or None,
        "truncated_texts": passes.truncated,
        "tokens": {stage: count for stage, (count, _) in tokens.items()},
        "tokens_with_padding": {stage: count for stage, (_, count) in tokens.items()},
        "processes": distributed.size(),
        "versions": {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "config": settings,
        "seconds": {name: round(value, 3) for name, value in job.stages.seconds.items()},
    }
    return {key: plain(value) for key, value in made.items()}


def languages(pairs: Sequence[Pair], blank: Sequence[Mapping[str, Any]], told: Sequence[Told]) -> list[dict[str, Any]]:
    """One row per language; ``n`` counts the paired items.

    Args:
        pairs: the job's pairs.
        blank: default values of the measurements that did not run.
        told: results of the measurements that ran.
    """
    rows = []
    for pair in pairs:
        key = (pair.language.language, pair.english.pivot)
        row: dict[str, Any] = {"language": key[0], "pivot": key[1], "n": len(pair.ids)}
        for default in blank:
            row |= default
        row["left_out"] = dict(pair.left_out)
        for part in told:
            row |= part.rows[key]
        rows.append(row)
    return rows


def numbers(rows: Sequence[Mapping[str, Any]], measurements: Sequence[Measurement]) -> dict[str, float]:
    """The rows as ``<number>/<language>``, for W&B's summary; with a single language also as bare names."""
    found: dict[str, float] = {}
    for row in rows:
        values: dict[str, float] = {}
        for one in measurements:
            values |= one.numbers(row)
        found |= {f"{key}/{row['language']}": value for key, value in values.items()}
        if len(rows) == 1:
            found |= values
    return found


def provenance(
    task: ParallelTask, source: Source, pairs: Sequence[Pair], weak: Mapping[tuple[str, str], Mapping[str, int]]
) -> dict[str, Any]:
    """The data behind the numbers: source, the commit on the hub, a digest of the items, and counts of weak items
    (`data.tasks.weak`)."""
    commits = sorted(source.commits.get(task.dataset, ()))
    if len(commits) > 1:
        log.warning(
            "Languages of %s were read from different commits (%s), because some were downloaded earlier: set "
            "task.revision to one of them.",
            *(task.dataset, ", ".join(commits)),
        )
    return {
        "source": task.origin(source).partition("=")[2],
        "dataset": task.dataset or OWN_FILES,
        "revision": None if source.folder else task.revision,
        "commits": commits,
        "split": task.split,
        "sides": [
            {
                "language": language,
                "pivot": pivot,
                "items": len(side.items),
                "sha256": digest(side),
                "weak": weak.get((language, pivot), {}),
            }
            for (language, pivot), side in sides_of(pairs).items()
        ],
    }


def digest(side: ItemSet) -> str:
    """SHA-256 of all texts of a side that a model is shown."""
    return hashlib.sha256(repr(side.items).encode()).hexdigest()


def tables(content: Mapping[str, Any], told: Sequence[Told], width: int) -> list[Table]:
    """The rows as console tables: one, or several below each other where their columns do not fit the width.

    Args:
        content: of ``summary.json``.
        told: results of the measurements.
        width: of the console, in characters.
    """
    title = f"{content['task']}: {content['model']} on data from {content['data']['source']}"
    told = sorted(told, key=lambda part: part.place)
    caption = " ".join(part.caption for part in told if part.caption)
    rows = content["languages"]
    columns = [Column("n", lambda row: str(row["n"])), *(column for part in told for column in part.columns)]
    room = width - max(len(text) for text in ["language", *(row["language"] for row in rows)]) - 4
    groups: list[list[Column]] = [[]]
    left = room
    for column in columns:
        texts = [column.head, *map(column.cell, rows)]
        needed = max(len(line) for text in texts for line in text.splitlines() or [""]) + 3
        if groups[-1] and needed > left:
            groups.append([])
            left = room
        groups[-1].append(column)
        left -= needed
    made = []
    for number, group in enumerate(groups):
        shown = Text(title, no_wrap=True, overflow="ignore")  # a title may be wider than its table
        one = Table(title=None if number else shown, title_justify="left", caption_justify="left")
        one.caption = caption or None if group is groups[-1] else None
        one.add_column("language", no_wrap=True)
        for column in group:
            one.add_column(column.head, justify="right", no_wrap=column.no_wrap or len(groups) > 1)
        for row in rows:
            one.add_row(row["language"], *(column.cell(row) for column in group))
        made.append(one)
    return made


def plain(value: Any) -> Any:
    """A value as plain JSON types, whatever a caller's config contains; a number that is not finite becomes null."""
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, DictConfig | ListConfig):
        return plain(OmegaConf.to_container(value, resolve=True, enum_to_str=True))
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    item = getattr(value, "item", None)  # numpy scalars
    return plain(item()) if callable(item) else str(value)
