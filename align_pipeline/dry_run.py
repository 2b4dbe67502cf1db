"""``dry_run=true``: what a job would compute and how long it takes, without computing or writing it.

The job's own code runs, up to the passes: data are read, texts are tokenized, the cache is looked up, and passes are
planned, but each returns zeros (`engine.plan`). A few passes of each kind are then run and timed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from align_pipeline import distributed
from align_pipeline.config import Config
from align_pipeline.engine.forward import shares, token_budget
from align_pipeline.engine.model import LanguageModel
from align_pipeline.engine.plan import Plan, seconds_per_work
from align_pipeline.errors import InputError
from align_pipeline.files import room
from align_pipeline.measurements.base import ASSUMED, Job, Measurement, tables_of
from align_pipeline.measurements.passes import Passes
from align_pipeline.selection import known_of_tuning, selected
from align_pipeline.store.cache import Cache
from align_pipeline.store.tables import table
from align_pipeline.tracking.console import Stages
from align_pipeline.tracking.live import Live

RESULTS_SECONDS = 3.0
"""About the time that a job takes for its tables, figures and W&B."""


@dataclass(frozen=True)
class Stage:
    """What a measurement would compute.

    Attributes:
        name: of the measurement.
        units: number of its cache entries.
        cached: how many of them are in the cache.
        passes: forward passes.
        alone: tokens of the texts, each alone.
        tokens: tokens that run: shared prefixes count once.
        padded: the same, with padding.
        seconds: estimated time.
        size: bytes that go to the cache.
        assumed: what is not known before the job runs, and what is assumed instead; "" if all is known.
    """

    name: str
    units: int
    cached: int
    passes: int
    alone: int
    tokens: int
    padded: int
    seconds: float
    size: int
    assumed: str


@dataclass(frozen=True)
class Forecast:
    """What a job would do.

    Attributes:
        about: task, languages and model, in words.
        items: number of paired items, over the languages.
        stages: its measurements.
        other: estimated seconds for reading data and loading the model, tables, figures.
        memory: bytes, estimated peak; 0 if no pass runs.
        is_gpu: whether that is the memory of a GPU.
    """

    about: str
    items: int
    stages: Sequence[Stage]
    other: float
    memory: int
    is_gpu: bool

    @property
    def seconds(self) -> float:
        """Estimated time of the job."""
        return self.other + sum(stage.seconds for stage in self.stages)

    @property
    def size(self) -> int:
        """Bytes that go to the cache."""
        return sum(stage.size for stage in self.stages)


@dataclass
class _Known:
    """What one job of a sweep found out and others use: the model, and the speed of its passes.

    Attributes:
        model: the config of `lm`.
        load: seconds that loading it took.
        rates: seconds per work by task, measurement and kind of pass.
        forecasts: of the jobs so far.
    """

    model: object = None
    lm: LanguageModel | None = None
    load: float = 0.0
    rates: dict[tuple[str, str, str], float] = field(default_factory=dict)
    forecasts: list[Forecast] = field(default_factory=list)


_known = _Known()


def dry_run(config: Config, number: int | None) -> None:
    """Print what a job would do.

    Args:
        config: the job's.
        number: of the job in its sweep, for one line; None: a single job, for a table.

    Raises:
        InputError: the job cannot run: a config, data or a model that cannot be used.
    """
    if distributed.size() > 1:
        raise InputError("dry_run=true works in a single process; leave torchrun (or srun) out.")
    console = Console() if sys.stdout.isatty() else Console(width=120)
    with _quiet(), tempfile.TemporaryDirectory() as scratch:
        found = forecast(config, Path(scratch))
    prefix = "" if number is None else f"#{number} "
    if found is None:
        console.print(f"{prefix}{config.model.name}: nothing to do, the task has none of the selected languages.")
        return
    if number is None:
        for line in _full(found, config):
            console.print(line)
    else:
        _known.forecasts.append(found)
        console.print(
            f"{prefix}{found.about}: {found.items:,} items, {_short([found])}", highlight=False, soft_wrap=True
        )


def tell_total() -> None:
    """Print the sum over the jobs of a sweep; nothing without any."""
    if _known.forecasts:
        console = Console(width=None if sys.stdout.isatty() else 120)
        console.print(f"{len(_known.forecasts)} jobs: {_short(_known.forecasts)}", highlight=False, soft_wrap=True)
    _known.forecasts.clear()


def forecast(config: Config, scratch: Path) -> Forecast | None:
    """What a job would do; None if there is nothing to do.

    Args:
        config: the job's.
        scratch: a folder for the tables of cached results that later measurements read.

    Raises:
        InputError: the job cannot run.
    """
    start = time.perf_counter()
    task, source, languages, asked = selected(config)
    if not languages:
        return None
    pairs = task.pairs(languages, source)
    known_of_tuning(config, pairs)
    job = Job(config, task, source, languages, pairs, Stages(Console(quiet=True)), scratch, dry=True)
    measurements = [kind(job) for kind in asked]
    other = time.perf_counter() - start + RESULTS_SECONDS
    passes = Passes(
        job, Cache(Path(config.cache) if config.cache else None), Live(config.wandb, scratch, {}, "job", "")
    )
    stages = [_stage(one, passes, is_read=one is not measurements[-1]) for one in measurements]
    runs = "lm" in vars(job)
    codes = [language.flores for language in languages]
    where = f"{codes[0] if len(codes) == 1 else f'{len(codes)} languages'} and English"
    about = f"{task.name} ({task.origin(source)}), {where}, {config.model.name}"
    memory, is_gpu = _memory(job.lm) if runs else (0, False)
    return Forecast(about, sum(len(pair.ids) for pair in pairs), stages, other + runs * _known.load, memory, is_gpu)


def _stage(one: Measurement, passes: Passes, is_read: bool) -> Stage:
    """Go through a measurement's units; those in the cache write their rows if later measurements may read them."""
    job = passes.job
    before = job.lm.counted() if "lm" in vars(job) else (0, 0)
    units = cached = size = 0
    seconds = 0.0
    with contextlib.ExitStack() as stack:
        written = {}
        for name, schema in tables_of(one).items() if is_read else ():
            written[name] = stack.enter_context(table(job.folder, name, schema))
        for unit in one.units():
            units += 1
            found = passes.cache.find(passes.key(unit))
            if found is None:
                _planning(job)
                start = time.perf_counter()
                size += sum(tensor.nbytes for tensor in unit.compute().values())
                seconds += time.perf_counter() - start
                continue
            cached += 1
            if is_read:
                found.pop("truncated", None)
                for name, rows in {one.table: unit.rows, **unit.others}.items():
                    for columns in rows(found):
                        written[name].append(**columns)
    if cached == units:
        return Stage(one.name, units, cached, 0, 0, 0, 0, 0.0, 0, "")
    assert job.lm.plan is not None
    plan = job.lm.plan.take()
    size += plan.stored
    seconds += _pass_seconds(plan, job, one)
    tokens, padded = (after - first for after, first in zip(job.lm.counted(), before, strict=True))
    if passes.cache.folder is None:
        size = 0
    assumed = job.known.pop(ASSUMED, "")
    if "generation" in plan.kinds:
        assumed = "each translation is taken to be as long as its reference; it may take up to task.max_new_tokens"
    return Stage(one.name, units, cached, plan.passes, plan.alone, tokens, padded, seconds, size, assumed)


