"""Whether a language's items are closest to their English counterparts, layer by layer: ``alignment.parquet``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from hydra.utils import instantiate
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.data.items import Item
from align_pipeline.data.tasks import Pair, ParallelTask
from align_pipeline.errors import InputError
from align_pipeline.figures.curves import layer_curves as draw
from align_pipeline.measurements.alignment.metrics import Guessed, Metric, Mexa, Number, of_items
from align_pipeline.measurements.alignment.similarity import (
    EnglishStates,
    Similarities,
    english_states,
    similarities,
)
from align_pipeline.measurements.alignment.table import ALIGNMENT, BASELINES
from align_pipeline.measurements.base import Column, Columns, Job, Measurement, Told, Unit, digest, layers
from align_pipeline.page.numbers import layer_range
from align_pipeline.tracking.wandb import Curve

COMMON_N = 100
"""MEXA decreases with the number of sentences; its published numbers use this many."""


class Alignment(Measurement):
    """The number of items aligned with English."""

    name: ClassVar[str] = "alignment"
    stage: ClassVar[str] = "extraction"
    table: ClassVar[str] = "alignment"
    schema: ClassVar[pa.Schema] = ALIGNMENT
    others: ClassVar[Mapping[str, pa.Schema]] = {"baselines": BASELINES}
    blank: ClassVar[Mapping[str, Any]] = {"metrics": {}}

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.metrics = metrics_of(job.config)
        self._english: dict[str, EnglishStates] = {}

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return bool(config.metrics)

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        for name, metric in metrics_of(config).items():
            if metric.needs not in task.offers:
                raise InputError(
                    f"metric={name} compares {metric.needs}, but {task.name} only has "
                    f"{' and '.join(sorted(task.offers))}; use metric="
                    f"{'[mexa]' if 'sentences' in task.offers else '[dali,dali_strong,mexa_t]'}."
                )
        if last is not None:
            layers(config, last)

    def units(self) -> Iterator[Unit]:
        """One unit per language; all metrics and layers are computed from the same cosines."""
        for pair in self.job.pairs:
            what, compute = f"Embedded {pair.language.language}", functools.partial(self._compute, pair)
            rows = functools.partial(self._rows, pair)
            others = {"baselines": functools.partial(self._baselines, pair)}
            curves = functools.partial(self._curves, pair)
            kind = "similarities, chance, ties"  # older entries lack chance, or count rounded ties as aligned
            yield Unit(kind, texts_of(pair), what, compute, rows, is_prompted=False, others=others, curves=curves)

    def _compute(self, pair: Pair) -> dict[str, Tensor]:
        lm, budget, pivot = self.job.lm, self.job.config.batch_tokens, pair.english.pivot
        layers(self.job.config, lm.num_layers)  # before the passes: a layer that does not exist fails at once
        kept = self.job.known.get("states")
        if kept is not None and not self.job.watchers:  # who watches needs further poolings
            english, language = kept(pair.english), kept(pair.language)
            return similarities(lm, pair, english, budget, lambda texts: None, kept=language).tensors()
        poolings = (pooling for watcher in self.job.watchers for pooling in watcher.poolings(lm) if pooling != "last")
        also = tuple(dict.fromkeys(poolings))
        watched: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = []
        if pivot not in self._english:
            self._english.clear()  # pairs are roughly grouped by pivot; states are large
            with self._stage(f"Embedded English ({pivot})", pair.english.items) as advance:
                self._english[pivot] = english_states(lm, pair.english, budget, advance, also)
        with self._stage(f"Embedded {pair.language.language}", pair.language.items) as advance:
            found = similarities(
                lm, pair, self._english[pivot], budget, advance, also, lambda *both: watched.append(both)
            )
        for watcher in self.job.watchers:
            watcher.take(pair, *watched[0])
        return found.tensors()

    def _stage(self, what: str, items: Sequence[Item]) -> AbstractContextManager[Any]:
        return self.job.stages.stage("extraction", what, len(items) * (len(items[0].options) + 1))

    def _rows(self, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        every = Similarities.from_tensors(tensors)
        self.job.num_layers = len(next(iter(every.premises.values())).own) - 1
        chosen = every.at(layers(self.job.config, self.job.num_layers))
        for name, metric in self.metrics.items():
            columns = self._columns(pair, name, metric.pooling)
            if isinstance(metric, Number):
                margin = metric.numbers(chosen).cpu().numpy().astype(np.float32)
                refuse_infinite(name, margin, columns)
                yield columns | {"value": [None] * margin.size, "margin": margin.ravel()}
                continue
            margin = metric.margin(chosen).cpu().numpy()
            yield columns | {"value": (margin > 0).astype(np.int8).ravel(), "margin": margin.ravel()}

    def _curves(self, pair: Pair, tensors: dict[str, Tensor]) -> list[Curve]:
        asked = layers(self.job.config, self.job.num_layers)
        every = Similarities.from_tensors(tensors).at(asked)
        shares = {name: of_items(metric, every).mean(dim=1) for name, metric in self.metrics.items()}
        return [Curve(name, pair.language.language, asked, share.tolist()) for name, share in shares.items()]

    def _columns(self, pair: Pair, metric: str, pooling: str) -> Columns:
        """The key columns of both tables, layer by layer and item by item."""
        asked = layers(self.job.config, self.job.num_layers)
        return {
            **self.job.columns(pair.language),
            "metric": metric,
            "pooling": pooling,
            "layer": np.repeat(np.array(asked, dtype=np.int32), len(pair.ids)),
            "item_id": np.tile(np.array(pair.ids, dtype=object), len(asked)),
        }

    def _baselines(self, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        """Chance levels of the metrics, and MEXA at the number of sentences that data sets have in common."""
        every = Similarities.from_tensors(tensors).at(layers(self.job.config, self.job.num_layers))
        clusters = np.array([own.cluster or own.id for own, _ in pair.items()], dtype=object)
        for name, metric in self.metrics.items():
            for kind, value, n in baselines(metric, every):
                yield self._columns(pair, name, metric.pooling) | {
                    "cluster": np.tile(clusters, len(value)),
                    "kind": kind,
                    "value": value.cpu().numpy().astype(np.float32).ravel(),
                    "n": np.full(value.numel(), n, dtype=np.int32),
                }

    def tell(self) -> Told:
        """See `Measurement`."""
        alignment, chance = averaged(self.job.table(self.table)), self.job.table("baselines")
        found, by_chance = curves(alignment), mismatched(chance)
        rows = {
            (pair.language.language, pair.english.pivot): {
                "metrics": {
                    curve.metric: reduced(curve, self.job.num_layers, by_chance)
                    for curve in found
                    if curve.language == pair.language.language
                }
            }
            for pair in self.job.pairs
        }
        numbers = [name for name, metric in self.metrics.items() if isinstance(metric, Number)]
        columns = [
            Column(
                f"{name}\nmax{' mean' if name in numbers else ''} @layer, chance",
                functools.partial(_cell, name, name in numbers),
                no_wrap=True,
            )
            for name in self.metrics
        ]
        last = self.job.num_layers
        where = _over(layers(self.job.config, last), last)
        share = "" if len(numbers) == len(self.metrics) else "share of aligned items"
        mean = f"mean over items ({', '.join(numbers)})" if numbers else ""
        shown = " or ".join(filter(None, [share, mean]))
        caption = f"Metrics: {shown}, {where}, and that of mismatched items at the same layer."
        return Told(rows, found, draw(alignment, self.job.folder, chance), columns, caption, place=1)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        found = row["metrics"].items()
        keys = ("best_layer", "max", "mean", "chance")
        return {f"{metric}_{key}": told[key] for metric, told in found for key in keys if told[key] is not None}


def baselines(metric: Metric | Number, every: Similarities) -> Iterator[tuple[str, Tensor, int]]:
    """Kind, values [layers, items] and n of each baseline of a metric; see `BASELINES`."""
    if metric.needs == "options" and every.options:
        for kind, variants in (("mismatched", list(every.mismatched())), ("deranged", list(every.deranged()))):
            if variants:
                aligned = [of_items(metric, variant).float() for variant in variants]
                yield kind, torch.stack(aligned).mean(dim=0), len(variants)
    if isinstance(metric, Guessed):
        size = every.premises[metric.pooling].own.shape[1]
        if size > 1:
            yield "mismatched", metric.by_chance(every), size - 1
        if size > COMMON_N and isinstance(metric, Mexa):
            yield "common_n", metric.among(every, COMMON_N), COMMON_N


def refuse_infinite(name: str, numbers: np.ndarray[Any, Any], columns: Columns) -> None:
    """Refuse a metric's numbers, of which one is not finite.

    Raises:
        InputError: there is one; names layer and item.
    """
    bad = np.flatnonzero(~np.isfinite(numbers.ravel()))
    if len(bad):
        where = f"item {columns['item_id'][bad[0]]} of {columns['language']}, layer {columns['layer'][bad[0]]}"
        raise InputError(f"metric={name} gives {numbers.ravel()[bad[0]]} for {where}; its numbers must be finite.")


def metrics_of(config: Config) -> dict[str, Metric | Number]:
    """Instances of the metrics that the config names.

    Raises:
        InputError: a class is no metric.
    """
    found = {name: instantiate(one) for name, one in config.metrics.items()}
    for name, metric in found.items():
        if hasattr(metric, "margin") == isinstance(metric, Number):
            raise InputError(
                f"metric={name}: {type(metric).__name__} must have either `margin` (aligned where it is above 0) or "
                "`numbers` (shown as they are), and `needs` and `pooling`."
            )
    return found


def averaged(alignment: pd.DataFrame) -> pd.DataFrame:
    """The table with what is averaged over items in `value`: 1 or 0, or a metric's number; `is_number` says which."""
    is_number = alignment["value"].isna()
    return alignment.assign(value=alignment["value"].where(~is_number, alignment["margin"]), is_number=is_number)


