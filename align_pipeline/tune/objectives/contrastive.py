"""Pull a sentence's state towards that of its English translation, and away from other English sentences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from align_pipeline.errors import InputError
from align_pipeline.tune.objectives.base import Batch
from align_pipeline.tune.passes import Trainee

POOLINGS = ("mean", "last")


def info_nce(x: Tensor, english: Tensor, temperature: float, same: Tensor) -> Tensor:
    """InfoNCE (van den Oord et al. 2018): mean of -log(exp(cos(x_i, e_i) / t) / sum_j exp(cos(x_i, e_j) / t)).

    Args:
        x, english: [B, D], pooled states; computed in float32 or better.
        temperature: t.
        same: bool [B, B], true where e_i and e_j are the same sentence; such j != i are no negatives of i.
    """
    x, english = (side.to(torch.promote_types(side.dtype, torch.float32)) for side in (x, english))
    cosines = functional.normalize(x, dim=-1) @ functional.normalize(english, dim=-1).T
    own = torch.eye(len(x), dtype=torch.bool, device=x.device)
    scores = (cosines / temperature).masked_fill(same.to(x.device) & ~own, -torch.inf)
    return functional.cross_entropy(scores, torch.arange(len(x), device=x.device))


def pooled(states: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """[B, T, D] and bool [B, T] -> [B, D]: mean over all tokens, BOS included, or the last token."""
    if pooling == "last":
        return states[torch.arange(len(states), device=states.device), mask.sum(dim=1) - 1]
    weights = mask.unsqueeze(-1).to(torch.promote_types(states.dtype, torch.float32))  # not a sum in bfloat16
    return (states * weights).sum(dim=1) / weights.sum(dim=1)


def _centered(vectors: Tensor, names: Sequence[str]) -> Tensor:
    """[B, D] minus the mean over the vectors of the same name."""
    same = torch.tensor([[float(a == b) for b in names] for a in names], device=vectors.device)
    wide = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
    return wide - (same / same.sum(dim=1, keepdim=True)).to(wide.dtype) @ wide


@dataclass(frozen=True)
class Contrastive:
    """InfoNCE: a sentence must find its English translation among the English sentences of the micro-batch."""

    layers: Sequence[float] = (0.5,)
    """Layers of ``hidden_states`` whose losses are averaged: shares of the depth, numbers, or -1 for the last."""
    pooling: str = "mean"
    """mean or last."""
    temperature: float = 0.1
    """Cosines are divided by it."""
    both_ways: bool = False
    """Also let an English sentence find its translation, and average both losses."""
    centered: bool = False
    """Subtract each language's mean in the micro-batch first. This helps if all states are nearly parallel (Gemma 3):
    raw cosines then differ by too little to learn from."""
    weight: float = 1.0
    """Factor of the loss."""

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(f"pooling={self.pooling} does not exist; available: {', '.join(POOLINGS)}.")
        if not self.temperature > 0:
            raise InputError(f"temperature={self.temperature} is too small; use more than 0.")
        given = () if isinstance(self.layers, (str, int, float)) else self.layers
        if not given or not all(isinstance(one, int) or 0 < one < 1 for one in given):
            raise InputError(
                f"layers={self.layers} is not a list of layers; use shares of the depth between 0 and 1, or whole "
                "numbers, such as [0.5] or [16] or [-1]."
            )

    def loss(self, trainee: Trainee, batch: Batch) -> Tensor:
        """See `Objective`; both sides are run in one pass."""
        layers = [trainee.layer(given) for given in self.layers]
        count = len(batch.english)
        if count < 2:
            raise InputError(
                "A contrastive loss has no negatives in a micro-batch of 1; use tune.micro_batch=2 or more."
            )
        states, mask = trainee.states(trainee.encode([*batch.english, *batch.other]), layers)
        sames = [torch.tensor([[a == b for b in side] for a in side]) for side in (batch.english, batch.other)]
        losses = []
        for layer in layers:
            vectors = pooled(states[layer], mask, self.pooling)
            english, x = vectors[:count], vectors[count:]
            if self.centered:
                english, x = _centered(english, ["English"] * count), _centered(x, batch.names)
            losses.append(info_nce(x, english, self.temperature, sames[0]))
            if self.both_ways:
                losses.append(info_nce(english, x, self.temperature, sames[1]))
        return torch.stack(losses).mean()
