"""Similarity of states with those of English translations, layer by layer: ``representations.parquet``."""

from __future__ import annotations

import functools
import logging
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
from align_pipeline.engine.model import LanguageModel
from align_pipeline.engine.pooling import ACTIVE, MEAN
from align_pipeline.engine.states import pooled_states
from align_pipeline.figures.style import save, slug
from align_pipeline.measurements.base import Columns, Job, Measurement, Told, Unit, Watcher, digest, layers, printed
from align_pipeline.measurements.representations.figures import LABELS, by_layer
from align_pipeline.measurements.representations.measures import active_measures, measures
from align_pipeline.measurements.representations.statistics import KEYS, middle_third
from align_pipeline.measurements.representations.table import REPRESENTATIONS
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)
POOLINGS = ("last", MEAN)
_NUMBERS = ("value", "chance")
_STATES, _MORE, _NEURONS = "representations", "representations, more", "representations, active neurons"
_LATER = dict.fromkeys(("margin", "margin_centred", "neurons_absolute", "ilo"), _MORE)
_LATER |= dict.fromkeys(("neuronxa", "neuron_overlap"), _NEURONS)
KINDS = {
    kind: [name for names in FAMILIES.values() for name in names if _LATER.get(name, _STATES) == kind]
    for kind in (_STATES, _MORE, _NEURONS)
}
"""Kinds of units with their measures, in the order of their tensors. A measure that is added needs a new kind, so that
the cached values of the others stay valid."""
_WHAT = {_STATES: "states", _MORE: "neighbours and neurons", _NEURONS: "active neurons"}
_PRINTED = ("cosine_centred", "cka", "retrieval_xx_en", "neighbours", "neuronxa")