def curves(alignment: pd.DataFrame) -> list[Curve]:
    """Share of aligned items, or mean number, per layer, by language and metric; from `averaged`."""
    keys = ["language", "metric", "pooling"]
    shares = alignment.groupby([*keys, "layer"], sort=False)["value"].mean().reset_index()
    return [
        Curve(str(metric), str(language), group["layer"].tolist(), group["value"].tolist())
        for (language, metric, _), group in shares.groupby(keys, sort=False)
    ]


def mismatched(baselines: pd.DataFrame) -> dict[tuple[str, str, int], float]:
    """Chance level by language, metric and layer; see `BASELINES`."""
    rows = baselines[baselines["kind"] == "mismatched"]
    means = rows.groupby(["language", "metric", "layer"], observed=True)["value"].mean().reset_index()
    keys = zip(means["language"].astype(str), means["metric"].astype(str), means["layer"], strict=True)
    return dict(zip(keys, means["value"].tolist(), strict=True))


def reduced(curve: Curve, num_layers: int, chances: Mapping[tuple[str, str, int], float]) -> dict[str, Any]:
    """Maximum of a curve, its layer, the chance level there, and the mean, over layers 0..L-1, or L if it is alone.

    Args:
        curve: shares by layer.
        num_layers: L; its state comes after the final norm.
        chances: from `mismatched`; a job of a single item has none.
    """
    inner = [(k, v) for k, v in zip(curve.layers, curve.values, strict=True) if k < num_layers]
    inner = inner or list(zip(curve.layers, curve.values, strict=True))
    best, value = max(inner, key=lambda point: (point[1], -point[0]))
    return {
        "best_layer": best,
        "max": value,
        "chance": chances.get((curve.language, curve.metric, best)),
        "mean": math.fsum(v for _, v in inner) / len(inner),
        "layers": list(curve.layers),
        "values": list(curve.values),
    }


def _over(reported: Sequence[int], last: int) -> str:
    """The layers that `reduced` uses, in words."""
    inner = [k for k in reported if k < last]
    if len(inner) == last:
        return "over the layers before the final norm"
    shown = inner or reported
    behind = "" if inner else ", after the final norm"
    return f"over only layer{'s' if len(shown) > 1 else ''} {layer_range(shown)}{behind}"


def _cell(metric: str, is_number: bool, row: Mapping[str, Any]) -> str:
    told = row["metrics"][metric]
    chance = "–" if told["chance"] is None else f"{told['chance']:.3f}"
    # Without an aligned item, no layer is the best.
    at = f" @{told['best_layer']}" if told["max"] > 0 or is_number else ""
    return f"{told['max']:.3f}{at}, {chance}"


def texts_of(pair: Pair) -> str:
    """Digest of all texts that the pair's similarities depend on, in order."""
    return digest([(own.options, own.premise, other.options, other.premise) for own, other in pair.items()])