def _planning(job: Job) -> None:
    """Make the job's model one that plans."""
    if "lm" in vars(job) and job.lm.plan is not None:
        return
    wanted = dataclasses.asdict(job.config.model)
    if _known.lm is None or _known.model != wanted:
        _known.lm, _known.model = None, None  # frees the former one
        _known.rates.clear()
        start = time.perf_counter()
        _known.lm, _known.model, _known.load = job.lm, wanted, time.perf_counter() - start
    real = _known.lm
    shares(real)
    token_budget(real, job.config.batch_tokens)
    vars(job)["lm"] = dataclasses.replace(real, plan=Plan(), tokens_run=0, tokens_computed=0, truncated=0)


def _pass_seconds(plan: Plan, job: Job, one: Measurement) -> float:
    """Estimated time of the passes of a measurement; each kind is timed once per task and model."""
    synchronize = torch.cuda.synchronize if job.lm.device.type == "cuda" else lambda: None
    seconds = 0.0
    for name, kind in plan.kinds.items():
        key = (job.task.name, one.name, name)
        if key not in _known.rates:
            with torch.inference_mode():
                _known.rates[key] = seconds_per_work(kind, synchronize)
        seconds += _known.rates[key] * kind.work
    return seconds


def _memory(lm: LanguageModel) -> tuple[int, bool]:
    """Estimated peak in bytes: that of this process or GPU, which ran the largest passes, and the states that a job
    keeps; and whether it is a GPU's."""
    kept = lm.plan.kept if lm.plan is not None else 0
    if lm.device.type == "cuda":
        return torch.cuda.max_memory_allocated(lm.device) + kept, True
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit + kept, False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The log lines of work that is not done are left out; warnings about data stay."""
    own = logging.getLogger("align_pipeline")
    before = own.level
    own.setLevel(logging.WARNING)
    try:
        yield
    finally:
        own.setLevel(before)


# ---- words


def _full(found: Forecast, config: Config) -> Iterator[Table | str]:
    """A single job's forecast for the console."""
    made = Table(title=f"Dry run: {found.about}, {found.items:,} items", title_justify="left")
    made.add_column("measurement", no_wrap=True)
    for column in (
        "in the\ncache",
        "passes",
        "tokens, each\ntext alone",
        "tokens\nthat run",
        "with\npadding",
        "time",
        "cache",
    ):
        made.add_column(column, justify="right")
    for one in found.stages:
        numbers = (f"{one.cached} of {one.units}", *(f"{n:,}" for n in (one.passes, one.alone, one.tokens, one.padded)))
        made.add_row(one.name, *numbers, _time(one.seconds), decimal(one.size))
    yield made
    for one in found.stages:
        if one.assumed:
            yield f"{one.name}: {one.assumed}."
    yield f"Time: about {_time(found.seconds)}, including {_time(found.other)} for loading, tables and figures."
    if found.memory:
        total = (
            torch.cuda.mem_get_info()[1] if found.is_gpu else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        )
        yield f"Memory{' of the GPU' if found.is_gpu else ''}: about {decimal(found.memory)} of {decimal(total)}."
    if config.cache is None:
        yield "Disk: the cache is off; tables and figures take a few MB."
    else:
        free = decimal(room(Path(config.cache))[1])
        yield f"Disk: {decimal(found.size)} in {config.cache} ({free} free), without tables and figures."
    yield "Nothing was computed or written. Without dry_run=true, the same command runs the job."


def _short(found: Sequence[Forecast]) -> str:
    """The numbers of one or several jobs on one line."""
    stages = [stage for one in found for stage in one.stages]
    units, cached = sum(stage.units for stage in stages), sum(stage.cached for stage in stages)
    parts = [
        f"{cached} of {units} results in the cache",
        f"{sum(stage.passes for stage in stages):,} passes",
        f"{sum(stage.tokens for stage in stages):,} tokens ({sum(stage.alone for stage in stages):,} without sharing, "
        f"{sum(stage.padded for stage in stages):,} with padding)",
        f"about {_time(sum(one.seconds for one in found))}",
        f"memory {decimal(max(one.memory for one in found))}",
        f"cache {decimal(sum(one.size for one in found))}",
    ]
    return ", ".join(parts)


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 10 or not seconds else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{seconds / 3600:.1f} h"
