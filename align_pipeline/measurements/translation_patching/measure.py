"""Translations after an activation is replaced: ``translation_patching.parquet``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from rich.table import Table
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.config.patch import UNPATCHED
from align_pipeline.config.pivots import ENGLISH_ONLY
from align_pipeline.data.tasks import Flores, Pair, ParallelTask, Translation
from align_pipeline.measurements.base import Columns, Job, Measurement, Told, Unit, printed
from align_pipeline.measurements.patching.figures import draw_translation
from align_pipeline.measurements.patching.measure import Patching, records
from align_pipeline.measurements.translation.measure import translations
from align_pipeline.measurements.translation.scores import sentence_scores, sentence_statistics
from align_pipeline.measurements.translation.translate import Hypotheses
from align_pipeline.measurements.translation_patching import patch
from align_pipeline.measurements.translation_patching.table import TRANSLATION_PATCHING
from align_pipeline.page.numbers import layer_range
from align_pipeline.tracking.wandb import Curve

log = logging.getLogger(__name__)


class TranslationPatching(Measurement):
    """Activation patching of translation."""

    name: ClassVar[str] = "translation_patching"
    stage: ClassVar[str] = "patching"
    table: ClassVar[str] = "translation_patching"
    schema: ClassVar[pa.Schema] = TRANSLATION_PATCHING
    check = staticmethod(Patching.check)

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.asked_for = patch.plan(job.config.patch, cast(Flores, job.task), job.pairs, job.source)
        if job.config.pivot != ENGLISH_ONLY:
            log.info("Patched translation takes activations of English only, not of other pivots.")
        self._held: dict[tuple[str, str], patch.Sentences] = {}

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return bool(config.patch.conditions) and isinstance(task, Flores)

    def units(self) -> Iterator[Unit]:
        """One unit per language, direction and condition."""
        for pair in self.job.pairs:
            for one in translations(self.job)[pair.language.language]:
                asked = self.asked_for.conditions[one.direction]
                for condition in asked:
                    what = f"Patched {one.language}, {one.direction}, {condition}"
                    texts = patch.digest(self.asked_for, condition, one, pair, self.job.config.seed)
                    compute = functools.partial(self._compute, pair, one, condition, what)
                    rows = functools.partial(self._rows, pair, one, condition, condition == asked[-1])
                    yield Unit("translation_patching", texts, what, compute, rows)

    def _compute(self, pair: Pair, one: Translation, condition: str, what: str) -> dict[str, Tensor]:
        lm, budget, key = self.job.lm, self.job.config.batch_tokens, (one.language, one.direction)
        layers = patch.patched_layers(lm, self.asked_for.config)
        truncated = lm.truncated
        with self.job.stages.stage("patching", what, len(one.ids) * len(layers)) as advance:
            if key not in self._held:
                self._held.clear()  # activations are large
                self._held[key] = patch.Sentences(lm, self.asked_for, one, pair, self.job.config.seed, budget)
            values = self._held[key].values(condition)
            made = patch.translate_patched(self._held[key], values, budget, advance)
        lm.truncated = truncated  # already counted by the translation measurement
        return made.tensors() | {"layers": torch.tensor(layers), "num_layers": torch.tensor(lm.num_layers)}

    def _rows(
        self, pair: Pair, one: Translation, condition: str, is_last: bool, tensors: dict[str, Tensor]
    ) -> Iterator[Columns]:
        self.job.num_layers = int(tensors.pop("num_layers"))
        layers, made = tensors.pop("layers").tolist(), Hypotheses.from_tensors(tensors)
        donors = patch.donors(condition, one, pair, self.job.config.seed)
        yield self._columns(one, condition, layers, donors, made)
        if is_last:  # add the unpatched translations
            before = self._unpatched
            own = before[(before["language"] == one.language) & (before["direction"] == one.direction)]
            made = Hypotheses(tuple(own["hypothesis"]), tuple(own["cut_off"] == 1))
            yield self._columns(one, UNPATCHED, [-1], [""] * len(one.ids), made)

    @functools.cached_property
    def _unpatched(self) -> pd.DataFrame:
        return self.job.table("translations")

    def _columns(
        self, one: Translation, condition: str, layers: Sequence[int], donors: Sequence[str], made: Hypotheses
    ) -> Columns:
        references = list(one.references) * len(layers)
        what = f"Scored {one.language}, {one.direction}, {condition}, with sacrebleu"
        with self.job.stages.stage("scores", what):
            scores = sentence_scores(made.texts, references, one.target, ("bleu", "chrf"))
            sums = sentence_statistics(made.texts, references, one.target)
        return {
            "model": self.job.config.model.name,
            "task": self.job.task.name,
            "direction": one.direction,
            "language": one.language,
            "source_language": patch.source_language(self.asked_for, condition, one),
            "condition": condition,
            "component": self.asked_for.config.component.value,
            "site": patch.SITE,
            "window": [self.asked_for.config.window] * len(references),
            "layer": np.repeat(layers, len(one.ids)),
            "item_id": list(one.ids) * len(layers),
            "donor": list(donors) * len(layers),
            "hypothesis": list(made.texts),
            **scores,
            **{f"{name}_statistics": values for name, values in sums.items()},
            "cut_off": [int(cut) for cut in made.cut_off],
        }

    def tell(self) -> Told:
        """See `Measurement`."""
        from align_pipeline.measurements.translation_patching import statistics  # loads scipy.stats

        found = statistics.analyse(self.job.table(self.table), self.job.last_layers, seed=self.job.config.seed)
        shared = ["model", "task", "language"]
        rows = {}
        for pair in self.job.pairs:
            language = pair.language.language
            tables = {
                name: records(table[table["language"] == language].drop(columns=shared))
                for name, table in found.items()
            }
            rows[language, pair.english.pivot] = {"translation_patching": tables}
        return Told(
            rows,
            _curves(found["effects"]),
            draw_translation(found["effects"], self.job.folder),
            printed=[_printed(rows, found["effects"])],
        )

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        keys = ("best_layer", "best", "middle_difference", "attributable")
        return {
            f"patch_{one['condition']}_chrf_{key}/{one['direction']}": one[key]
            for one in row.get("translation_patching", {}).get("summary", [])
            for key in keys
            if one[key] is not None
        }


def _curves(effects: pd.DataFrame) -> list[Curve]:
    """chrF++ by layer, for each direction and condition."""
    groups = effects.dropna(subset="chrf").groupby(["language", "direction", "condition"], sort=False)
    return [
        Curve(f"{direction}/{condition}", str(language), rows["layer"].tolist(), rows["chrf"].tolist(), "patched_chrf")
        for (language, direction, condition), rows in groups
    ]


def _printed(rows: Mapping[tuple[str, str], Mapping[str, Any]], effects: pd.DataFrame) -> Table:
    """The effect of each condition on the translations, as a console table."""
    caption = (
        "Corpus chrF++. Middle: mean change over the middle third of the layers. Attributable to the concept: the "
        "treatment minus the strongest control that lacks the concept, over the middle third."
    )
    title = f"Patched translation, layers {layer_range(sorted(effects['layer'].unique()))}"
    heads = ("n", "unpatched", "best\n@layer", "middle", "attributable to the concept")
    made = printed(title, caption, ("language", "direction", "condition"), heads)
    for (language, _), row in rows.items():
        for one in row["translation_patching"]["summary"]:
            best = f"{one['best']:.1f} @{one['best_layer']}"
            middle = "" if one["middle_difference"] is None else f"{one['middle_difference']:+.1f}"
            left = ""
            if one["attributable"] is not None:
                interval = f"[{one['attributable_low']:+.1f}, {one['attributable_high']:+.1f}]"
                left = f"{one['attributable']:+.1f} {interval} over {one['strongest_control']}"
            numbers = (str(one["n"]), f"{one['unpatched']:.1f}", best, middle, left)
            made.add_row(language, one["direction"], one["condition"], *numbers)
    return made
