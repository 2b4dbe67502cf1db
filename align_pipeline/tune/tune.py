"""Tune a model, from a typed config to a folder with the trained weights, their record, losses and figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.utils import instantiate

from align_pipeline import distributed
from align_pipeline.config.lang import Language
from align_pipeline.config.model import Parallel
from align_pipeline.config.tune import Method, TuneConfig, TuningConfig
from align_pipeline.config.tuned import PRINTS, TUNING, base_path_of
from align_pipeline.data.items import Item
from align_pipeline.data.parallel import Pairs, Prints, read, refuse_overlap
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import ChoiceTask, Pair, sides_of
from align_pipeline.engine.checks import check, parts, path_of
from align_pipeline.engine.identity import model_key
from align_pipeline.errors import InputError
from align_pipeline.figures.style import METRICS
from align_pipeline.measurements.alignment.metrics import Number
from align_pipeline.store import folders
from align_pipeline.tracking import console
from align_pipeline.tracking import wandb as tracking
from align_pipeline.tracking.live import live
from align_pipeline.tune import checkpoint, figures, trainable
from align_pipeline.tune.batches import split
from align_pipeline.tune.checkpoint import Progress
from align_pipeline.tune.held_out import HeldOut
from align_pipeline.tune.loop import Training
from align_pipeline.tune.objectives import Contrastive, Objective
from align_pipeline.tune.passes import Trainee

log = logging.getLogger(__name__)


def tune(config: TuningConfig, folder: Path, settings: Mapping[str, Any]) -> Path:
    """Train a model.

    Args:
        config: the typed config.
        folder: the output folder; a stopped training goes on from its checkpoint there.
        settings: the resolved config, for the record.

    Returns:
        the folder, for ``model=tuned model.tuned=<folder>``.

    Raises:
        InputError: something the user gave cannot be used; one sentence says what and why.
    """
    if not distributed.is_main():
        return _tune(config, folder, settings)
    with folders.held(folder):
        (folder / folders.ERROR).unlink(missing_ok=True)  # of an earlier attempt in a sweep
        return _tune(config, folder, settings)


def _tune(config: TuningConfig, folder: Path, settings: Mapping[str, Any]) -> Path:
    check(config.model)
    _refuse(config)
    source = Source(config.source)
    languages = list(config.languages.values())
    if not config.tune.objectives:
        raise InputError("tune.objectives is empty; choose a preset, such as tune=midalign.")
    objectives = {name: instantiate(one) for name, one in config.tune.objectives.items()}
    pairs = {language.flores: read(config.tune.pairs, language, source) for language in languages}
    metrics = {name: instantiate(one) for name, one in config.metrics.items()}
    evaluated, examples = _task(config, languages, source)
    prints = Prints.of(text for own in pairs.values() for text in (*own.english, *own.other))
    overlap = _overlap(config, prints, evaluated)
    key = distributed.from_main(model_key(config.model))
    read_examples = examples if any(getattr(one, "uses_examples", False) for one in objectives.values()) else []
    if key is not None and _is_done(folder, _identity(config, key, pairs, read_examples)):
        return folder

    stages = console.Stages()
    with stages.stage("model", f"Loaded {config.model.name}"):
        lm, saved = trainable.prepare(config.model, config.tune, config.seed)
    key = key or distributed.from_main(model_key(config.model))  # a hub model is known once it is on this machine
    identity = _identity(config, key or {"model": config.model.path}, pairs, read_examples)
    if _is_done(folder, identity):
        return folder
    stream, held_out = split(pairs, languages, config.tune, config.seed, examples)
    trainee = Trainee(lm, config.tune.max_length)
    weights = trainable.weights_of(lm)
    _say_what(config.tune, trainee, stream.rows, sum(weight.numel() for weight in weights.values()))
    name = f"{config.tune.name}-seed{config.seed}"
    tags = ["tune", config.tune.name, config.model.name, *pairs]
    wandb = tracking.checked(config.wandb) if distributed.is_main() else config.wandb
    with live(wandb, folder, settings, "tune", identity) as run:
        run.open(f"{config.model.name}+{name}", tags)
        training = Training(
            tune=config.tune,
            trainee=trainee,
            weights=weights,
            objectives=objectives,
            stream=stream,
            held_out=HeldOut.of(held_out, evaluated, config.task_items, metrics),
            folder=folder,
            identity=identity,
            seed=config.seed,
            batch_tokens=config.batch_tokens,
            live=run,
        )
        total = config.tune.steps * config.tune.accumulation * config.tune.micro_batch
        with stages.stage("tuning", f"Tuned {config.model.name} with {config.tune.name}", total) as advance:
            progress = training.run(advance)
        record = {
            "name": name,
            "base": config.model.name,
            "preset": config.tune.name,
            "role": config.tune.role.value,
            "method": config.tune.method.value,
            "languages": list(pairs),
            "seed": config.seed,
            "steps": config.tune.steps,
            "tokens": progress.tokens,
            "pairs": len(stream.rows),
            "data": next(iter(pairs.values())).name,
            "overlap": overlap,
            "overlap_allowed": config.tune.pairs.allow_overlap,
        }
        base, model = _places(config, f"{config.model.name}+{name}")
        if distributed.is_main():
            kept: dict[str, Any] = {"tuning": record, "model": model, "base_path": base_path_of(config.model)}
            kept |= {"identity": identity, "seconds": round(progress.seconds, 1), "config": dict(settings)}
            _write(saved, lm, folder, base, kept, prints, progress)
            run.summarise({key: value for key, value in record.items() if isinstance(value, (int, str))})
    if distributed.is_main():
        numbers = [name for name, metric in metrics.items() if isinstance(metric, Number)]
        _tell(folder, progress, str(model["name"]), config.tune, objectives, numbers)
    return folder


def _task(config: TuningConfig, languages: Sequence[Language], source: Source) -> tuple[list[Pair], list[Item]]:
    """The evaluated items of the task, by language, and its English examples; empty without a task."""
    if config.task is None:
        return [], []
    task = instantiate(config.task)
    if not isinstance(task, ChoiceTask):
        raise InputError(
            f"{task.name} has no answer options; tune with task=belebele, xcopa or xstorycloze, or without a task."
        )
    supported = task.supported(languages, source, set())
    pairs = task.pairs(supported, source) if supported else []
    return pairs, task.examples(supported[0], source) if supported else []


def _overlap(config: TuningConfig, prints: Prints, evaluated: Sequence[Pair]) -> int:
    items = [item for side in sides_of(evaluated).values() for item in side.items]
    return refuse_overlap(prints, items, "this training", "tune.pairs.allow_overlap", config.tune.pairs.allow_overlap)


def _refuse(config: TuningConfig) -> None:
    """Refuse a model that cannot be trained, or not be used afterwards.

    Raises:
        InputError: its parts are on several GPUs, or it would need two adapters.
    """
    if config.model.parallel is not Parallel.none:
        raise InputError(
            f"model.parallel={config.model.parallel.value} is not for training: every process holds the whole model; "
            "use tune.gradient_checkpointing=true, or a smaller model."
        )
    if config.tune.method is Method.lora and parts(config.model)[1] is not None:
        raise InputError(
            f"{config.model.name} is a model with an adapter, and only one adapter can be merged into a model; use "
            "tune.method=full, or the base model."
        )


def _places(config: TuningConfig, name: str) -> tuple[str, dict[str, Any]]:
    """``model.path`` of the base model, absolute, and the keys of ``model`` with which the tuned model is used."""
    found, own = path_of(config.model.path), config.tune.method is Method.full
    local = isinstance(found, Path) and not config.model.path.startswith("embedded:")
    base = str(Path(found).resolve()) if local else config.model.path
    return base, {
        "name": name,
        "path": "." if own else base,
        "adapter": None if own else ".",
        "revision": None if own else config.model.revision,
        "gguf_file": None if own else config.model.gguf_file,
        "dtype": config.model.dtype.value,
        "attention": config.model.attention.value,
        "chat_template": config.model.chat_template,
    }


def _identity(
    config: TuningConfig, base: Mapping[str, Any], pairs: Mapping[str, Pairs], examples: Sequence[Item]
) -> str:
    """A digest of everything that the trained weights depend on; `base` is the model's key, `examples` those read."""
    asked = dataclasses.asdict(config.tune)
    for key in ("name", "role", "evaluate_every", "save_every", "pairs"):
        del asked[key]
    texts = [(own.language, own.english, own.other) for own in pairs.values()]
    answers = [(item.prompt, item.continuations, item.gold) for item in examples]
    known = (asked, base, config.seed, answers, texts)
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()[:16]


