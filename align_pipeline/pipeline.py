"""The straight line of a job, from a typed config to tables, figures and W&B; callable from a test or a notebook.

What is measured is not known here: `measurements` says what there is, and `measurements.base` what each gives.
"""

from __future__ import annotations

import contextlib
import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from align_pipeline import distributed, summary
from align_pipeline.config import Config
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import ParallelTask
from align_pipeline.data.tasks.weak import weak_sides
from align_pipeline.engine.checks import check, num_layers
from align_pipeline.errors import writing
from align_pipeline.measurements import registered
from align_pipeline.measurements.base import Job, Measurement, Told, tables_of
from align_pipeline.measurements.passes import Passes
from align_pipeline.store import folders
from align_pipeline.store.cache import Cache
from align_pipeline.store.folders import NOTHING, SUMMARY
from align_pipeline.store.tables import Table, table, write_text
from align_pipeline.tracking import console
from align_pipeline.tracking import wandb as tracking

log = logging.getLogger(__name__)
_PATIENCE = 60.0
"""Seconds to wait for the lock of a job that may be dead: the one that SLURM puts back into its queue."""
_PACKAGES = (
    *("align_pipeline", "torch", "transformers", "datasets", "accelerate", "numpy", "pyarrow", "sacrebleu", "wandb"),
)


@dataclass(frozen=True)
class Summary:
    """What a job found, as in ``summary.json``."""

    content: Mapping[str, Any]
    folder: Path

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the job's languages; what the job returns to Hydra."""
        values = [row["accuracy"] for row in self.content["languages"] if row["accuracy"] is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class _Found:
    """What a job has to tell when its files are written."""

    content: dict[str, Any]
    told: Sequence[Told]
    numbers: Mapping[str, float]
    tables: Sequence[str]
    stages: console.Stages


def run(config: Config, folder: Path, settings: Mapping[str, Any]) -> Summary | None:
    """One job.

    Args:
        config: the typed config.
        folder: where everything goes once all of it is there; it holds no other job's result.
        settings: the resolved config, for the record.

    Returns:
        The summary; None if none of the languages of a sweep's job exists for its task, and in every process but the
        main one.

    Raises:
        InputError: something the user gave cannot be used; one sentence says what and why.
    """
    settings = {str(key): summary.plain(value) for key, value in settings.items()}
    if not distributed.is_main():
        _measure(config, folder, settings)
        return None
    with folders.held(folder, _PATIENCE):
        folders.refuse_others(folder, folders.identity(config), settings)
        wandb = tracking.checked(config.wandb)
        with folders.replaced(folder) as making:
            found = _measure(config, making, settings)
        if found is None:
            return None
        content, told = found.content, found.told
        for printed in (summary.table(content, told, folder), *(one for part in told for one in part.printed)):
            found.stages.console.print(printed)
        # Last: whatever becomes of it, the results are there.
        tags = [content["task"], config.model.name, *(row["language"] for row in content["languages"])]
        curves = [curve for part in told for curve in part.curves]
        figures = [folder / path.name for part in told for path in part.figures]
        tables = [folder / f"{name}.parquet" for name in found.tables]
        tracking.track(wandb, folder, tags, settings, found.numbers, curves, figures, tables)
    return Summary(content, folder)


def _measure(config: Config, folder: Path, settings: Mapping[str, Any]) -> _Found | None:
    """A job up to its files, the summary included; None as `run`."""
    task: ParallelTask = instantiate(config.task)
    every = registered()
    asked = [kind for kind in every if kind.asked(config, task)]
    check(config.model)
    last = num_layers(config.model)
    for kind in asked:
        kind.check(config, task, last)
    source = Source(config.source)
    named = {config.languages[code].flores for code in config.named if code in config.languages}
    languages = task.supported(config.languages.values(), source, named)
    if not languages:
        sentence = f"{task.name} has none of the selected languages in data={source.name}: nothing to do."
        log.warning(sentence)
        if distributed.is_main():
            write_text(folder / NOTHING, sentence + "\n")
        return None
    log.info("Data: %s from %s. Model: %s (%s).", task.dataset, source.name, config.model.name, config.model.path)

    stages = console.Stages()
    with stages.stage("data", f"Read {task.name} in {len(languages)} languages and English"):
        pairs = task.pairs(languages, source)
    weak = weak_sides(pairs)
    job = Job(config, task, source, languages, pairs, stages, folder)
    passes = Passes(job, Cache(Path(config.cache) if config.cache else None))
    measurements = [kind(job) for kind in asked]
    tokens: dict[str, tuple[int, int]] = dict.fromkeys((kind.stage for kind in every), (0, 0))
    for one in measurements:
        run_before, computed_before = passes.tokens()
        _write(one, passes, folder, folders.identity(config))
        so_far, so_computed = passes.tokens()
        counted = tokens[one.stage]
        tokens[one.stage] = (counted[0] + so_far - run_before, counted[1] + so_computed - computed_before)
    if not distributed.is_main():
        return None

    with stages.stage("report", "Drew the plots"):
        told = [one.tell() for one in measurements]
    rows = summary.languages(pairs, [kind.blank for kind in every], told)
    content = {
        "job": folders.identity(config),
        "task": task.name,
        "model": config.model.name,
        "languages": rows,
        "data": summary.provenance(task, source, pairs, weak),
        "num_layers": job.num_layers or None,
        "truncated_texts": passes.truncated,
        "tokens": {stage: count for stage, (count, _) in tokens.items()},
        "tokens_with_padding": {stage: count for stage, (_, count) in tokens.items()},
        "processes": distributed.size(),
        "versions": {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "config": settings,
        "seconds": {name: round(value, 3) for name, value in stages.seconds.items()},
    }
    content = summary.plain(content)
    write_text(folder / SUMMARY, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    tables = [name for one in measurements for name in tables_of(one)]
    return _Found(content, told, summary.numbers(rows, measurements), tables, stages)


def _write(one: Measurement, passes: Passes, folder: Path, job: str) -> None:
    """Go through a measurement's units and write its tables, in the main process."""
    with contextlib.ExitStack() as stack:
        written: dict[str, Table] = {}
        if distributed.is_main():
            for name, schema in tables_of(one).items():
                written[name] = stack.enter_context(table(folder, name, schema, job))
        for unit in one.units():
            tensors = passes.get(unit)
            if tensors is None:
                continue
            for name, rows in {one.table: unit.rows, **unit.others}.items():
                for columns in rows(tensors):
                    with writing(folder):
                        written[name].append(**columns)
