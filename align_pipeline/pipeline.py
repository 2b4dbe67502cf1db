"""Run one job, from a typed config to tables, figures and W&B. Can be called from a test or a notebook.

This module does not know the measurements: `measurements` lists them, `measurements.base` defines their interface.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from align_pipeline import distributed, summary
from align_pipeline.config import Config
from align_pipeline.data.tasks import OWN_FILES
from align_pipeline.data.tasks.weak import weak_sides
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements import registered
from align_pipeline.measurements.base import Job, Told, tables_of
from align_pipeline.measurements.passes import Passes
from align_pipeline.selection import known_of_tuning, selected
from align_pipeline.store import folders
from align_pipeline.store.cache import Cache
from align_pipeline.store.folders import NOTHING, SUMMARY
from align_pipeline.store.tables import write_text
from align_pipeline.tracking import console
from align_pipeline.tracking import wandb as tracking
from align_pipeline.tracking.live import Live, live

log = logging.getLogger(__name__)
_PATIENCE = 60.0
"""Seconds to wait for the lock of a job that may be dead: a job that SLURM requeues finds its old lock."""


@dataclass(frozen=True)
class Summary:
    """The result of a job, as in ``summary.json``."""

    content: Mapping[str, Any]
    folder: Path

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the job's languages; the job returns it to Hydra."""
        values = [row["accuracy"] for row in self.content["languages"] if row["accuracy"] is not None]
        return sum(values) / len(values) if values else None


@dataclass(frozen=True)
class _Found:
    """What the main process prints and tracks once the files are written."""

    content: dict[str, Any]
    told: Sequence[Told]
    numbers: Mapping[str, float]
    tables: Sequence[str]
    stages: console.Stages


def run(config: Config, folder: Path, settings: Mapping[str, Any], lm: LanguageModel | None = None) -> Summary | None:
    """Run one job.

    Args:
        config: the typed config.
        folder: the output folder; it fills only when all results are complete. It must not hold another job's result.
        settings: the resolved config, for the record.
        lm: a model that is in memory already, used instead of the config's; then nothing may be cached.

    Returns:
        The summary. None if a sweep's job has no language that exists for its task, and in every process but the main
        one.

    Raises:
        InputError: something the user gave cannot be used; one sentence says what and why.
    """
    settings = {str(key): summary.plain(value) for key, value in settings.items()}
    if not distributed.is_main():
        _measure(config, folder, settings, Live(config.wandb, folder, settings, "job", ""), lm)
        return None
    with folders.held(folder, _PATIENCE):
        identity = folders.identity(config)
        folders.refuse_others(folder, identity, settings)
        with live(tracking.checked(config.wandb), folder, settings, "job", identity) as live_run:
            with folders.replaced(folder) as making:
                found = _measure(config, making, settings, live_run, lm)
            if found is None:
                return None
            content, told = found.content, found.told
            if lm is None:  # results from Python show themselves
                _show(found, folder)
            # The results are in place: if W&B fails from here on, nothing is lost.
            curves = [curve for part in told for curve in part.curves]
            figures = [folder / path.name for part in told for path in part.figures]
            tables = [folder / f"{name}.parquet" for name in found.tables]
            live_run.curves(curves)
            live_run.act(lambda opened: tracking.log_job(opened, found.numbers, curves, figures, tables))
    return Summary(content, folder)


def _show(found: _Found, folder: Path) -> None:
    screen = found.stages.console
    more = (one for part in found.told for one in part.printed)
    for printed in (*summary.tables(found.content, found.told, screen.width), *more):
        screen.print(printed)
    screen.print(f"Tables and plots: {folder}", soft_wrap=True, highlight=False, markup=False)  # in one piece


def _measure(
    config: Config, folder: Path, settings: Mapping[str, Any], live_run: Live, lm: LanguageModel | None
) -> _Found | None:
    """Run a job and write its files, the summary included. Returns None in the same cases as `run`."""
    task, source, languages, asked = selected(config, lm)
    if not languages:
        sentence = f"Nothing to do: {task.name} has none of the selected languages in {task.origin(source)}."
        log.warning(sentence)
        if distributed.is_main():
            write_text(folder / NOTHING, sentence + "\n")
        return None
    where = f"{task.dataset or OWN_FILES} ({task.origin(source)})"
    log.info("Data: %s. Model: %s (%s).", where, config.model.name, config.model.path)

    codes = [language.flores for language in languages]
    name = "_".join([task.name, config.model.name, codes[0] if len(codes) == 1 else f"{len(codes)}_languages"])
    live_run.open(name, [task.name, config.model.name, *codes])
    stages = console.Stages()
    with stages.stage("data", f"Read {task.name} in {len(languages)} language{'s' * (len(languages) > 1)} and English"):
        pairs = task.pairs(languages, source)
    tuned = known_of_tuning(config, pairs)
    weak = weak_sides(pairs)
    job = Job(config, task, source, languages, pairs, stages, folder, given=lm)
    passes = Passes(job, Cache(Path(config.cache) if config.cache else None), live_run)
    measurements = [kind(job) for kind in asked]
    for one in measurements:
        passes.write(one, folders.identity(config))
    if not distributed.is_main():
        return None

    with stages.stage("report", "Drew the plots"):
        told = [one.tell() for one in measurements]
    every = registered()
    rows = summary.languages(pairs, [kind.blank for kind in every], told)
    content = summary.content(job, rows, weak, passes, [kind.stage for kind in every], settings) | {"tuned": tuned}
    write_text(folder / SUMMARY, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    tables = [name for one in measurements for name in tables_of(one)]
    return _Found(content, told, summary.numbers(rows, measurements), tables, stages)