def _is_done(folder: Path, identity: str) -> bool:
    """Whether the folder holds this tuned model already.

    Raises:
        InputError: it holds another one.
    """
    path = folder / TUNING
    if not path.is_file():
        return False
    if json.loads(path.read_text(encoding="utf-8")).get("identity") != identity:
        raise InputError(
            f"{folder} holds another tuned model (other settings, base model or sentence pairs); give this one another "
            "name, which may contain settings (tune.name='midalign_${tune.learning_rate}'), or remove that one."
        )
    log.info("%s already holds this tuned model.", folder)
    return True


def _say_what(tune: TuneConfig, trainee: Trainee, rows: Sequence[tuple[str, str, str]], trained: int) -> None:
    """Say how much is trained, and the memory that it takes."""
    texts = [text for row in rows[:500] for text in row[:2]]
    whole = sorted(len(tokens) for tokens in trainee.lm.encode(texts))
    lengths = [min(length, tune.max_length) for length in whole]
    cut = sum(length > tune.max_length for length in whole)
    if cut:
        told = "%d of the first %d sentences have more than tune.max_length=%d tokens, and are cut off there."
        log.warning(told, cut, len(texts), tune.max_length)
    padded = 2 * tune.micro_batch * lengths[int(0.98 * (len(lengths) - 1))]
    memory = trainable.memory(trainee.lm, tune, padded)
    log.info(
        "Training %s weights (%s) on %d sentence pairs: %d steps of %d x %d pairs. Memory: about %.1f GB (%s).",
        f"{trained:,}",
        tune.method.value,
        len(rows),
        tune.steps,
        tune.accumulation,
        tune.micro_batch,
        sum(memory.values()),
        ", ".join(f"{name} {value:.1f}" for name, value in memory.items()),
    )


