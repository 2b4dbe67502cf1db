"""Compute units, or read them from the cache, and write their tables. Works with any number of processes."""

from __future__ import annotations

import contextlib
import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.data.tasks import sides_of
from align_pipeline.engine.identity import model_key
from align_pipeline.errors import InputError, writing
from align_pipeline.measurements.base import Job, Measurement, Unit, tables_of
from align_pipeline.store.cache import Cache
from align_pipeline.store.tables import Table, table
from align_pipeline.tracking.live import Live

log = logging.getLogger(__name__)
_TRUNCATED = "truncated"


@dataclass
class Passes:
    """Runs the units of a job and counts their tokens.

    Attributes:
        job: holds the model, which is loaded at the first cache miss.
        cache: the store of earlier results.
        live: W&B's run of the job.
        truncated: number of texts truncated so far, in cached passes too.
        tokens: tokens that went through the model so far in all processes, by stage: (without padding, with padding).
        seconds: time of the computations so far, by stage; loading the model is not part of it.
    """

    job: Job
    cache: Cache
    live: Live
    truncated: int = 0
    tokens: dict[str, tuple[int, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    _computing: float = 0.0

    @functools.cached_property
    def model_key(self) -> Mapping[str, Any]:
        """Everything about the model that its numbers depend on, as part of the cache key."""
        if self.job.given is not None:  # such a job has no cache
            return {}
        key = model_key(self.job.config.model)
        if distributed.from_main(key is None):  # the model is not on this machine yet: loading downloads it
            key = model_key(self.job.config.model) if self.job.lm else None
        assert key is not None or not distributed.is_main()
        return key or {}

    def parameters(self) -> int | None:
        """`Job.parameters`, kept in the cache: counting them imports transformers, which a cached job does not need."""
        if self.job.given is not None:
            return self.job.parameters
        key = {"kind": "parameters", **self.model_key}
        found = self.cache.find(key)
        if found is not None:
            return int(found["parameters"])
        number = self.job.parameters
        if number is not None:
            note = {"model": self.job.config.model.name, "what": "Number of parameters"}
            with contextlib.suppress(InputError):  # a cache that is full or only read costs the next job a count
                self.cache.get(key, lambda: {"parameters": torch.tensor(number)}, note)
        return number

    def write(self, one: Measurement, job: str) -> None:
        """Compute a measurement's units and write its tables, labelled with the job. The main process writes."""
        run_before, computed_before = self._counted()
        computing_before = self._computing
        with contextlib.ExitStack() as stack:
            written: dict[str, Table] = {}
            if distributed.is_main():
                for name, schema in tables_of(one).items():
                    written[name] = stack.enter_context(table(self.job.folder, name, schema, job))
            for unit in one.units():
                tensors = self.get(unit)
                if tensors is None:
                    continue
                for name, rows in {one.table: unit.rows, **unit.others}.items():
                    for columns in rows(tensors):
                        with writing(self.job.folder):
                            written[name].append(**columns)
                if self.live.is_open:  # curves and numbers repeat the metrics, in full, for the dashboard alone
                    self.live.curves(unit.curves(tensors))
                    if numbers := unit.numbers(tensors):
                        self.live.log(numbers)
        run, computed = self._counted()
        self.seconds[one.stage] = self.seconds.get(one.stage, 0.0) + self._computing - computing_before
        before = self.tokens.get(one.stage, (0, 0))
        self.tokens[one.stage] = (before[0] + run - run_before, before[1] + computed - computed_before)
        seconds = self.seconds[one.stage]
        told = {f"tokens/{one.stage}": float(self.tokens[one.stage][0]), f"seconds/{one.stage}": seconds}
        if seconds:
            told[f"tokens_per_second/{one.stage}"] = self.tokens[one.stage][0] / seconds
        self.live.log(told)

    def _counted(self) -> tuple[int, int]:
        run, computed = self.job.lm.counted() if "lm" in vars(self.job) else (0, 0)
        return distributed.total(run), distributed.total(computed)

    def key(self, unit: Unit) -> dict[str, Any]:
        """The key of a unit's entry in the cache."""
        key = {"kind": unit.kind, **self.model_key, "texts": unit.texts}
        if self.job.config.model.chat_template and unit.is_prompted:
            key["chat_template"] = "system message" if self._is_described else True
        return key

    @functools.cached_property
    def _is_described(self) -> bool:
        """Whether the prompts have a description."""
        return any(item.description for side in sides_of(self.job.pairs).values() for item in side.items[:1])

    def get(self, unit: Unit) -> dict[str, Tensor] | None:
        """The tensors of a unit, from the cache or computed; counts truncated texts.

        Returns None in every process but the main one, which writes the tables.
        """
        job, key = self.job, self.key(unit)

        def counted() -> dict[str, Tensor]:
            before = job.lm.truncated  # loads the model, if that is not done yet
            start = time.perf_counter()
            tensors = unit.compute()
            self._computing += time.perf_counter() - start
            return tensors | {_TRUNCATED: torch.tensor([job.lm.truncated - before])}

        note = {"model": job.config.model.name, "task": job.task.name, "what": unit.what}
        got = distributed.kept(lambda computed: self.cache.get(key, computed, note), counted)
        if got is None:
            return None
        tensors, found = got
        if found:
            log.info("%s: taken from the cache", unit.what)
        self.truncated += int(tensors.pop(_TRUNCATED))
        return tensors
