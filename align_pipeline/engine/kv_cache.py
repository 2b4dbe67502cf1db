"""A KV cache that grows in place while text is generated."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

ROOM = 32
"""Free columns that a row's cache gets whenever it is copied to a larger buffer."""


def roomy(config: Any, keep_all: bool) -> DynamicCache:
    """An empty cache for a model's configuration.

    Layers with an attention window have transformers' cache, which forgets tokens outside it, unless all are kept.
    """
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer() if keep_all or type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's cached keys and values with spare columns: transformers' own cache is copied for each new token."""

    keys: Tensor
    values: Tensor
    room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """See transformers."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        before = self.get_seq_length()
        after = before + key_states.shape[-2]
        if self.room is None or self.room[0].shape[-2] < after:
            shape = (*key_states.shape[:-2], after + ROOM, key_states.shape[-1])
            self.room = key_states.new_empty(shape), value_states.new_empty((*shape[:-1], value_states.shape[-1]))
            if before:
                self.room[0][..., :before, :], self.room[1][..., :before, :] = self.keys, self.values
        for held, new in zip(self.room, (key_states, value_states), strict=True):
            held[..., before:after, :] = new
        self.keys, self.values = (held[..., :after, :] for held in self.room)
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """See transformers."""
        self.room = None
        super().batch_repeat_interleave(repeats)

    def batch_select_indices(self, indices: Tensor) -> None:
        """See transformers."""
        self.room = None
        super().batch_select_indices(indices)
