"""Each side's pooled states, computed once and kept in the cache as a memory-mapped file."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from align_pipeline import distributed
from align_pipeline.config.model import Dtype
from align_pipeline.data.tasks import ItemSet
from align_pipeline.engine.checks import num_layers, width
from align_pipeline.engine.identity import model_key
from align_pipeline.engine.pooling import POOLINGS
from align_pipeline.engine.states import pooled_states, shape_of
from align_pipeline.errors import InputError
from align_pipeline.files import room
from align_pipeline.measurements.alignment.similarity import EnglishStates, text_tokens
from align_pipeline.measurements.base import Job, digest, layers
from align_pipeline.store.cache import Cache

log = logging.getLogger(__name__)
_GIB = 2**30


class KeptStates:
    """The states of sides at the layers of ``layers=``, by side. Only the main process has them.

    Args:
        job: the job.
        sides: all sides whose states may be asked for.
    """

    def __init__(self, job: Job, sides: Sequence[ItemSet]) -> None:
        self.job = job
        self.cache = Cache(Path(job.config.cache) if job.config.cache else None)
        self._known: dict[tuple[str, str], EnglishStates] = {}
        self._planned: set[str] = set()
        self._check_room(sides)

    def __call__(self, side: ItemSet) -> EnglishStates:
        """A side's states; the first call of a side runs it through the model, unless the cache has it."""
        name = (side.language, side.pivot)
        if name not in self._known:
            lm = self.job.lm
            tokens = text_tokens(lm, side.items)
            ids = [item.id for item in side.items]
            chosen = layers(self.job.config, lm.num_layers)

            def compute() -> dict[str, torch.Tensor]:
                what = f"Embedded {side.language} ({side.pivot})"
                with self.job.stages.stage("extraction", what, _texts(side)) as go:
                    found = pooled_states(lm, tokens, ids, POOLINGS, self.job.config.batch_tokens, go)
                return {pooling: states[chosen].cpu() for pooling, states in found.items()}  # a GPU is for passes

            key = self._key(side, model_key(self.job.config.model) or {}) if self.cache.folder else {}
            note = {
                "model": self.job.config.model.name,
                "task": self.job.task.name,
                "what": f"States of {side.language} ({side.pivot})",
            }
            if lm.plan is not None:  # a dry run: nothing is kept, and the zeros that stand for states are narrower
                if key and (key["texts"] in self._planned or self.cache.has(key)):
                    states = self._blank(side)
                else:
                    self._planned |= {key["texts"]} if key else set()
                    states = compute()
                    wide = int(lm.model.config.get_text_config().hidden_size)
                    lm.plan.stored += sum(one.nbytes // lm.width * wide for one in states.values())
            else:
                got = distributed.kept(lambda computed: (self.cache.mapped(key, computed, note), False), compute)
                states = {} if got is None else got[0]
            self._known[name] = EnglishStates({item_id: row for row, item_id in enumerate(ids)}, tokens, states)
        return self._known[name]

    def _blank(self, side: ItemSet) -> dict[str, torch.Tensor]:
        """Zeros in the place of states that are in the cache."""
        lm, size = self.job.lm, len(side.items[0].options) + 1
        shapes = {pooling: shape_of(lm, pooling, len(side.items), size) for pooling in POOLINGS}
        chosen = layers(self.job.config, lm.num_layers)
        return {pooling: torch.zeros(shape, dtype=dtype)[chosen] for pooling, (shape, dtype) in shapes.items()}

    def _key(self, side: ItemSet, model: Mapping[str, Any]) -> dict[str, Any]:
        texts = digest([(item.options, item.premise) for item in side.items])
        return {"kind": "states", **model, "texts": texts, "layers": self.job.config.layers}

    def _check_room(self, sides: Sequence[ItemSet]) -> None:
        """Say how much is to be computed and kept.

        Raises:
            InputError: the disk has no room for it.
        """
        config = self.job.config.model
        model = self.job.given
        last = num_layers(config) if model is None else model.num_layers
        wide = width(config) if model is None else model.width
        if last is None or wide is None:  # a GGUF file: only the loaded model tells
            last, wide = self.job.lm.num_layers, self.job.lm.width
        size = 4 if config.dtype in (Dtype.float32, Dtype.auto) else 2
        each = len(layers(self.job.config, last)) * len(POOLINGS) * wide * size
        key = model_key(config) if self.cache.folder is not None else None
        new = [side for side in sides if key is None or not self.cache.has(self._key(side, key))]
        texts = sum(_texts(side) for side in new)
        need = texts * each
        log.info(
            "Pivots: %d texts of %d sides go through the model once (%d sides are in the cache); their states take "
            "%s %s. dry_run=true estimates the time.",
            *(texts, len(new), len(sides) - len(new), _in_words(need)),
            "of memory, as the cache is off" if self.cache.folder is None else f"in {self.cache.folder}",
        )
        if self.cache.folder is None or not new:
            return
        place, free = room(self.cache.folder)
        if need > free:
            raise InputError(
                f"The states of {len(new)} sides take {_in_words(need)}, but {place} has only {_in_words(free)} free; "
                "select fewer layers (layers=[...]), fewer items (task.limit=...) or languages, or another folder "
                "(cache=<folder>)."
            )


def _texts(side: ItemSet) -> int:
    return sum(len(item.options) + 1 for item in side.items)


def _in_words(size: int) -> str:
    return f"{size / _GIB:.1f} GiB" if size >= _GIB else f"{math.ceil(size / 2**20)} MiB"
