"""The options' likelihoods after an activation is replaced: ``patching.parquet``."""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
import torch
from rich.table import Table
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.config import Config
from align_pipeline.config.patch import KEPT, TREATMENT, Component, PatchItems, is_kept, map_of
from align_pipeline.data.items import ENGLISH
from align_pipeline.data.tasks import ChoiceTask, Pair, ParallelTask
from align_pipeline.measurements.base import ASSUMED, Columns, Job, Measurement, Told, Unit, printed
from align_pipeline.measurements.patching import conditions, figures
from align_pipeline.measurements.patching.learned import training
from align_pipeline.measurements.patching.patch import Activations, Patched, chosen_layers, patch
from align_pipeline.measurements.patching.table import PATCHING
from align_pipeline.measurements.patching.units import join
from align_pipeline.page.numbers import layer_range
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)


class Patching(Measurement):
    """Activation patching of multiple-choice tasks."""

    name: ClassVar[str] = "patching"
    stage: ClassVar[str] = "patching"
    table: ClassVar[str] = "patching"
    schema: ClassVar[pa.Schema] = PATCHING

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        order = list(dict.fromkeys(pair.english.language for pair in job.every_pair))
        self.pairs = sorted(job.every_pair, key=lambda pair: order.index(pair.english.language))
        asked = conditions.plan(job.config.patch, job.task, self.pairs, job.source)
        learned = training(asked.config, job.pairs, job.languages, job.source)
        self.with_english = dataclasses.replace(asked, training=learned)
        self.with_others = conditions.without_maps(asked)
        if len(order) > 1 and asked.config.learned:
            log.info("Learned maps move towards English only, so that they are not tried with other pivots.")
        self._foreign: dict[tuple[str, str], Activations] = {}

    def plan(self, pair: Pair) -> conditions.Plan:
        """What is asked for a pair."""
        return self.with_english if pair.english.language == ENGLISH else self.with_others

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return bool(config.patch.conditions) and isinstance(task, ChoiceTask)

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        if last is not None:
            first = 0 if config.patch.component is Component.resid else 1
            chosen_layers(config.patch, range(first, last + 1), config.model.name)

    def units(self) -> Iterator[Unit]:
        """One unit per language; ``predictions.parquet`` says which items fail. All may, where a plan lacks it."""
        which, seed = self.job.config.patch.items, self.job.config.seed
        pairs = [pair for pair in self.pairs if self.plan(pair).conditions]
        chosen: list[tuple[list[str], list[str]]] = []
        if distributed.is_main():
            predictions = self.job.table("predictions")
            for pair in pairs:
                tries_english = any(map(is_kept, self.plan(pair).conditions))
                is_known = which is PatchItems.all and not tries_english
                if self.job.dry and not is_known and not conditions.is_answered(pair, predictions):
                    self.job.known[ASSUMED] = (
                        "all items are taken to be patched, the most that it can be: which ones fail is not known yet"
                    )
                    chosen.append((list(pair.ids), list(pair.ids) if tries_english else []))
                    continue
                ids = conditions.chosen_items(which, pair, predictions)
                count = len(ids) if tries_english else 0
                chosen.append((ids, conditions.kept_items(pair, predictions, count, seed)))
        for pair, (ids, kept) in zip(pairs, distributed.from_main(chosen), strict=True):
            what = self._named(pair)
            if not ids:
                log.warning("%s has no %s items to patch.", what, which.value.upper())
                continue
            texts = conditions.digest(self.plan(pair), pair, ids, kept, seed)
            compute = functools.partial(self._compute, pair, ids, kept)
            rows = functools.partial(self._rows, pair, [*ids, *kept])
            yield Unit("patching", texts, f"Patched {what}", compute, rows)

    @staticmethod
    def _named(pair: Pair) -> str:
        language, pivot = pair.language.language, pair.english.language
        return language if pivot == ENGLISH else f"{language} from {pivot}"

    def _compute(self, pair: Pair, ids: Sequence[str], kept: Sequence[str]) -> dict[str, Tensor]:
        lm, budget, pivot = self.job.lm, self.job.config.batch_tokens, (pair.english.language, pair.english.pivot)
        asked = self.plan(pair)
        config = asked.config
        if pivot not in self._foreign:
            self._foreign.clear()  # pairs are roughly grouped by pivot; activations are large
            self._foreign[pivot] = Activations(lm, config.component, config.site, budget)
        with self.job.stages.stage("patching", f"Patched {self._named(pair)}", len(ids) + len(kept)) as advance:
            truncated = lm.truncated
            seed = self.job.config.seed
            found = patch(lm, asked, pair, ids, kept, self._foreign[pivot], seed, budget, advance)
            lm.truncated = truncated  # already counted when the options were scored
            return found.tensors() | {"num_layers": torch.tensor(lm.num_layers)}

    def _rows(self, pair: Pair, ids: Sequence[str], tensors: dict[str, Tensor]) -> Iterator[Columns]:
        self.job.num_layers = int(tensors.pop("num_layers"))
        asked = self.plan(pair)
        config = asked.config
        for rows in Patched(**tensors).rows(asked, pair, ids):
            yield {
                **self.job.columns(pair.language),
                "pivot_language": pair.english.language,
                "pivot_set": pair.english.pivot,
                "component": config.component.value,
                "site": config.site,
                "window": [config.window] * len(rows["item_id"]),
                **rows,
            }

    def tell(self) -> Told:
        """See `Measurement`."""
        from align_pipeline.measurements.patching import statistics  # loads scipy.stats, which other jobs do not need

        seed = self.job.config.seed
        units = join(self.job.table(self.table), self.job.table("predictions"), self.job.last_layers)
        effects, found = statistics.effects(units, seed=seed), statistics.summary(units, seed=seed)
        rows: dict[tuple[str, str], dict[str, Any]] = {}
        for pair in self.job.pairs:
            key = (pair.language.language, pair.english.pivot)
            own = found[(found["language"] == key[0]) & (found["pivot"] == key[1])]
            rows[key] = {"patching": records(own.drop(columns=["model", "task", "language", "pivot"]))}
            learnt = self.with_english.training.get(key[0])
            if learnt is not None:
                rows[key]["map_pairs"] = {"name": learnt.name, "count": len(learnt)}
        tables = [_printed(rows, effects)] if any(row["patching"] for row in rows.values()) else []
        return Told(rows, _curves(effects), figures.draw(effects, self.job.folder), printed=tables)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`; there are too many heads to include them."""
        keys = ("best_layer", "best_correction", "middle_correction", "attributable")
        told = [
            (one, ("middle_damage",) if is_kept(one["condition"]) else keys)
            for one in row.get("patching", [])
            if one["head"] < 0
        ]
        return {
            f"patch_{one['condition']}_{key}{_from(one['pivot_language'])}": one[key]
            for one, own in told
            for key in own
            if one[key] is not None
        }


def _from(pivot: str) -> str:
    return "" if pivot == ENGLISH else f"_from_{pivot}"


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values, with None for missing values."""
    every = table.astype(object).where(table.notna(), None).to_dict("records")
    return [{str(key): getattr(v, "item", lambda v=v: v)() for key, v in row.items()} for row in every]


def _curves(effects: pd.DataFrame) -> list[Curve]:
    """Share of TF items that each condition corrects, per layer; there are too many heads for curves."""
    shown = effects[(effects["head"] < 0) & effects["correction_rate"].notna()]
    return [
        Curve(
            f"{condition}{_from(str(pivot))}",
            str(language),
            rows["layer"].tolist(),
            rows["correction_rate"].tolist(),
            "patching",
        )
        for (language, _, pivot, condition), rows in shown.groupby(
            ["language", "pivot", "pivot_language", "condition"], sort=False
        )
    ]


def _printed(rows: Mapping[tuple[str, str], Mapping[str, Any]], effects: pd.DataFrame) -> Table:
    """The corrections of each condition, as a console table."""
    found = [one for row in rows.values() for one in row["patching"]]
    is_learned, has_kept = (any(test(one["condition"]) for one in found) for test in (map_of, is_kept))
    caption = (
        "Share of TF items that become right. Middle: mean over the middle third of the layers. Attributable to the "
        "concept: the treatment minus the strongest control that lacks the concept, over the middle third."
    )
    if is_learned:
        caption += " Of a learned map: the map minus the strongest of its placebos."
    if has_kept:
        caption += " English damaged: right English items that the same map makes wrong, over the middle third."
    if any(one["pivot_language"] != ENGLISH for one in found):
        caption += " From other pivots: the treatment; their controls are in the report."
    title = f"Activation patching, layers {layer_range(sorted(effects['layer'].unique()))}"
    heads = ["TF", "corrected\nmax @layer", "middle", "attributable to the concept"]
    made = printed(title, caption, ["language", "condition"], [*heads, *(["English\ndamaged"] if has_kept else [])])
    for (language, _), row in rows.items():
        kept = [one for one in row["patching"] if is_kept(one["condition"])]
        damage = {one["condition"].removeprefix(KEPT): one["middle_damage"] for one in kept}
        found = [
            one
            for one in row["patching"]
            if not is_kept(one["condition"]) and (one["pivot_language"] == ENGLISH or one["condition"] == TREATMENT)
        ]
        if len(found) > 30:  # too many heads: show those with the highest correction
            found = sorted(found, key=lambda one: -(one["best_correction"] or 0))[:10]
        for one in found:
            head = f", head {one['head']}" if one["head"] >= 0 else ""
            best = "" if one["best_layer"] is None else f"{one['best_correction']:.3f} @{one['best_layer']}"
            middle = "" if one["middle_correction"] is None else f"{one['middle_correction']:.3f}"
            left = ""
            if one["attributable"] is not None:
                interval = f"[{one['attributable_low']:+.3f}, {one['attributable_high']:+.3f}]"
                left = f"{one['attributable']:+.3f} {interval} over {one['strongest_control']}"
            lost = damage.get(one["condition"])
            name = one["condition"] + head + _from(one["pivot_language"]).replace("_", " ", 2)
            cells = (language, name, str(one["n_tf"]), best, middle, left)
            made.add_row(*cells, *(["" if lost is None else f"{lost:.3f}"] if has_kept else []))
    return made