class Representations(Measurement):
    """How similar the states of parallel sentences are, by measures that use no answer options."""

    name: ClassVar[str] = "representations"
    stage: ClassVar[str] = "extraction"
    table: ClassVar[str] = "representations"
    schema: ClassVar[pa.Schema] = REPRESENTATIONS

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.measures = [name for family in job.config.representations for name in FAMILIES[family]]
        self.kinds = [kind for kind, names in KINDS.items() if set(names) & set(self.measures)]
        self._english: dict[str, dict[str, Tensor]] = {}
        self._found: dict[tuple[str, str], dict[str, dict[str, Tensor]]] = {}
        job.watchers.append(Watcher(self._poolings, self._take))

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
        """Up to three units per language, each with all its measures and layers, whichever are reported.

        If the job measures alignment too, its pass gives the states, and the units only return what was computed then.
        """
        for pair in self.job.pairs:
            texts = digest([(own.premise, other.premise) for own, other in pair.items()])
            for kind in self.kinds:
                what = f"Compared {_WHAT[kind]} of {pair.language.language}"
                compute, rows = functools.partial(self._compute, kind, pair), functools.partial(self._rows, kind, pair)
                lines = functools.partial(self._curves, kind, pair)
                yield Unit(kind, texts, what, compute, rows, is_prompted=False, curves=lines)

    def _poolings(self, lm: LanguageModel) -> list[str]:
        """The poolings of the kinds that are asked for."""
        plain = POOLINGS if {_STATES, _MORE} & set(self.kinds) else ()
        return [*plain, *((ACTIVE,) if _NEURONS in self.kinds and lm.neurons else ())]

    def _take(self, pair: Pair, english: Mapping[str, Tensor], language: Mapping[str, Tensor]) -> None:
        """Compare the states of the alignment pass; see `Watcher`."""
        with self.job.stages.stage("representations", f"Compared {pair.language.language} with English"):
            found = compared(english, language, range(len(pair.ids)), self.job.lm.device)
        self._found[pair.language.language, pair.english.pivot] = found

    def _compute(self, kind: str, pair: Pair) -> dict[str, Tensor]:
        pivot, lm, key = pair.english.pivot, self.job.lm, (pair.language.language, pair.english.pivot)
        layers(self.job.config, lm.num_layers)  # before the passes: a layer that does not exist fails at once
        if kind == _NEURONS and not lm.neurons:
            log.warning("%s has no single activation function in each block: neuronxa cannot be measured.", lm.name)
            return {name: torch.full((1, lm.num_layers, 2), torch.nan, dtype=torch.float64) for name in _NUMBERS}
        if kind not in self._found.get(key, {}):
            if pivot not in self._english:
                self._english.clear()  # pairs are roughly grouped by pivot; states are large
                self._english[pivot] = self._states(f"Premises of English ({pivot})", pair.english.items)
            language = self._states(f"Premises of {pair.language.language}", [own for own, _ in pair.items()])
            place = {item.id: row for row, item in enumerate(pair.english.items)}
            rows = [place[item_id] for item_id in pair.ids]
            with self.job.stages.stage("representations", f"Compared {pair.language.language} with English"):
                self._found[key] = compared(self._english[pivot], language, rows, lm.device)
        return self._found[key].pop(kind)

    def _states(self, what: str, items: Sequence[Item]) -> dict[str, Tensor]:
        """The premises' states by pooling, [L + 1, N, D]."""
        lm, budget = self.job.lm, self.job.config.batch_tokens
        encoded = lm.encode([item.premise for item in items])
        texts = [[lm.limit(t, f"The text of item {i.id}")] for i, t in zip(items, encoded, strict=True)]
        with self.job.stages.stage("representations", what, len(items)) as advance:
            found = pooled_states(lm, texts, [item.id for item in items], self._poolings(lm), budget, advance)
        return {pooling: states[:, :, 0] for pooling, states in found.items()}

    def _rows(self, kind: str, pair: Pair, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        value, chance = tensors["value"].numpy(), tensors["chance"].numpy()
        first = int(kind == _NEURONS)  # layer l is block l's MLP; there is none of layer 0
        self.job.num_layers = value.shape[1] - 1 + first
        shown = [layer for layer in layers(self.job.config, self.job.num_layers) if layer >= first]
        at = [layer - first for layer in shown]
        for m, measure in enumerate(KINDS[kind]):
            for p, pooling in enumerate(("weighted",) if kind == _NEURONS else POOLINGS):
                if measure in self.measures and shown:
                    yield {
                        **self.job.columns(pair.language),
                        "measure": measure,
                        "pooling": pooling,
                        "layer": np.array(shown, dtype=np.int32),
                        "value": value[p, at, m],
                        "chance": chance[p, at, m],
                        "n": np.full(len(shown), len(pair.ids), dtype=np.int32),
                    }

    def _curves(self, kind: str, pair: Pair, tensors: dict[str, Tensor]) -> list[Curve]:
        parts = [pd.DataFrame(part) for part in self._rows(kind, pair, tensors)]
        return list(_curves(pd.concat(parts))) if parts else []

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
) -> dict[str, dict[str, Tensor]]:
    """All measures, a layer at a time, each in one of the processes.

    Args:
        english: E's states by pooling, [L + 1, items, D]; ``active``: [L, items, F].
        language: X's, [L + 1, N, D].
        rows: for each of the N, its item in `english`.
        device: where to compute.

    Returns:
        By kind of unit, ``value`` and ``chance`` in float64, [poolings, layers, measures of the kind].
    """
    work = [(pooling, layer) for pooling, states in language.items() for layer in range(len(states))]
    chosen = torch.tensor(rows)

    def run(piece: tuple[str, int]) -> dict[str, tuple[float, float]]:
        pooling, layer = piece
        e, x = english[pooling][layer], language[pooling][layer]
        compare = active_measures if pooling == ACTIVE else measures
        return compare(e[chosen.to(e.device)].to(device), x.to(device))

    results = dict(zip(work, distributed.each(work, [1.0] * len(work), run), strict=True))
    found = {}
    for kind, names in KINDS.items():
        poolings = [pooling for pooling in language if (pooling == ACTIVE) == (kind == _NEURONS)]
        if poolings:
            every = [
                [[results[p, layer][name] for name in names] for layer in range(len(language[p]))] for p in poolings
            ]
            numbers = torch.tensor(every, dtype=torch.float64)
            found[kind] = {name: numbers[..., k].contiguous() for k, name in enumerate(_NUMBERS)}
    return found


def _curves(table: pd.DataFrame) -> Iterator[Curve]:
    defined = table[table["value"].notna()]
    for (language, _, measure, pooling), rows in defined.groupby(KEYS, sort=False):
        name = f"{measure}_{pooling}"
        yield Curve(name, str(language), rows["layer"].tolist(), rows["value"].tolist(), "representations")


def _printed(found: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    """Some of the measures, as a console table."""
    title = "Representations: mean over tokens, middle third of the layers"
    caption = (
        "In brackets: the same of sentences that are not translations. NeuronXA: weighted mean over tokens. "
        "All measures: representations.parquet."
    )
    shown = [name for name in _PRINTED if any(name in one for one in found.values())]
    shown = shown or list(next(iter(found.values())))
    heads = [LABELS[name].replace(" ", "\n", 1) for name in shown]
    made = printed(title, caption, ["language"], heads, no_wrap=True)
    for (language, _), one in found.items():
        made.add_row(language, *(_cell(one[name].get(MEAN) or one[name]["weighted"]) for name in shown))
    return made


def _cell(told: Mapping[str, float]) -> str:
    value, chance = (f"{told[key]:z.2f}" if math.isfinite(told[key]) else "" for key in ("middle", "middle_chance"))
    return f"{value or '–'}{f' ({chance})' if chance else ''}"
