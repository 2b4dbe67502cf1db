"""The interface between `pipeline` and a measurement.

To add a measurement, write a class with the members of `Measurement` in a folder of its own, and add a line to
`measurements.BUILT_IN`. A class in another package is found by an entry point of the group
``align_pipeline.measurements``.

Its section of the report is a `page.part.Section`, listed in `measurements.SECTIONS` or in an entry point of the group
``align_pipeline.sections``.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pandas as pd
import pyarrow as pa
from rich.table import Table as Printed
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.config.lang import Language
from align_pipeline.config.pivots import ENGLISH_ONLY
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import ItemSet, Pair, ParallelTask
from align_pipeline.data.tasks.pairs import pair as paired
from align_pipeline.engine.loading import load, parameters
from align_pipeline.engine.model import LanguageModel
from align_pipeline.errors import InputError
from align_pipeline.tracking.console import Stages
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)

Columns = dict[str, Any]
"""The rows of a table by column: a sequence of values, or one text for all rows."""


@dataclass(frozen=True)
class Unit:
    """One computation, stored as one cache entry.

    Attributes:
        kind: names the computation in the cache key.
        texts: digest of everything that the numbers depend on, except the model.
        what: a description, for the console and the cache's list.
        compute: runs the forward passes and returns tensors by name; called in all processes on a cache miss.
        others: like `rows`, for the measurement's other tables, by table name.
        is_prompted: whether the texts are prompts, which ``model.chat_template`` changes.
        rows: turns the tensors of `compute` into rows of the table, in one or more chunks; main process only.
        curves: the unit's values by layer, for W&B while the job runs; called after `rows`.
        numbers: the unit's numbers by name, likewise.
    """

    kind: str
    texts: str
    what: str
    compute: Callable[[], dict[str, Tensor]]
    rows: Callable[[dict[str, Tensor]], Iterable[Columns]]
    is_prompted: bool = True
    others: Mapping[str, Callable[[dict[str, Tensor]], Iterable[Columns]]] = field(default_factory=dict)
    curves: Callable[[dict[str, Tensor]], Sequence[Curve]] = lambda tensors: ()
    numbers: Callable[[dict[str, Tensor]], Mapping[str, float]] = lambda tensors: {}


@dataclass(frozen=True)
class Watcher:
    """Uses the premises' states of a pass that an earlier measurement makes anyway.

    Attributes:
        poolings: the poolings that it needs, given the model.
        take: called after the pass, in all processes, with the pair and E's and X's states by pooling, each
            [layers, N, D] in the order of `Pair.ids`. They are not kept.
    """

    poolings: Callable[[LanguageModel], Sequence[str]]
    take: Callable[[Pair, Mapping[str, Tensor], Mapping[str, Tensor]], None]


ASSUMED = "assumed"
"""Key of `Job.known`, in a dry run: what a measurement assumes of results that earlier ones do not have yet."""


@dataclass
class Job:
    """The job, as its measurements see it.

    Attributes:
        config: the typed config.
        task: the benchmark.
        source: where the task's rows come from.
        languages: the selected languages that the task has.
        pairs: each language's items, paired with the English ones.
        stages: times and logs the stages of the job.
        folder: where tables and figures go.
        num_layers: L, set by the first computation; 0 before.
        known: values that one measurement computes and another may use, by name.
        given: a model that is in memory already, used instead of the config's.
        watchers: later measurements that use the premises' states of the alignment pass.
        dry: whether the job is only planned: earlier measurements' tables may lack rows.
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
    given: LanguageModel | None = None
    watchers: list[Watcher] = field(default_factory=list)
    dry: bool = False

    @functools.cached_property
    def lm(self) -> LanguageModel:
        """The model, loaded at first use."""
        if self.given is not None:
            return self.given
        log.info("Loading %s (%s) ...", self.config.model.name, self.config.model.path)
        with self.stages.stage("model", f"Loaded {self.config.model.name}"):
            return load(self.config.model)

    @property
    def parameters(self) -> int | None:
        """Number of the model's parameters, as far as it is known; the model is not loaded for it."""
        return parameters(self.config.model) if self.given is None else self.given.parameters

    @functools.cached_property
    def every_pair(self) -> list[Pair]:
        """Each language with English and then with every other pivot of ``pivot=``; no language is its own pivot.

        Raises:
            InputError: two languages share no item.
        """
        codes = {code: language.flores for code, language in self.config.languages.items()}
        pivots = [codes[code] for code in self.config.pivot if code not in ENGLISH_ONLY]
        own = {pair.language.language: pair.language for pair in self.pairs}
        pairs = []
        for pair in self.pairs:
            pairs.append(pair)
            for pivot in pivots:
                if pivot in own and pivot != pair.language.language:
                    made = paired(pair.language, own[pivot], self.task.limit, logging.DEBUG)
                    pairs.append(replace(made, language=pair.language))  # the same object as with English
        return pairs

    @property
    def last_layers(self) -> dict[str, int]:
        """Layer L of the model, if it is known yet."""
        return {self.config.model.name: self.num_layers} if self.num_layers else {}

    def columns(self, side: ItemSet) -> Columns:
        """The columns that say what a table's rows are of."""
        return {
            "model": self.config.model.name,
            "task": self.task.name,
            "language": side.language,
            "pivot": side.pivot,
        }

    def table(self, name: str) -> pd.DataFrame:
        """A table that an earlier measurement of the job wrote; empty if there is none. Main process only."""
        path = self.folder / f"{name}.parquet"
        return pd.read_parquet(path) if path.exists() else pd.DataFrame()