def _write(
    saved: Any, lm: Any, folder: Path, base: str, record: Mapping[str, Any], prints: Prints, progress: Progress
) -> None:
    losses, held_out = pd.DataFrame(progress.losses), pd.DataFrame(progress.held_out)
    figures.draw(losses, held_out, folder)
    files = {"losses.csv": losses.to_csv(index=False), "held_out.csv": held_out.to_csv(index=False)}
    files |= {PRINTS: json.dumps(prints.rows()), TUNING: json.dumps(record, indent=1, ensure_ascii=False) + "\n"}
    trainable.save(saved, lm, folder, base, files)
    checkpoint.remove(folder)


def _tell(
    folder: Path,
    progress: Progress,
    name: str,
    tune: TuneConfig,
    objectives: Mapping[str, Objective],
    numbers: Sequence[str],
) -> None:
    """Say on the console what changed, and how to evaluate the model; `numbers` names the metrics that give numbers."""
    rows = pd.DataFrame(progress.held_out)
    best = rows.groupby(["metric", "language", "step"])["value"].max().unstack("step")
    for keys, values in zip(best.index, best.to_numpy(), strict=True):
        what = "mean over held-out items" if keys[0] in numbers else "share of aligned held-out sentences or items"
        said = "%s, %s: %.2f before, %.2f after (%s, highest of all layers)."
        log.info(said, keys[1], METRICS.get(keys[0], keys[0]), values[0], values[-1], what)
    guessing = math.log(tune.micro_batch)
    losses = pd.DataFrame(progress.losses)
    for objective in (key for key, one in objectives.items() if isinstance(one, Contrastive)):
        last = losses.loc[losses["objective"] == objective, "loss"].tail(max(10, tune.steps // 5)).mean()
        if last > 0.97 * guessing:
            log.warning(
                "The contrastive loss '%s' has not left that of guessing (%.3f at the end, log %d = %.3f): nothing was "
                "aligned. Where a model's states are nearly parallel, set tune.objectives.%s.centered=true.",
                *(objective, last, tune.micro_batch, guessing, objective),
            )
    log.info("Tuned model, losses and figures: %s", folder)
    log.info("Evaluate %s: python -m align_pipeline.run model=tuned model.tuned=%s task=... lang=...", name, folder)
