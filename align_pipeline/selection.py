"""What a config asks for: task, data, languages and measurements, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hydra.utils import instantiate

from align_pipeline.config import Config
from align_pipeline.config.lang import Language
from align_pipeline.config.tuned import tuning_of
from align_pipeline.data.parallel import prints_of, refuse_overlap
from align_pipeline.data.source import Source
from align_pipeline.data.tasks import Pair, ParallelTask, sides_of
from align_pipeline.engine.checks import check, num_layers
from align_pipeline.engine.model import LanguageModel
from align_pipeline.measurements import registered
from align_pipeline.measurements.base import Measurement


def selected(
    config: Config, lm: LanguageModel | None = None
) -> tuple[ParallelTask, Source, list[Language], list[type[Measurement]]]:
    """The task of a job, the source of its data, its languages that the task has, and its measurements, all checked.

    Raises:
        InputError: the config asks for something that the task, the data or the model does not have.
    """
    task: ParallelTask = instantiate(config.task)
    asked = [kind for kind in registered() if kind.asked(config, task)]
    if lm is None:
        check(config.model)
    last = num_layers(config.model) if lm is None else lm.num_layers
    for kind in asked:
        kind.check(config, task, last)
    source = Source(config.source)
    named = {config.languages[code].flores for code in config.named if code in config.languages}
    return task, source, list(task.supported(config.languages.values(), source, named)), asked


def known_of_tuning(config: Config, pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """What is known of a tuned model's training, and how many of its sentences are in the evaluated texts.

    Raises:
        InputError: there are some, and that was not allowed.
    """
    if config.model.tuned is None:
        return None
    known: dict[str, Any] = tuning_of(config.model.tuned)["tuning"]
    items = [item for side in sides_of(pairs).values() for item in side.items]
    allowed = config.allow_overlap or known["overlap_allowed"]
    overlap = refuse_overlap(prints_of(config.model.tuned), items, config.model.name, "allow_overlap", allowed)
    return {**known, "overlap": overlap}
