"""Pooled hidden states of many texts, all in memory at once."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.engine.forward import Advance, hidden_states
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.pooling import ACTIVE, MEAN


def pooled_states(
    lm: LanguageModel,
    groups: Sequence[Sequence[Tokens]],
    names: Sequence[str],
    poolings: Sequence[str],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
    only: Mapping[str, int] | None = None,
) -> dict[str, Tensor]:
    """The states of all texts and layers, in every process; for arguments and errors see `forward.hidden_states`.

    Args:
        only: poolings of which one text of each group is kept, by its index from the end, such as -1.

    Returns:
        By pooling [L + 1, groups, m, D] in the model's dtype (``mean``: float32; ``active``: see `pooling.ACTIVE`), on
        the model's device or, if they are large, in host memory. Poolings in `only`: m = 1.
    """
    only = only or {}
    shapes = {p: shape_of(lm, p, len(groups), 1 if p in only else len(groups[0])) for p in poolings}
    home = _home(lm, sum(math.prod(shape) * dtype.itemsize for shape, dtype in shapes.values()))
    if lm.plan is not None:
        real = replace(lm, plan=None)
        held = [shape_of(real, p, len(groups), 1 if p in only else len(groups[0])) for p in poolings]
        lm.plan.hold(sum(math.prod(shape) * dtype.itemsize for shape, dtype in held))
    kept = {pooling: torch.zeros(shape, dtype=dtype, device=home) for pooling, (shape, dtype) in shapes.items()}
    for chosen, states in hidden_states(lm, groups, names, range(lm.num_layers + 1), poolings, batch_tokens, advance):
        for pooling, value in states.items():
            kept[pooling][:, chosen] = (value[:, :, only[pooling], None] if pooling in only else value).to(home)
    for states_of_all in kept.values():
        distributed.filled(states_of_all)
    return kept


def shape_of(lm: LanguageModel, pooling: str, groups: int, size: int) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of the pooled states of all layers of `groups` x `size` texts."""
    if pooling == ACTIVE:
        return (lm.num_layers, groups, size, lm.neurons), torch.float16
    return (lm.num_layers + 1, groups, size, lm.width), torch.float32 if pooling == MEAN else lm.model.dtype


def first_equal(states: Tensor) -> Tensor:
    """[N]: for each of the states [N, D] the first one that has the same bits."""
    bits = states.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[states.dtype.itemsize]).long()
    generator = torch.Generator().manual_seed(0)
    weights = torch.randint(-(2**62), 2**62, (states.shape[1],), generator=generator) * 2 + 1
    hashes = (bits * weights.to(bits.device)).sum(dim=1)  # integers wrap around, so the sum is exact
    group = torch.unique(hashes, return_inverse=True)[1]
    order = torch.arange(len(states), device=states.device)
    return torch.full_like(order, len(states)).scatter_reduce(0, group, order, "amin")[group]


def _home(lm: LanguageModel, size: int) -> torch.device:
    """The device for so many bytes: the model's, unless they take a third of its free memory."""
    fits = True
    if lm.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(lm.device)
        fits = size <= free / 3
    return lm.device if distributed.least(fits) else torch.device("cpu")
