"""The straight line of a job, from a typed config to tables, plots and W&B; callable from a test or a notebook."""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hydra.utils import instantiate
from numpy.typing import NDArray

from align_pipeline import console, summary, tracking
from align_pipeline.config import Config
from align_pipeline.data import Source
from align_pipeline.errors import InputError, writing
from align_pipeline.evaluate import confidence, predict, prediction
from align_pipeline.metrics import Metric
from align_pipeline.model import LanguageModel, load
from align_pipeline.plots import layer_curves as draw
from align_pipeline.records import Item, Prediction, Table, table, write_text
from align_pipeline.similarity import EnglishStates, Extraction, english_states, similarities
from align_pipeline.sweep import NOTHING
from align_pipeline.tasks import ChoiceTask, ItemSet, Pair

log = logging.getLogger(__name__)
_PACKAGES = ("align_pipeline", "torch", "transformers", "datasets", "accelerate", "numpy", "pyarrow", "wandb")


@dataclass(frozen=True)
class Summary:
    """What a job found, as in ``summary.json``."""

    content: Mapping[str, Any]
    folder: Path

    @property
    def mean_accuracy(self) -> float | None:
        """Mean accuracy over the job's languages; what the job returns to Hydra."""
        values = [row["accuracy"] for row in self.content["languages"] if row["accuracy"] is not None]
        return sum(values) / len(values) if values else None