@dataclass(frozen=True)
class Column:
    """A column of the console table.

    Attributes:
        head: its heading.
        cell: makes a language's text from its row of ``summary.json``.
        no_wrap: whether its cells stay on one line.
    """

    head: str
    cell: Callable[[Mapping[str, Any]], str]
    no_wrap: bool = False


@dataclass(frozen=True)
class Told:
    """The results of a measurement, read from its tables.

    Attributes:
        rows: by language and pivot, the entries added to their row of ``summary.json``.
        curves: values by layer, for W&B.
        figures: PNG files in the job's folder.
        columns: columns of the console table.
        caption: a sentence below the console table that explains them.
        printed: further tables for the console.
        place: sort key of columns and captions; lower values come first.
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

    `pipeline` selects the classes whose `asked` returns True and lets each `check` the config. It then reads the data
    and creates one instance of each. It goes through the `units`, computes those that are not in the cache and appends
    their rows to the table. At the end it calls `tell`.

    Attributes:
        name: of the measurement.
        stage: the name in ``summary.json`` under which its tokens are counted.
        table: the table's name; its file is ``<table>.parquet``.
        schema: the table's columns.
        others: further tables and their columns, by name.
        blank: default entries of a language's row of ``summary.json``, for jobs without this measurement.
        job: the job.
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
            InputError: the config asks for something that the data do not have.
        """
        self.job = job

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """Whether the config asks for the measurement and the task supports it. By default it is part of every job."""
        return True

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """Refuse, before data are read, a config that cannot work.

        Args:
            config: the job's.
            task: the benchmark.
            last: L, the model's last layer; None where the model's files do not give it.

        Raises:
            InputError: the config asks for something that the task or the model does not have.
        """

    def units(self) -> Iterator[Unit]:
        """The units to compute, in order. Tables of earlier measurements exist when they run."""

    def tell(self) -> Told:
        """The results, read from the tables; main process only."""

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """A language's row of ``summary.json`` as flat numbers by name, for W&B's summary; empty by default."""
        return {}


def digest(value: object) -> str:
    """Digest of what a unit's numbers depend on, from its `repr`."""
    return hashlib.sha256(repr(value).encode()).hexdigest()


def printed(title: str, caption: str, texts: Sequence[str], numbers: Sequence[str], no_wrap: bool = False) -> Printed:
    """An empty table for the console; `texts` and `numbers` are the heads of its columns, `no_wrap` is for texts."""
    made = Printed(title=title, caption=caption, title_justify="left", caption_justify="left")
    for head in texts:
        made.add_column(head, no_wrap=no_wrap, overflow="fold")
    for head in numbers:
        made.add_column(head, justify="right", overflow="fold")
    return made


def tables_of(one: Measurement | type[Measurement]) -> dict[str, pa.Schema]:
    """All tables of a measurement, its main table first."""
    return {one.table: one.schema, **getattr(one, "others", {})}


def layers(config: Config, last: int) -> list[int]:
    """The layers to report, for a model with last layer `last`.

    Raises:
        InputError: the config asks for a layer that the model does not have.
    """
    asked = config.layers
    if asked == "all":
        return list(range(last + 1))
    outside = [k for k in asked if not 0 <= k <= last]
    if outside:
        raise InputError(f"layers contains {outside[0]}, but {config.model.name} has layers 0 to {last}.")
    return list(asked)
