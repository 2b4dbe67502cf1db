"""Similarity of states with those of English translations, layer by layer: ``representations.parquet``."""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from rich.table import Table
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.config import Config
from align_pipeline.config.representations import REPRESENTATIONS as FAMILIES
from align_pipeline.data.items import Item
from align_pipeline.data.tasks import Pair, ParallelTask
from align_pipeline.engine.pooling import MEAN
from align_pipeline.engine.states import pooled_states
from align_pipeline.figures.style import save, slug
from align_pipeline.measurements.base import Columns, Job, Told, Unit, layers
from align_pipeline.measurements.representations.figures import LABELS, by_layer
from align_pipeline.measurements.representations.measures import measures
from align_pipeline.measurements.representations.statistics import KEYS, middle_third
from align_pipeline.measurements.representations.table import REPRESENTATIONS
from align_pipeline.tracking.wandb import Curve

POOLINGS = ("last", MEAN)
MEASURES = tuple(name for names in FAMILIES.values() for name in names)
_PRINTED = ("cosine_centred", "cka", "retrieval_xx_en", "neighbours")


class Representations:
    """How similar the states of parallel sentences are, by measures that use no answer options."""

    name: ClassVar[str] = "representations"
    stage: ClassVar[str] = "extraction"
    table: ClassVar[str] = "representations"
    schema: ClassVar[pa.Schema] = REPRESENTATIONS
    others: ClassVar[Mapping[str, pa.Schema]] = {}
    blank: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, job: Job) -> None:
        self.job = job
        self.measures = [name for family in job.config.representations for name in FAMILIES[family]]
        self._english: dict[str, dict[str, Tensor]] = {}

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return bool(config.representations)

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        if last is not None:
            layers(config, last)

    def units(self) -> Iterator[Unit]:
        """One unit per language, with all measures and layers, whichever are reported."""
        for pair in self.job.pairs:
            what, compute = f"Compared states of {pair.language.language}", functools.partial(self._compute, pair)
            rows, lines = functools.partial(self._rows, pair), functools.partial(self._curves, pair)
            yield Unit("representations", _texts(pair), what, compute, rows, is_prompted=False, curves=lines)

    def _compute(self, pair: Pair) -> dict[str, Tensor]:
        pivot, other = pair.english.pivot, pair.language.by_id()
        layers(self.job.config, self.job.lm.num_layers)  # before the passes: a layer that does not exist fails at once
        if pivot not in self._english:
            self._english.clear()  # pairs are roughly grouped by pivot; states are large
            self._english[pivot] = self._states(f"Premises of English ({pivot})", pair.english.items)
        language = self._states(f"Premises of {pair.language.language}", [other[item_id] for item_id in pair.ids])
        place = {item.id: row for row, item in enumerate(pair.english.items)}
        with self.job.stages.stage("representations", f"Compared {pair.language.language} with English"):
            return compared(
                self._english[pivot], language, [place[item_id] for item_id in pair.ids], self.job.lm.device
            )

    def _states(self, what: str, items: Sequence[Item]) -> dict[str, Tensor]:
        """The premises' states by pooling, [L + 1, N, D]."""
        lm, budget = self.job.lm, self.job.config.batch_tokens
        encoded = lm.encode([item.premise for item in items])
        texts = [[lm.limit(t, f"The text of item {i.id}")] for i, t in zip(items, encoded, strict=True)]
        with self.job.stages.stage("representations", what, len(items)) as advance:
            found = pooled_states(lm, texts, [item.id for item in items], POOLINGS, budget, advance)
        return {pooling: states[:, :, 0] for pooling, states in found.items()}

    def _rows(self, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        value, chance = tensors["value"].numpy(), tensors["chance"].numpy()
        self.job.num_layers = value.shape[1] - 1
        shown = layers(self.job.config, self.job.num_layers)
        for measure in self.measures:
            for p, pooling in enumerate(POOLINGS):
                yield {
                    "model": self.job.config.model.name,
                    "task": self.job.task.name,
                    "language": pair.language.language,
                    "pivot": pair.english.pivot,
                    "measure": measure,
                    "pooling": pooling,
                    "layer": np.array(shown, dtype=np.int32),
                    "value": value[p, shown, MEASURES.index(measure)],
                    "chance": chance[p, shown, MEASURES.index(measure)],
                    "n": np.full(len(shown), len(pair.ids), dtype=np.int32),
                }

    def _curves(self, pair: Pair, tensors: dict[str, Tensor]) -> list[Curve]:
        return list(_curves(pd.concat([pd.DataFrame(part) for part in self._rows(pair, tensors)])))

    def tell(self) -> Told:
        """See `Measurement`."""
        table = self.job.table(self.table)
        by_curve = {key: rows for key, rows in table.groupby(KEYS, sort=False)}  # noqa: C416 (dict() takes no GroupBy)
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for row in middle_third(table, self.job.num_layers).to_dict("records"):
            language, pivot, measure, pooling = key = tuple(row[name] for name in KEYS)
            rows = by_curve[key]
            told = {"middle": row["value"], "middle_chance": row["chance"]}
            told |= {name: rows[name].tolist() for name in ("layer", "value", "chance")}
            found.setdefault((language, pivot), {}).setdefault(measure, {})[pooling] = told
        return Told(
            {key: {"representations": one} for key, one in found.items()},
            list(_curves(table)),
            [path for pooling, rows in table.groupby("pooling", sort=False) for path in self._draw(pooling, rows)],
            printed=[_printed(found)],
        )

    def _draw(self, pooling: Any, rows: pd.DataFrame) -> list[Any]:
        name = slug(f"representations_{self.job.task.name}_{pooling}")
        return save(functools.partial(by_layer, rows), self.job.folder / name, ("png",))

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        return {
            f"{measure}_{pooling}_middle": told["middle"]
            for measure, poolings in row.get("representations", {}).items()
            for pooling, told in poolings.items()
            if math.isfinite(told["middle"])
        }


def compared(
    english: Mapping[str, Tensor], language: Mapping[str, Tensor], rows: Sequence[int], device: torch.device
) -> dict[str, Tensor]:
    """All measures, a layer at a time, each in one of the processes.

    Args:
        english: E's states by pooling, [L + 1, items, D].
        language: X's, [L + 1, N, D].
        rows: for each of the N, its item in `english`.
        device: where to compute.

    Returns:
        ``value`` and ``chance`` in float64, [POOLINGS, L + 1, MEASURES].
    """
    last = len(language[POOLINGS[0]])
    work = [(pooling, layer) for pooling in POOLINGS for layer in range(last)]
    chosen = torch.tensor(rows)

    def run(piece: tuple[str, int]) -> list[tuple[float, float]]:
        pooling, layer = piece
        e, x = english[pooling][layer], language[pooling][layer]
        found = measures(e[chosen.to(e.device)].to(device), x.to(device))
        return [found[name] for name in MEASURES]

    numbers = torch.tensor(distributed.each(work, [1.0] * len(work), run), dtype=torch.float64)
    value, chance = numbers.reshape(len(POOLINGS), last, len(MEASURES), 2).unbind(dim=-1)
    return {"value": value.contiguous(), "chance": chance.contiguous()}


def _curves(table: pd.DataFrame) -> Iterator[Curve]:
    defined = table[table["value"].notna()]
    for (language, _, measure, pooling), rows in defined.groupby(KEYS, sort=False):
        name = f"{measure}_{pooling}"
        yield Curve(name, str(language), rows["layer"].tolist(), rows["value"].tolist(), "representations")


def _printed(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    """Some of the measures, as a console table."""
    made = Table(
        title="Representations: mean over tokens, middle third of the layers",
        caption="In brackets: the same of sentences that are not translations. All measures: representations.parquet.",
        title_justify="left",
        caption_justify="left",
    )
    shown = [name for name in _PRINTED if any(name in one for one in found.values())]
    shown = shown or list(next(iter(found.values())))
    made.add_column("language", no_wrap=True)
    for name in shown:
        made.add_column(LABELS[name].replace(" ", "\n", 1), justify="right")
    for (language, _), one in found.items():
        made.add_row(language, *(_cell(one[name][MEAN]) for name in shown))
    return made


def _cell(told: Mapping[str, float]) -> str:
    value, chance = (f"{told[key]:z.2f}" if math.isfinite(told[key]) else "" for key in ("middle", "middle_chance"))
    return f"{value or '–'}{f' ({chance})' if chance else ''}"


def _texts(pair: Pair) -> str:
    """Digest of all texts that the pair's numbers depend on, in order."""
    own, other = pair.language.by_id(), pair.english.by_id()
    return hashlib.sha256(repr([(own[i].premise, other[i].premise) for i in pair.ids]).encode()).hexdigest()
