"""The model's answers to every item, in English too: ``predictions.parquet``."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa
from torch import Tensor

from align_pipeline.config import Config
from align_pipeline.data.items import ENGLISH, Item
from align_pipeline.data.tasks import ChoiceTask, ItemSet, Pair, ParallelTask
from align_pipeline.measurements.accuracy.prediction import Prediction
from align_pipeline.measurements.accuracy.scoring import confidence, from_tensors, predict, prediction, to_tensors
from align_pipeline.measurements.accuracy.table import PREDICTIONS
from align_pipeline.measurements.base import Column, Columns, Measurement, Told, Unit, digest

_KEYS = ("accuracy", "stderr", "accuracy_norm", "english_accuracy", "english_accuracy_norm", "ts", "tf")


class Accuracy(Measurement):
    """Task accuracy of the model."""

    name: ClassVar[str] = "accuracy"
    stage: ClassVar[str] = "scoring"
    table: ClassVar[str] = "predictions"
    schema: ClassVar[pa.Schema] = PREDICTIONS
    blank: ClassVar[Mapping[str, Any]] = dict.fromkeys(_KEYS)

    @staticmethod
    def asked(config: Config, task: ParallelTask) -> bool:
        """See `Measurement`."""
        return config.evaluate and isinstance(task, ChoiceTask)

    def units(self) -> Iterator[Unit]:
        """One unit per side of a pair; an English side that several languages share is computed once."""
        scored: set[tuple[str, str]] = set()
        for side, english in (
            (side, pair.english) for pair in self.job.pairs for side in (pair.english, pair.language)
        ):
            if (side.language, side.pivot) not in scored:
                scored.add((side.language, side.pivot))
                what = f"Scored {side.language} ({side.pivot})"
                texts = digest([(item.prompt, item.continuations, item.premise) for item in side.items])
                compute = functools.partial(self._compute, side, what)
                rows = functools.partial(self._rows, side, english)
                numbers = functools.partial(_accuracy, side)
                yield Unit("predictions", texts, what, compute, rows, numbers=numbers)

    def _compute(self, side: ItemSet, what: str) -> dict[str, Tensor]:
        lm, total = self.job.lm, sum(len(item.continuations) for item in side.items)
        with self.job.stages.stage("scoring", what, total) as advance:
            return to_tensors(predict(lm, side.items, self.job.config.batch_tokens, advance))

    def _rows(self, side: ItemSet, english: ItemSet, tensors: dict[str, Tensor]) -> Iterator[Columns]:
        predictions = from_tensors(side.items, tensors)
        originals = {item.id: item for item in english.items}
        chosen = [prediction(p.loglikelihoods) for p in predictions]
        yield {
            **self.job.columns(side),
            "item_id": [p.item_id for p in predictions],
            "gold": [p.gold for p in predictions],
            "prediction": chosen,
            "correct": [int(c == p.gold) for c, p in zip(chosen, predictions, strict=True)],
            "correct_norm": [int(_normalized(p) == p.gold) for p in predictions],
            "confidence": [confidence(p.loglikelihoods) for p in predictions],
            "loglikelihoods": [list(p.loglikelihoods) for p in predictions],
            "prompt_tokens": [p.prompt_tokens for p in predictions],
            "item_tokens": [p.item_tokens for p in predictions],
            "option_similarity": [option_similarity(item) for item in side.items],
            "english_overlap": [
                english_overlap(item, originals[item.id]) if item.id in originals else None for item in side.items
            ],
            "category": [item.category for item in side.items],
            "cluster": [item.cluster or item.id for item in side.items],
        }

    def tell(self) -> Told:
        """See `Measurement`."""
        predictions = self.job.table(self.table)
        rows = {(pair.language.language, pair.english.pivot): accuracies(pair, predictions) for pair in self.job.pairs}
        columns = [
            Column("accuracy", lambda row: f"{row['accuracy']:.3f} ±{row['stderr']:.3f}"),
            Column(ENGLISH, lambda row: f"{row['english_accuracy']:.3f}"),
            Column("TS", lambda row: str(row["ts"])),
            Column("TF", lambda row: str(row["tf"])),
        ]
        shots = self.job.task.num_fewshot
        caption = f"Accuracy: {shots}-shot. TS, TF: right in English and right (TS) or wrong (TF) in the language."
        return Told(rows, columns=columns, caption=caption)

    @staticmethod
    def numbers(row: Mapping[str, Any]) -> dict[str, float]:
        """See `Measurement`."""
        return {key: row[key] for key in ("accuracy", "english_accuracy", "ts", "tf") if row[key] is not None}


def accuracies(pair: Pair, predictions: pd.DataFrame) -> dict[str, Any]:
    """The accuracy numbers of a pair: TS and TF are counted over its items, accuracies over all items of each side."""

    def side(items: ItemSet) -> pd.DataFrame:
        chosen = (predictions["language"] == items.language) & (predictions["pivot"] == items.pivot)
        return predictions[chosen].set_index("item_id")

    own, english = side(pair.language), side(pair.english)
    ids = list(pair.ids)
    right, english_right = own["correct"].loc[ids].to_numpy(), english["correct"].loc[ids].to_numpy()
    correct = own["correct"].to_numpy()
    values = (
        float(correct.mean()),
        # As in lm-evaluation-harness: from the sample standard deviation.
        float(correct.std(ddof=1) / math.sqrt(len(correct))) if len(correct) > 1 else 0.0,
        float(own["correct_norm"].to_numpy().mean()),
        float(english["correct"].to_numpy().mean()),
        float(english["correct_norm"].to_numpy().mean()),
        int((english_right & right).sum()),
        int((english_right & (1 - right)).sum()),
    )
    return dict(zip(_KEYS, values, strict=True))


def _normalized(p: Prediction) -> int:
    return prediction([value / length for value, length in zip(p.loglikelihoods, p.lengths, strict=True)])


def option_similarity(item: Item) -> float:
    """Similarity of the item's two most similar options: Jaccard index of their character trigrams, without premise."""
    sets = [_trigrams(answer) for answer in _answers(item)]
    return max((_jaccard(a, b) for i, a in enumerate(sets) for b in sets[:i]), default=0.0)


def english_overlap(item: Item, english: Item) -> float:
    """Overlap of an item's options with English (names, numbers, loan words): Jaccard index of the character trigrams
    of each option and the same option in English, without premise, averaged over options."""
    both = zip(_answers(item), _answers(english), strict=True)
    overlaps = [_jaccard(_trigrams(own), _trigrams(other)) for own, other in both]
    return sum(overlaps) / len(overlaps)


def _answers(item: Item) -> tuple[str, ...]:
    return item.answers or tuple(option.removeprefix(item.premise).strip() for option in item.options)


def _trigrams(text: str) -> set[str]:
    return {text[i : i + 3] for i in range(max(len(text) - 2, 1))}


def _jaccard(a: set[str], b: set[str]) -> float:
    return len(a & b) / len(a | b)


def _accuracy(side: ItemSet, tensors: dict[str, Tensor]) -> dict[str, float]:
    """A side's accuracy, while the job runs."""
    right = [prediction(p.loglikelihoods) == p.gold for p in from_tensors(side.items, tensors)]
    return {f"accuracy_so_far/{side.language}": sum(right) / len(right)}
