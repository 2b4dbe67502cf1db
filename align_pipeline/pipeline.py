"""The straight line of a job, from a typed config to tables, plots and W&B; callable from a test or a notebook."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import logging
import math
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from hydra.utils import instantiate
from numpy.typing import NDArray
from omegaconf import DictConfig, ListConfig, OmegaConf
from torch import Tensor

from align_pipeline import (
    console,
    distributed,
    folders,
    language_id,
    patch,
    patching_plots,
    summary,
    tracking,
    translation_patching,
)
from align_pipeline.cache import Cache, model_key
from align_pipeline.config import UNPATCHED, Component, Config, PatchConfig
from align_pipeline.data import Source
from align_pipeline.errors import InputError, writing
from align_pipeline.evaluate import confidence, from_tensors, predict, prediction, to_tensors
from align_pipeline.folders import NOTHING, SUMMARY
from align_pipeline.loading import check, load, num_layers
from align_pipeline.metrics import Metric
from align_pipeline.model import LanguageModel
from align_pipeline.plots import layer_curves as draw
from align_pipeline.records import SCHEMAS, Item, Prediction, Table, table, write_text
from align_pipeline.similarity import EnglishStates, Similarities, english_states, similarities
from align_pipeline.tasks import Flores, ItemSet, Pair, ParallelTask, Translation
from align_pipeline.translate import (
    Hypotheses,
    corpus_scores,
    counts,
    sentence_scores,
    sentence_statistics,
    spbleu_missing,
    translate,
)

log = logging.getLogger(__name__)
_TRUNCATED = "truncated"
_ALIGNMENT = "similarities"
_PATIENCE = 60.0
"""Seconds to wait for the lock of a job that may be dead: the one that SLURM puts back into its queue."""
_STAGES = ("extraction", "scoring", "patching")
_PACKAGES = (
    *("align_pipeline", "torch", "transformers", "datasets", "accelerate", "numpy", "pyarrow", "sacrebleu", "wandb"),
)


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


@dataclass(frozen=True)
class _Found:
    """What a job has to tell when its files are written."""

    content: dict[str, Any]
    curves: Sequence[tracking.Curve]
    plots: Sequence[str]
    tables: Sequence[str]
    stages: console.Stages


def run(config: Config, folder: Path, settings: Mapping[str, Any]) -> Summary | None:
    """One job.

    Args:
        config: the typed config.
        folder: where everything goes once all of it is there; it holds no other job's result.
        settings: the resolved config, for the record.

    Returns:
        The summary; None if none of the languages of a sweep's job exists for its task, and in every process but the
        main one.

    Raises:
        InputError: something the user gave cannot be used; one sentence says what and why.
    """
    settings = {str(key): _plain(value) for key, value in settings.items()}
    if not distributed.is_main():
        _measure(config, folder, settings)
        return None
    with folders.held(folder, _PATIENCE):
        folders.refuse_others(folder, folders.identity(config), settings)
        wandb = tracking.checked(config.wandb)
        with folders.replaced(folder) as making:
            found = _measure(config, making, settings)
        if found is None:
            return None
        rows, printed = found.content["languages"], found.stages.console
        printed.print(summary.table(found.content, config, folder))
        if any(row.get("patching") for row in rows):
            printed.print(summary.patching_table(rows))
        if any(row.get("translation_patching") for row in rows):
            printed.print(summary.translation_patching_table(rows))
        # Last: whatever becomes of it, the results are there.
        tags = [found.content["task"], config.model.name, *(row["language"] for row in rows)]
        plots, tables = ([folder / name for name in names] for names in (found.plots, found.tables))
        tracking.track(wandb, folder, tags, settings, summary.flat(rows), found.curves, plots, tables)
    return Summary(found.content, folder)


def _measure(config: Config, folder: Path, settings: Mapping[str, Any]) -> _Found | None:
    """A job up to its files, the summary included; None as `run`."""
    task: ParallelTask = instantiate(config.task)
    metrics: dict[str, Metric] = {name: instantiate(metric) for name, metric in config.metrics.items()}
    _check_needs(task, metrics)
    if config.model.chat_template and isinstance(task, Flores) and config.evaluate:
        raise InputError(
            "model.chat_template=true is for multiple-choice tasks: translation is prompted as plain text; leave it "
            "out, or measure alignment alone with evaluate=false."
        )
    _check_model(config)  # before data are looked up
    source = Source(config.source)
    named = {config.languages[code].flores for code in config.named if code in config.languages}
    languages = task.supported(config.languages.values(), source, named)
    if not languages:
        sentence = f"{task.name} has none of the selected languages in data={source.name}: nothing to do."
        log.warning(sentence)
        if distributed.is_main():
            write_text(folder / NOTHING, sentence + "\n")
        return None
    log.info("Data: %s from %s. Model: %s (%s).", task.dataset, source.name, config.model.name, config.model.path)

    stages = console.Stages()
    with stages.stage("data", f"Read {task.name} in {len(languages)} languages and English"):
        pairs = task.pairs(languages, source)
    asked: patch.Plan | translation_patching.Plan | None = None
    if config.patch.conditions and isinstance(task, Flores):
        asked = translation_patching.plan(config.patch, task, pairs, source)
    elif config.patch.conditions:
        asked = patch.plan(config.patch, task, pairs, source)
    cache = Cache(Path(config.cache) if config.cache else None)
    job = Job(config, task.name, metrics, stages, cache, folders.identity(config))
    if metrics:
        job.write_alignment(pairs, folder)
    counts = [(0, 0), job.tokens()]
    translated: dict[str, dict[str, Any]] = {}
    translations: dict[str, list[Translation]] = {}
    if config.evaluate and isinstance(task, Flores):
        translations = task.translations(pairs, languages, source)
        translated = job.write_translations(task, translations, folder)
    elif config.evaluate:
        job.write_predictions(pairs, folder)
    counts.append(job.tokens())
    if isinstance(asked, patch.Plan):
        job.write_patching(asked, pairs, folder)
    elif asked is not None:
        job.write_translation_patching(asked, translations, pairs, folder)
    counts.append(job.tokens())
    tokens, computed = (
        {stage: after[k] - before[k] for stage, before, after in zip(_STAGES, counts, counts[1:], strict=False)}
        for k in range(2)
    )
    if not distributed.is_main():
        return None
    tables = [path for path in (folder / f"{name}.parquet" for name in SCHEMAS) if path.exists()]

    with stages.stage("report", "Drew the plots"):
        alignment = pd.read_parquet(folder / "alignment.parquet") if metrics else pd.DataFrame()
        answered = folder / "predictions.parquet"
        predictions = pd.read_parquet(answered) if answered in tables else pd.DataFrame()
        curves = summary.layer_curves(alignment)
        rows = summary.languages(pairs, curves, predictions, job.num_layers, translated)
        plots = draw(alignment, folder) if metrics else []
        # Statistics are imported where they are needed: a job without patching starts a second sooner.
        if isinstance(asked, patch.Plan):
            from align_pipeline import patching_analysis

            units = patching_analysis.join(pd.read_parquet(folder / "patching.parquet"), predictions, job.last_layers)
            effects = patching_analysis.effects(units, seed=config.seed)
            summary.add_patching(rows, patching_analysis.summary(units, seed=config.seed))
            curves += summary.patching_curves(effects)
            plots += patching_plots.draw(effects, folder)
        elif asked is not None:
            from align_pipeline import translation_patching_analysis

            table = pd.read_parquet(folder / "translation_patching.parquet")
            found = translation_patching_analysis.analyse(table, job.last_layers, seed=config.seed)
            summary.add_translation_patching(rows, found)
            curves += summary.translation_patching_curves(found.effects)
            plots += patching_plots.draw_translation(found.effects, folder)
    content = {
        "job": job.identity,
        "task": task.name,
        "model": config.model.name,
        "languages": rows,
        "data": summary.provenance(task, source, pairs),
        "num_layers": job.num_layers or None,
        "truncated_texts": job.truncated,
        "tokens": tokens,
        "tokens_with_padding": computed,
        "processes": distributed.size(),
        "versions": {name: metadata.version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "config": settings,
    }
    content["seconds"] = {name: round(value, 3) for name, value in stages.seconds.items()}
    content = _plain(content)
    write_text(folder / SUMMARY, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")
    return _Found(content, curves, [path.name for path in plots], [path.name for path in tables], stages)


def _plain(value: Any) -> Any:
    """A value as JSON has it, whatever a caller's config is made of; a number that is not finite is null."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, DictConfig | ListConfig):
        return _plain(OmegaConf.to_container(value, resolve=True, enum_to_str=True))
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in value]
    item = getattr(value, "item", None)  # numpy's scalars
    return _plain(item()) if callable(item) else str(value)


