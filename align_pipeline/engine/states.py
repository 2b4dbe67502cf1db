"""Pooled hidden states of many texts, all in memory at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.engine.forward import Advance, hidden_states
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.pooling import MEAN


def pooled_states(
    lm: LanguageModel,
    groups: Sequence[Sequence[Tokens]],
    names: Sequence[str],
    poolings: Sequence[str],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> dict[str, Tensor]:
    """The states of all texts and layers, in every process; for arguments and errors see `forward.hidden_states`.

    Returns:
        By pooling [L + 1, groups, m, D] in the model's dtype (``mean``: float32), on the model's device or, if they are
        large, in host memory.
    """
    layers = range(lm.num_layers + 1)
    shape = (len(layers), len(groups), len(groups[0]), lm.width)
    dtypes = {pooling: torch.float32 if pooling == MEAN else lm.model.dtype for pooling in poolings}
    home = _home(lm, math.prod(shape) * sum(dtype.itemsize for dtype in dtypes.values()))
    kept = {pooling: torch.zeros(shape, dtype=dtype, device=home) for pooling, dtype in dtypes.items()}
    for chosen, states in hidden_states(lm, groups, names, layers, poolings, batch_tokens, advance):
        for pooling, value in states.items():
            kept[pooling][:, chosen] = value.to(kept[pooling].device)
    for states_of_all in kept.values():
        distributed.filled(states_of_all)
    return kept


def _home(lm: LanguageModel, size: int) -> torch.device:
    """The device for so many bytes: the model's, unless they take a third of its free memory."""
    fits = True
    if lm.device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(lm.device)
        fits = size <= free / 3
    return lm.device if distributed.least(fits) else torch.device("cpu")
