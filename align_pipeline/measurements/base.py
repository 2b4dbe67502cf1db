"""What a measurement is, and what it is given: the rooms that `pipeline` asks for, whatever is measured.

A new measurement is a class with these members in a folder of its own, and a line in `measurements.BUILT_IN`; from
another package, an entry point of the group ``align_pipeline.measurements`` that names the class.

Its section of the report is a `page.part.Section` that `measurements.SECTIONS`, or an entry point of the group
``align_pipeline.sections``, names.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd
import pyarrow as pa
from rich.table import Table as Printed
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.config.lang import Language
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair, ParallelTask
from align_pipeline.engine.loading import load
from align_pipeline.engine.model import LanguageModel
from align_pipeline.tracking.console import Stages
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)

Columns = dict[str, Any]
"""Of a table's rows: a sequence for each column, or one text for all rows."""


@dataclass(frozen=True)
class Unit:
    """What is computed at once, and kept in the cache under a key of its own.

    Attributes:
        kind: names the computation in the key.
        texts: digest of everything but the model that the numbers depend on.
        what: says it on the console and in the cache's list.
        compute: the forward passes, called in all processes if the cache has no answer; tensors by name.
        others: rows of the measurement's other tables, by table, likewise.
        is_prompted: whether the texts are prompts, which ``model.chat_template`` changes.
        rows: makes rows of the table of what `compute` gave, in as many pieces as it likes; in the main process alone.
    """

    kind: str
    texts: str
    what: str
    compute: Callable[[], dict[str, Tensor]]
    rows: Callable[[dict[str, Tensor]], Iterable[Columns]]
    is_prompted: bool = True
    others: Mapping[str, Callable[[dict[str, Tensor]], Iterable[Columns]]] = field(default_factory=dict)


@dataclass
class Job:
    """What a measurement may ask of the job that it is part of.

    Attributes:
        config: the typed config.
        task: the benchmark.
        source: where its rows come from.
        languages: those that the task has.
        pairs: the same languages' items beside the English ones.
        stages: times and tells pieces of work.
        folder: where tables and figures go.
        num_layers: L, as soon as a computation has told; 0 before.
        known: what one measurement has prepared and another may use, by name.
    """

    config: Config
    task: ParallelTask
    source: Source
    languages: Sequence[Language]
    pairs: Sequence[Pair]
    stages: Stages
    folder: Path
    num_layers: int = 0
    known: dict[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def lm(self) -> LanguageModel:
        """The model, loaded at first use."""
        log.info("Loading %s (%s) ...", self.config.model.name, self.config.model.path)
        with self.stages.stage("model", f"Loaded {self.config.model.name}"):
            return load(self.config.model)

    @property
    def last_layers(self) -> dict[str, int]:
        """Layer L of the model, if it is known by now."""
        return {self.config.model.name: self.num_layers} if self.num_layers else {}

    def table(self, name: str) -> pd.DataFrame:
        """A table that an earlier measurement of the job has written; empty if none has. In the main process alone."""
        path = self.folder / f"{name}.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()


@dataclass(frozen=True)
class Column:
    """A column of the console's table.

    Attributes:
        head: its heading.
        cell: a language's text, made of its row of ``summary.json``.
        no_wrap: whether its cells stay on one line.
    """

    head: str
    cell: Callable[[Mapping[str, Any]], str]
    no_wrap: bool = False


@dataclass(frozen=True)
class Told:
    """What a measurement tells of its table.

    Attributes:
        rows: by language and pivot, what it adds to their row of ``summary.json``.
        curves: by layer, for W&B.
        figures: PNG files in the job's folder.
        columns: of the console's table.
        caption: a sentence below that table that explains them.
        printed: further tables for the console.
        place: columns and captions of a lower place stand before those of a higher one.
    """

    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    curves: Sequence[Curve] = ()
    figures: Sequence[Path] = ()
    columns: Sequence[Column] = ()
    caption: str = ""
    printed: Sequence[Printed] = ()
    place: int = 0


class Measurement(Protocol):
    """One measurement of one job.

    `pipeline` takes the classes whose `asked` says yes and lets each `check` the config; then data are read and one of
    each is made. It goes through its `units`: what the cache does not have is computed, and the rows are appended to
    the table. At last it asks what to `tell`.

    Attributes:
        name: of the measurement.
        stage: what its tokens are counted as in ``summary.json``.
        table: the table's name; its file is ``<table>.parquet``.
        schema: the table's columns.
        others: further tables and their columns, by name.
        blank: what a language's row of ``summary.json`` holds where the measurement was not asked for.
        job: what it is part of.
    """

    name: ClassVar[str]
    stage: ClassVar[str]
    table: ClassVar[str]
    schema: ClassVar[pa.Schema]
    others: ClassVar[Mapping[str, pa.Schema]] = {}
    blank: ClassVar[Mapping[str, Any]] = {}
    job: Job

    def __init__(self, job: Job) -> None:
        """Prepare the measurement, before any forward pass.

        Raises:
            InputError: the config asks for what the data do not have.
        """
        self.job = job

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """Whether a job's config asks for it, and the task has it; every job's unless a measurement says more."""
        return True

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """Refuse, before data are read, what the config alone shows to be of no use.

        Args:
            config: the job's.
            task: the benchmark.
            last: L, the model's last layer; None where its files do not tell.

        Raises:
            InputError: the config asks for what the task or the model does not have.
        """

    def units(self) -> Iterator[Unit]:
        """What is to be computed, in order; tables of the measurements before it are there by then."""

    def tell(self) -> Told:
        """What came of it, from the table; in the main process alone."""

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """A language's row of ``summary.json`` as flat numbers by name, for W&B's summary; none by default."""
        return {}


def tables_of(one: Measurement | type[Measurement]) -> dict[str, pa.Schema]:
    """All tables of a measurement: its own first."""
    return {one.table: one.schema, **getattr(one, "others", {})}