@dataclass
class Job:
    """What to do with a model, which is loaded when the cache does not have the answer."""

    config: Config
    task: str
    metrics: Mapping[str, Metric]
    stages: console.Stages
    cache: Cache
    identity: str
    num_layers: int = 0
    truncated: int = 0

    @functools.cached_property
    def lm(self) -> LanguageModel:
        """The model, loaded at first use."""
        log.info("Loading %s (%s) ...", self.config.model.name, self.config.model.path)
        with self.stages.stage("model", f"Loaded {self.config.model.name}"):
            return load(self.config.model)

    @functools.cached_property
    def model_key(self) -> Mapping[str, Any]:
        """What the model's numbers depend on."""
        key = model_key(self.config.model)
        if distributed.from_main(key is None):  # not on this machine yet: loading it fetches it
            key = model_key(self.config.model) if self.lm else None
        assert key is not None or not distributed.is_main()
        return key or {}

    @property
    def last_layers(self) -> dict[str, int]:
        """Layer L of the model, if it is known by now."""
        return {self.config.model.name: self.num_layers} if self.num_layers else {}

    def tokens(self) -> tuple[int, int]:
        """Tokens that went through the model so far in all processes, without padding and with it."""
        run, computed = self.lm.counted() if "lm" in vars(self) else (0, 0)
        return distributed.total(run), distributed.total(computed)

    def _get(
        self, kind: str, texts: str, what: str, compute: Callable[[], dict[str, Tensor]]
    ) -> dict[str, Tensor] | None:
        """What a model makes of some texts, from the cache or from a forward pass; counts texts that lost tokens.

        None in every process but the main one, which alone goes on to write it.
        """
        key = {"kind": kind, **self.model_key, "texts": texts}
        if self.config.model.chat_template and kind != _ALIGNMENT:
            key["chat_template"] = True

        def counted() -> dict[str, Tensor]:
            before = self.lm.truncated
            return compute() | {_TRUNCATED: torch.tensor([self.lm.truncated - before])}

        note = {"model": self.config.model.name, "task": self.task, "what": what}
        got = distributed.kept(lambda computed: self.cache.get(key, computed, note), counted)
        if got is None:
            return None
        tensors, found = got
        if found:
            log.info("%s: in the cache", what)
        self.truncated += int(tensors.pop(_TRUNCATED))
        return tensors

    def write_alignment(self, pairs: Sequence[Pair], folder: Path) -> None:
        """Write ``alignment.parquet``."""
        english: dict[str, EnglishStates] = {}

        def compute(pair: Pair) -> dict[str, Tensor]:
            lm, budget, pivot = self.lm, self.config.batch_tokens, pair.english.pivot
            _layers(self.config, lm.num_layers)  # before the passes: a layer that does not exist fails at once
            if pivot not in english:
                english.clear()  # pairs come grouped by pivot or nearly so; states are large
                with self._texts(f"Embedded English ({pivot})", pair.english.items) as advance:
                    english[pivot] = english_states(lm, pair.english, budget, advance)
            with self._texts(f"Embedded {pair.language.language}", pair.language.items) as advance:
                return similarities(lm, pair, english[pivot], budget, advance).tensors()

        with self._table(folder, "alignment") as written:
            for pair in pairs:
                what = f"Embedded {pair.language.language}"
                tensors = self._get(_ALIGNMENT, _alignment_texts(pair), what, functools.partial(compute, pair))
                if tensors is None or written is None:
                    continue
                every = Similarities.from_tensors(tensors)
                self.num_layers = len(next(iter(every.premises.values())).own) - 1
                layers = _layers(self.config, self.num_layers)
                chosen = every.at(layers)
                for name, metric in self.metrics.items():
                    margin = metric.margin(chosen).cpu().numpy()
                    self._append(written, pair, name, metric.pooling, layers, margin)

    def _table(self, folder: Path, name: str) -> contextlib.AbstractContextManager[Table | None]:
        """The table in the main process, nothing in the others."""
        return table(folder, name, self.identity) if distributed.is_main() else contextlib.nullcontext()

    def _texts(self, what: str, items: Sequence[Item]) -> Any:
        return self.stages.stage("extraction", what, len(items) * (len(items[0].options) + 1))

    def _append(
        self, written: Table, pair: Pair, metric: str, pooling: str, layers: Sequence[int], margin: NDArray[np.float32]
    ) -> None:
        with writing(written.path.parent):
            written.append(
                model=self.config.model.name,
                task=self.task,
                language=pair.language.language,
                pivot=pair.english.pivot,
                metric=metric,
                pooling=pooling,
                layer=np.repeat(np.array(layers, dtype=np.int32), len(pair.ids)),
                item_id=np.tile(np.array(pair.ids, dtype=object), len(layers)),
                value=(margin > 0).astype(np.int8).ravel(),
                margin=margin.ravel(),
            )

    def write_predictions(self, pairs: Sequence[Pair], folder: Path) -> None:
        """Write ``predictions.parquet``, English sides included."""
        scored: set[tuple[str, str]] = set()
        with self._table(folder, "predictions") as written:
            for pair in pairs:
                for side in (pair.english, pair.language):
                    key = (side.language, side.pivot)
                    if key in scored:
                        continue
                    scored.add(key)
                    what = f"Scored {side.language} ({side.pivot})"
                    tensors = self._get("predictions", _prompts(side), what, functools.partial(self._score, side, what))
                    if tensors is None or written is None:
                        continue
                    with writing(folder):
                        _append_predictions(written, self, side, from_tensors(side.items, tensors))

    def _score(self, side: ItemSet, what: str) -> dict[str, Tensor]:
        lm, total = self.lm, sum(len(item.continuations) for item in side.items)
        with self.stages.stage("scoring", what, total) as advance:
            return to_tensors(predict(lm, side.items, self.config.batch_tokens, advance))

    def write_patching(self, asked: patch.Plan, pairs: Sequence[Pair], folder: Path) -> None:
        """Write ``patching.parquet``; ``predictions.parquet`` says which items fail."""
        config = asked.config
        chosen = distributed.from_main(_to_patch(config, pairs, folder) if distributed.is_main() else [])
        foreign: dict[str, patch.Activations] = {}

        def compute(pair: Pair, ids: Sequence[str]) -> dict[str, Tensor]:
            lm, budget, pivot = self.lm, self.config.batch_tokens, pair.english.pivot
            if pivot not in foreign:
                foreign.clear()  # as in write_alignment
                foreign[pivot] = patch.Activations(lm, config.component, config.site, budget)
            with self.stages.stage("patching", f"Patched {pair.language.language}", len(ids)) as advance:
                truncated = lm.truncated
                found = patch.patch(lm, asked, pair, ids, foreign[pivot], self.config.seed, budget, advance)
                lm.truncated = truncated  # scoring has counted these texts
                return found.tensors() | {"num_layers": torch.tensor(lm.num_layers)}

        with self._table(folder, "patching") as written:
            for pair, ids in zip(pairs, chosen, strict=True):
                language = pair.language.language
                if not ids:
                    log.warning("%s has no %s items: nothing to patch.", language, config.items.value.upper())
                    continue
                texts = patch.digest(asked, pair, ids, self.config.seed)
                tensors = self._get("patching", texts, f"Patched {language}", functools.partial(compute, pair, ids))
                if tensors is None or written is None:
                    continue
                self.num_layers = int(tensors.pop("num_layers"))
                for rows in patch.Patched(**tensors).rows(asked, pair, ids):
                    with writing(folder):
                        written.append(
                            model=self.config.model.name,
                            task=self.task,
                            language=language,
                            pivot=pair.english.pivot,
                            component=config.component.value,
                            site=config.site,
                            window=[config.window] * len(rows["item_id"]),
                            **rows,
                        )

    def write_translation_patching(
        self,
        asked: translation_patching.Plan,
        translations: Mapping[str, Sequence[Translation]],
        pairs: Sequence[Pair],
        folder: Path,
    ) -> None:
        """Write ``translation_patching.parquet``; ``translations.parquet`` has what the model says unpatched."""
        config, seed = asked.config, self.config.seed
        held: dict[tuple[str, str], translation_patching.Sentences] = {}

        def compute(pair: Pair, one: Translation, condition: str, what: str) -> dict[str, Tensor]:
            lm, budget, key = self.lm, self.config.batch_tokens, (one.language, one.direction)
            layers = translation_patching.patched_layers(lm, config)
            truncated = lm.truncated
            with self.stages.stage("patching", what, len(one.ids) * len(layers)) as advance:
                if key not in held:
                    held.clear()  # as in write_alignment
                    held[key] = translation_patching.Sentences(lm, asked, one, pair, seed, budget)
                made = translation_patching.translate_patched(held[key], held[key].values(condition), budget, advance)
            lm.truncated = truncated  # translating has counted these texts
            return made.tensors() | {"layers": torch.tensor(layers), "num_layers": torch.tensor(lm.num_layers)}

        with self._table(folder, "translation_patching") as written:
            before = pd.read_parquet(folder / "translations.parquet") if written is not None else pd.DataFrame()
            every = [(pair, one) for pair in pairs for one in translations[pair.language.language]]
            for pair, one in every:
                for condition in asked.conditions[one.direction]:
                    what = f"Patched {one.language}, {one.direction}, {condition}"
                    texts = translation_patching.digest(asked, condition, one, pair, seed)
                    run = functools.partial(compute, pair, one, condition, what)
                    tensors = self._get("translation_patching", texts, what, run)
                    if tensors is None or written is None:
                        continue
                    self.num_layers = int(tensors.pop("num_layers"))
                    layers, made = tensors.pop("layers").tolist(), Hypotheses.from_tensors(tensors)
                    donors = translation_patching.donors(condition, one, pair, seed)
                    self._append_patched(written, asked, one, condition, layers, donors, made)
                if asked.conditions[one.direction] and written is not None:
                    own = before[(before["language"] == one.language) & (before["direction"] == one.direction)]
                    made = Hypotheses(tuple(own["hypothesis"]), tuple(own["cut_off"] == 1))
                    self._append_patched(written, asked, one, UNPATCHED, [-1], [""] * len(one.ids), made)

    def _append_patched(
        self,
        written: Table,
        asked: translation_patching.Plan,
        one: Translation,
        condition: str,
        layers: Sequence[int],
        donors: Sequence[str],
        made: Hypotheses,
    ) -> None:
        references = list(one.references) * len(layers)
        with self.stages.stage("scores", f"Scored {one.language}, {one.direction}, {condition}, with sacrebleu"):
            scores = sentence_scores(made.texts, references, one.target, ("bleu", "chrf"))
            statistics = sentence_statistics(made.texts, references, one.target)
        with writing(written.path.parent):
            written.append(
                model=self.config.model.name,
                task=self.task,
                direction=one.direction,
                language=one.language,
                source_language=translation_patching.source_language(asked, condition, one),
                condition=condition,
                component=asked.config.component.value,
                site=translation_patching.SITE,
                window=[asked.config.window] * len(references),
                layer=np.repeat(layers, len(one.ids)),
                item_id=list(one.ids) * len(layers),
                donor=list(donors) * len(layers),
                hypothesis=list(made.texts),
                **scores,
                **{f"{name}_statistics": values for name, values in statistics.items()},
                cut_off=[int(cut) for cut in made.cut_off],
            )

    def write_translations(
        self, task: Flores, translations: Mapping[str, Sequence[Translation]], folder: Path
    ) -> dict[str, dict[str, Any]]:
        """Write ``translations.parquet``; returns corpus scores and counts by language and direction."""
        for missing in (spbleu_missing(), language_id.MISSING if language_id.missing() else None):
            if missing:
                log.info(missing)
        found: dict[str, dict[str, Any]] = {}
        with self._table(folder, "translations") as written:
            for language, directions in translations.items():
                for one in directions:
                    what = f"Translated {language}, {one.direction}"
                    compute = functools.partial(self._translate, one, task.max_new_tokens, what)
                    texts = repr((one.prompts, task.max_new_tokens))
                    digest = hashlib.sha256(texts.encode()).hexdigest()
                    tensors = self._get("translations", digest, what, compute)
                    if tensors is None or written is None:
                        continue
                    hypotheses = Hypotheses.from_tensors(tensors)
                    with self.stages.stage("scores", f"Scored {language}, {one.direction}, with sacrebleu"):
                        sentences = sentence_scores(hypotheses.texts, one.references, one.target)
                        corpus = corpus_scores(hypotheses.texts, one.references, one.target, task.resamples)
                        copied = corpus_scores(one.sources, one.references, one.target)
                    found.setdefault(language, {})[one.direction] = {
                        **counts(one, hypotheses),
                        **corpus,
                        "copied_source": {name: score["score"] for name, score in copied.items()},
                    }
                    with writing(folder):
                        _append_translations(written, self, one, hypotheses, sentences)
        return found

    def _translate(self, translation: Translation, max_new_tokens: int, what: str) -> dict[str, Tensor]:
        lm = self.lm
        with self.stages.stage("translation", what, len(translation.ids)) as advance:
            return translate(lm, translation, max_new_tokens, self.config.batch_tokens, advance).tensors()