def run(config: Config, folder: Path, settings: Mapping[str, Any]) -> Summary | None:
    """One job.

    Args:
        config: the typed config.
        folder: where everything is written.
        settings: the resolved config as plain values, for the record.

    Returns:
        The summary; None if none of the languages of a sweep's job exists for its task.

    Raises:
        InputError: something the user gave cannot be used; one sentence says what and why.
    """
    task: ChoiceTask = instantiate(config.task)
    metrics: dict[str, Metric] = {name: instantiate(metric) for name, metric in config.metrics.items()}
    source = Source(config.source)
    named = {config.languages[code].flores for code in config.named if code in config.languages}
    languages = task.supported(config.languages.values(), source, named)
    if not languages:
        sentence = f"{task.name} has none of the selected languages in data={source.name}: nothing to do."
        log.warning(sentence)
        write_text(folder / NOTHING, sentence + "\n")
        return None
    log.info("Data: %s from %s. Model: %s (%s).", task.dataset, source.name, config.model.name, config.model.path)

    stages = console.Stages()
    with stages.stage("data", f"Read {task.name} in {len(languages)} languages and English"):
        pairs = task.pairs(languages, source)
    with stages.stage("model", f"Loaded {config.model.name}"):
        lm = load(config.model)
    job = Job(config, task.name, metrics, lm, _layers(config.layers, lm), stages)
    if metrics:
        job.write_alignment(pairs, folder)
    extracted = lm.tokens_run
    if config.evaluate:
        job.write_predictions(pairs, folder)
    tables = [path for path in (folder / "alignment.parquet", folder / "predictions.parquet") if path.exists()]

    with stages.stage("report", "Drew the plots"):
        alignment = pd.read_parquet(folder / "alignment.parquet") if metrics else pd.DataFrame()
        predictions = pd.read_parquet(folder / "predictions.parquet") if config.evaluate else pd.DataFrame()
        curves = summary.layer_curves(alignment)
        rows = summary.languages(pairs, curves, predictions, lm.num_layers)
        plots = draw(alignment, folder) if metrics else []
    content = {
        "task": task.name,
        "model": config.model.name,
        "languages": rows,
        "data": summary.provenance(task, source, pairs),
        "num_layers": lm.num_layers,
        "truncated_texts": lm.truncated,
        "tokens": {"extraction": extracted, "scoring": lm.tokens_run - extracted},
        "versions": {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "config": settings,
    }
    with stages.stage("wandb", "Logged to Weights & Biases"):
        tags = [task.name, config.model.name, *(row["language"] for row in rows)]
        tracking.track(config.wandb, folder, tags, settings, summary.flat(rows), curves, plots, tables)
    content["seconds"] = {name: round(value, 3) for name, value in stages.seconds.items()}
    write_text(folder / "summary.json", json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    stages.console.print(summary.table(content, config, lm, folder))
    return Summary(content, folder)


@dataclass(frozen=True)
class Job:
    """A loaded model and what to do with it."""

    config: Config
    task: str
    metrics: Mapping[str, Metric]
    lm: LanguageModel
    layers: tuple[int, ...]
    stages: console.Stages

    def write_alignment(self, pairs: Sequence[Pair], folder: Path) -> None:
        """Write ``alignment.parquet``."""
        what = Extraction(
            layers=self.layers,
            poolings=tuple(sorted({metric.pooling for metric in self.metrics.values()})),
            options=any(metric.needs == "options" for metric in self.metrics.values()),
            premises=any(metric.needs == "premises" for metric in self.metrics.values()),
        )
        english: dict[str, EnglishStates] = {}
        budget = self.config.batch_tokens
        with table(folder, "alignment") as written:
            for pair in pairs:
                pivot = pair.english.pivot
                if pivot not in english:
                    english.clear()  # pairs come grouped by pivot or nearly so; states are large
                    with self._texts(f"Embedded English ({pivot})", pair.english.items, what) as advance:
                        english[pivot] = english_states(self.lm, pair.english, what, budget, advance)
                items = [item for item in pair.language.items if item.id in set(pair.ids)]
                with self._texts(f"Embedded {pair.language.language}", items, what) as advance:
                    found = similarities(self.lm, pair, english[pivot], what, budget, advance)
                for name, metric in self.metrics.items():
                    self._append(written, pair, name, metric.pooling, metric.margin(found).cpu().numpy())

    def _texts(self, what: str, items: Sequence[Item], extraction: Extraction) -> Any:
        each = len(items[0].options) * extraction.options + extraction.premises
        return self.stages.stage("extraction", what, len(items) * each)

    def _append(self, written: Table, pair: Pair, metric: str, pooling: str, margin: NDArray[np.float32]) -> None:
        with writing(written.path.parent):
            written.append(
                model=self.config.model.name,
                task=self.task,
                language=pair.language.language,
                pivot=pair.english.pivot,
                metric=metric,
                pooling=pooling,
                layer=np.repeat(np.array(self.layers, dtype=np.int32), len(pair.ids)),
                item_id=np.tile(np.array(pair.ids, dtype=object), len(self.layers)),
                value=(margin > 0).astype(np.int8).ravel(),
                margin=margin.ravel(),
            )

    def write_predictions(self, pairs: Sequence[Pair], folder: Path) -> None:
        """Write ``predictions.parquet``, English sides included."""
        scored: set[tuple[str, str]] = set()
        with table(folder, "predictions") as written:
            for pair in pairs:
                for side in (pair.english, pair.language):
                    key = (side.language, side.pivot)
                    if key in scored:
                        continue
                    scored.add(key)
                    total = sum(len(item.continuations) for item in side.items)
                    with self.stages.stage("scoring", f"Scored {side.language} ({side.pivot})", total) as advance:
                        predictions = predict(self.lm, side.items, self.config.batch_tokens, advance)
                    with writing(folder):
                        _append_predictions(written, self, side, predictions)


def _append_predictions(written: Table, job: Job, side: ItemSet, predictions: Sequence[Prediction]) -> None:
    chosen = [prediction(p.loglikelihoods) for p in predictions]
    written.append(
        model=job.config.model.name,
        task=job.task,
        language=side.language,
        pivot=side.pivot,
        item_id=[p.item_id for p in predictions],
        gold=[p.gold for p in predictions],
        prediction=chosen,
        correct=[int(c == p.gold) for c, p in zip(chosen, predictions, strict=True)],
        correct_norm=[int(_normalized(p) == p.gold) for p in predictions],
        confidence=[confidence(p.loglikelihoods) for p in predictions],
        loglikelihoods=[list(p.loglikelihoods) for p in predictions],
        prompt_tokens=[p.prompt_tokens for p in predictions],
        item_tokens=[len(tokens) for tokens in job.lm.encode([item.premise for item in side.items])],
        option_similarity=[option_similarity(item) for item in side.items],
        category=[item.category for item in side.items],
    )


def _normalized(p: Prediction) -> int:
    return prediction([value / length for value, length in zip(p.loglikelihoods, p.lengths, strict=True)])


def option_similarity(item: Item) -> float:
    """How alike the item's two most alike options are: Jaccard index of their character trigrams, premise left out."""

    def trigrams(text: str) -> set[str]:
        own = text.removeprefix(item.premise).strip()
        return {own[i : i + 3] for i in range(max(len(own) - 2, 1))}

    sets = [trigrams(text) for text in item.options]
    pairs = [(a, b) for i, a in enumerate(sets) for b in sets[:i]]
    return max((len(a & b) / len(a | b) for a, b in pairs), default=0.0)


def _layers(asked: Any, lm: LanguageModel) -> tuple[int, ...]:
    every = tuple(range(lm.num_layers + 1))
    if asked == "all":
        return every
    outside = [k for k in asked if k not in every]
    if outside:
        raise InputError(f"layers has {outside[0]}, but {lm.name} has layers 0 to {lm.num_layers}.")
    return tuple(asked)
