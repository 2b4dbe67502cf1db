"""How many items are aligned with each pivot's: ``pivots.parquet``."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.config import Config
from align_pipeline.config.pivots import ENGLISH_ONLY
from align_pipeline.data.items import ENGLISH
from align_pipeline.data.tasks import Pair, ParallelTask, sides_of
from align_pipeline.errors import InputError
from align_pipeline.measurements.alignment.measure import metrics_of, texts_of
from align_pipeline.measurements.alignment.metrics import Guessed, Metric, Number
from align_pipeline.measurements.alignment.similarity import (
    EnglishStates,
    OptionCosines,
    PremiseStream,
    Similarities,
    equal_texts,
    option_cosines,
    option_twins,
)
from align_pipeline.measurements.base import Columns, Job, Measurement, Told, Unit, layers
from align_pipeline.measurements.pivots.states import KeptStates
from align_pipeline.measurements.pivots.table import PIVOTS

log = logging.getLogger(__name__)


class Pivots(Measurement):
    """Alignment of every language with every pivot."""

    name: ClassVar[str] = "pivots"
    stage: ClassVar[str] = "pivots"
    table: ClassVar[str] = "pivots"
    schema: ClassVar[pa.Schema] = PIVOTS

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.metrics = counted(job.config)
        self.pairs = job.every_pair
        left_out = sum(sum(pair.left_out.values()) for pair in self.pairs if pair.english.language != ENGLISH)
        log.info(
            "Pivots: %d pairs of a language and a pivot; in the mean pair %.1f items are left out, because they are "
            "missing or have another right answer or number of options in one of the two.",
            *(len(self.pairs), left_out / max(len(self.pairs) - len(job.pairs), 1)),
        )
        self.states = KeptStates(job, list(sides_of(self.pairs).values()))
        if job.config.layers == "all" and distributed.size() == 1:
            job.known["states"] = self.states  # alignment with English needs the same states, at all layers

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return bool(config.pivot != ENGLISH_ONLY)

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        if not counted(config):
            raise InputError("pivot counts aligned items, but the metrics give numbers; add metric=dali to them.")
        if last is not None:
            layers(config, last)

    def units(self) -> Iterator[Unit]:
        """One unit per pair of a language and a pivot."""
        for pair in self.pairs:
            texts = hashlib.sha256(f"{texts_of(pair)} {self.job.config.layers}".encode()).hexdigest()
            what = f"Compared {pair.language.language} with {pair.english.language}"
            compute, rows = functools.partial(self._compute, pair), functools.partial(self._rows, pair)
            yield Unit("similarities, pivot, ties", texts, what, compute, rows, is_prompted=False)

    def _compute(self, pair: Pair) -> dict[str, Tensor]:
        asked = layers(self.job.config, self.job.lm.num_layers)
        pivot, language = self.states(pair.english), self.states(pair.language)
        if not distributed.is_main():
            return {}
        found = compared(pair, pivot, language, self.job.lm.device)
        assert len(next(iter(found.premises.values())).own) == len(asked)
        return found.tensors() | {"num_layers": torch.tensor(self.job.lm.num_layers)}

    def _rows(self, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        self.job.num_layers = int(tensors.pop("num_layers"))
        every = Similarities.from_tensors(tensors)
        asked = np.array(layers(self.job.config, self.job.num_layers), dtype=np.int32)
        groups = {name: self._right(pair, name == "ts") for name in ("ts", "tf")}
        for name, metric in self.metrics.items():
            aligned = (metric.margin(every) > 0).cpu().numpy()
            counts = {"aligned": aligned.sum(axis=1).astype(np.int32)}
            for group, member in groups.items():
                counts[group] = np.full(len(asked), member.sum(), dtype=np.int32)
                counts[f"aligned_{group}"] = aligned[:, member].sum(axis=1).astype(np.int32)
            yield {
                "model": self.job.config.model.name,
                "task": self.job.task.name,
                "language": pair.language.language,
                "pivot": pair.english.language,
                "set": pair.language.pivot,
                "pivot_set": pair.english.pivot,
                "metric": name,
                "pooling": metric.pooling,
                "layer": asked,
                "n": np.full(len(asked), len(pair.ids), dtype=np.int32),
                "chance": by_chance(metric, every),
                **counts,
            }

    @functools.cached_property
    def _answers(self) -> dict[tuple[str, str], pd.Series[Any]]:
        """Whether each item is right, by language and English set; none if the task has no answers."""
        table = self.job.table("predictions")
        if table.empty:
            return {}
        sides = table.astype({"language": str, "pivot": str}).groupby(["language", "pivot"])
        return {(str(a), str(b)): rows.set_index("item_id")["correct"] == 1 for (a, b), rows in sides}

    def _right(self, pair: Pair, in_language: bool) -> np.ndarray[Any, Any]:
        """[items]: right in the pivot, and right or wrong in the language."""
        own, other = (self._answers.get((s.language, s.pivot)) for s in (pair.language, pair.english))
        if own is None or other is None:
            return np.zeros(len(pair.ids), dtype=bool)
        ids = list(pair.ids)
        found: np.ndarray[Any, Any] = other.loc[ids].to_numpy() & (own.loc[ids].to_numpy() == in_language)
        return found

    def tell(self) -> Told:
        """See `Measurement`."""
        from align_pipeline.inference.pivots import layer_of  # loads scipy.stats, which other jobs do not need

        table = self.job.table(self.table).astype({"language": str, "pivot": str, "metric": str, "pooling": str})
        rows: dict[tuple[str, str], dict[str, Any]] = {
            (pair.language.language, pair.english.pivot): {"pivots": {}} for pair in self.job.pairs
        }
        for name, part in table.groupby("metric", sort=False):
            layer = layer_of(part, self.job.num_layers)
            at = part[part["layer"] == layer]
            keys = zip(at["language"], at["set"].astype(str), at["pivot"], at["aligned"] / at["n"], strict=True)
            for language, own_set, pivot, share in keys:
                told = rows[language, own_set]["pivots"].setdefault(str(name), {"layer": layer})
                told[pivot] = float(share)
        return Told(rows)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        return {
            f"{metric}_with_{pivot}": share
            for metric, told in row.get("pivots", {}).items()
            for pivot, share in told.items()
            if pivot != "layer"
        }


def counted(config: Config) -> dict[str, Metric]:
    """The metrics by which an item is aligned or not; those that give numbers are compared with English only."""
    return {name: metric for name, metric in metrics_of(config).items() if not isinstance(metric, Number)}


def compared(pair: Pair, pivot: EnglishStates, language: EnglishStates, device: torch.device) -> Similarities:
    """The cosines of a pair, as `alignment.similarity.similarities` computes them, but for those of mismatched items.

    Args:
        pair: the items.
        pivot: the pivot's states, for E in the notation of `similarity`.
        language: the language's.
        device: where to compute.
    """
    n = len(pair.language.by_id()[pair.ids[0]].options)
    rows = [[states.position[i] for i in pair.ids] for states in (pivot, language)]
    tokens = [[side.tokens[row] for row in of] for side, of in zip((pivot, language), rows, strict=True)]
    twins_e, twins_x = (option_twins(texts, n).to(device) for texts in tokens)
    groups_e, groups_x = (equal_texts([texts[-1] for texts in side]).to(device) for side in tokens)
    options, premises = {}, {}
    for pooling in pivot.states:
        e, x = (side.states[pooling][:, of].to(device) for side, of in zip((pivot, language), rows, strict=True))
        stream = PremiseStream(e[:, :, -1], groups_e, groups_x)
        stream.language = x[:, :, -1]
        premises[pooling] = stream.cosines()
        if n:
            none = torch.zeros(*x.shape[:2], 0, n, n)
            found = option_cosines(e[:, :, :n].float(), x[:, :, :n].float(), twins_e, twins_x)
            options[pooling] = OptionCosines(**found, mismatched=none)
    return Similarities(options, premises)


def by_chance(metric: Metric, every: Similarities) -> np.ndarray[Any, Any]:
    """[layers]: the share of aligned items with options reordered (DALI) or as the metric says (MEXA), else NaN."""
    if isinstance(metric, Guessed):
        return metric.by_chance(every).double().mean(dim=1).cpu().numpy()
    if metric.needs == "options":
        variants = [(metric.margin(one) > 0).double().mean(dim=1) for one in every.deranged()]
        if variants:
            return torch.stack(variants).mean(dim=0).cpu().numpy()
    return np.full(len(next(iter(every.premises.values())).own), np.nan)