def _check_model(config: Config) -> None:
    """Refuse a model that cannot be loaded, and layers that it does not have, as far as its files tell."""
    check(config.model)
    last = num_layers(config.model)
    if last is not None:
        _layers(config, last)
        first = 0 if config.patch.component is Component.resid else 1
        patch.chosen_layers(config.patch, range(first, last + 1), config.model.name)


def _layers(config: Config, last: int) -> list[int]:
    """The layers to report of a model whose layers end with `last`."""
    asked = config.layers
    if asked == "all":
        return list(range(last + 1))
    outside = [k for k in asked if not 0 <= k <= last]
    if outside:
        raise InputError(f"layers has {outside[0]}, but {config.model.name} has layers 0 to {last}.")
    return list(asked)


def _check_needs(task: ParallelTask, metrics: Mapping[str, Metric]) -> None:
    for name, metric in metrics.items():
        if metric.needs not in task.offers:
            raise InputError(
                f"metric={name} compares {metric.needs}, and {task.name} has {' and '.join(sorted(task.offers))}; "
                f"use metric={'[mexa]' if 'sentences' in task.offers else '[dali,dali_strong,mexa_t]'}."
            )


def _to_patch(config: PatchConfig, pairs: Sequence[Pair], folder: Path) -> list[list[str]]:
    """The items to patch of each pair."""
    predictions = pd.read_parquet(folder / "predictions.parquet")
    return [patch.chosen_items(config.items, pair, predictions) for pair in pairs]


