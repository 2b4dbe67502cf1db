"""The model's translations with sacrebleu's scores: ``translations.parquet``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, cast

import pyarrow as pa
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.data.tasks import Flores, ParallelTask, Translation
from align_pipeline.errors import InputError
from align_pipeline.measurements.base import Column, Columns, Job, Measurement, Told, Unit, digest
from align_pipeline.measurements.translation import language_id
from align_pipeline.measurements.translation.scores import (
    SCORES,
    corpus_scores,
    counts,
    sentence_scores,
    spbleu_missing,
)
from align_pipeline.measurements.translation.table import TRANSLATIONS
from align_pipeline.measurements.translation.translate import Hypotheses, translate

log = logging.getLogger(__name__)


class Translations(Measurement):
    """Translation quality of the model."""

    name: ClassVar[str] = "translation"
    stage: ClassVar[str] = "scoring"
    table: ClassVar[str] = "translations"
    schema: ClassVar[pa.Schema] = TRANSLATIONS

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.task = cast(Flores, job.task)
        self.found: dict[str, dict[str, Any]] = {}

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return config.evaluate and isinstance(task, Flores)

    @staticmethod
    def check(config: Config, task: ParallelTask, last: int | None) -> None:
        """See `Measurement`."""
        if config.model.chat_template:
            raise InputError(
                "model.chat_template=true works only with multiple-choice tasks, as translation prompts are plain "
                "text; leave it out, or measure only alignment with evaluate=false."
            )

    def units(self) -> Iterator[Unit]:
        """One unit per language and direction."""
        for missing in (spbleu_missing(), language_id.MISSING if language_id.missing() else None):
            if missing:
                log.info(missing)
        for one in (one for directions in translations(self.job).values() for one in directions):
            what = f"Translated {one.language}, {one.direction}"
            texts = digest((one.prompts, self.task.max_new_tokens))
            compute = functools.partial(self._compute, one, what)
            yield Unit("translations", texts, what, compute, functools.partial(self._rows, one))

    def _compute(self, one: Translation, what: str) -> dict[str, Tensor]:
        lm, budget = self.job.lm, self.job.config.batch_tokens
        with self.job.stages.stage("translation", what, len(one.ids)) as advance:
            return translate(lm, one, self.task.max_new_tokens, budget, advance).tensors()

    def _rows(self, one: Translation, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        hypotheses = Hypotheses.from_tensors(tensors)
        with self.job.stages.stage("scores", f"Scored {one.language}, {one.direction}, with sacrebleu"):
            scores = sentence_scores(hypotheses.texts, one.references, one.target)
            corpus = corpus_scores(hypotheses.texts, one.references, one.target, self.task.resamples)
            copied = corpus_scores(one.sources, one.references, one.target)
        self.found.setdefault(one.language, {})[one.direction] = {
            **counts(one, hypotheses),
            **corpus,
            "copied_source": {name: score["score"] for name, score in copied.items()},
        }
        none = [None] * len(one.ids)
        yield {
            "model": self.job.config.model.name,
            "task": self.job.task.name,
            "direction": one.direction,
            "language": one.language,
            "item_id": list(one.ids),
            "source": list(one.sources),
            "hypothesis": list(hypotheses.texts),
            "reference": list(one.references),
            "bleu": scores["bleu"],
            "chrf": scores["chrf"],
            "spbleu": scores.get("spbleu", none),
            "comet": none,
            "cometkiwi": none,
            "cut_off": [int(cut) for cut in hypotheses.cut_off],
        }

    def tell(self) -> Told:
        """See `Measurement`."""
        rows = {
            (pair.language.language, pair.english.pivot): {"translation": self.found[pair.language.language]}
            for pair in self.job.pairs
        }
        columns = [
            Column(f"{direction}\nchrF++", functools.partial(_chrf, direction)) for direction in self.task.directions
        ]
        caption = (
            f"Translation: {self.task.num_fewshot}-shot. chrF++ ± half its 95% interval; in brackets, chrF++ of the "
            "untranslated source."
        )
        return Told(rows, columns=columns, caption=caption)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        found: dict[str, float] = {}
        for direction, told in row.get("translation", {}).items():
            scores = {name: told[name]["score"] for name in SCORES if name in told}
            names = ("empty", "copies", "cut_off", "off_target")
            rates = {name: told[name] / told["n"] for name in names if told[name] is not None}
            found |= {f"{name}/{direction}": value for name, value in (scores | rates).items()}
        return found


def translations(job: Job) -> dict[str, list[Translation]]:
    """The sentences to translate, by FLORES code; prepared once per job."""
    if "translations" not in job.known:
        job.known["translations"] = cast(Flores, job.task).translations(job.pairs, job.languages, job.source)
    found: dict[str, list[Translation]] = job.known["translations"]
    return found


def _chrf(direction: str, row: Mapping[str, Any]) -> str:
    told = row["translation"][direction]
    score, copied = told["chrf"], told["copied_source"]["chrf"]
    within = f" ±{(score['high'] - score['low']) / 2:.1f}" if "low" in score else ""
    return f"{score['score']:.1f}{within} ({copied:.1f})"