def _alignment_texts(pair: Pair) -> str:
    """Digest of all texts that the pair's similarities are of, in order."""
    own, other = pair.language.by_id(), pair.english.by_id()
    texts = [(own[i].options, own[i].premise, other[i].options, other[i].premise) for i in pair.ids]
    return hashlib.sha256(repr(texts).encode()).hexdigest()


def _prompts(side: ItemSet) -> str:
    """Digest of all texts that the side's predictions are of, in order."""
    return hashlib.sha256(repr([(i.prompt, i.continuations, i.premise) for i in side.items]).encode()).hexdigest()


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
        item_tokens=[p.item_tokens for p in predictions],
        option_similarity=[option_similarity(item) for item in side.items],
        category=[item.category for item in side.items],
    )


def _append_translations(
    written: Table,
    job: Job,
    translation: Translation,
    hypotheses: Hypotheses,
    scores: Mapping[str, Sequence[float]],
) -> None:
    none = [None] * len(translation.ids)
    written.append(
        model=job.config.model.name,
        task=job.task,
        direction=translation.direction,
        language=translation.language,
        item_id=list(translation.ids),
        source=list(translation.sources),
        hypothesis=list(hypotheses.texts),
        reference=list(translation.references),
        bleu=scores["bleu"],
        chrf=scores["chrf"],
        spbleu=scores.get("spbleu", none),
        comet=none,
        cometkiwi=none,
        cut_off=[int(cut) for cut in hypotheses.cut_off],
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
