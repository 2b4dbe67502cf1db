"""Pool hidden states during the forward pass."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from align_pipeline.engine.layout import Layout, Trunk, called_with, hooked, planned
from align_pipeline.engine.model import LanguageModel
from align_pipeline.errors import InputError

POOLINGS = ("last", "weighted")
MEAN = "mean"
"""A further pooling: the mean over all tokens, in float32 whatever the model's dtype."""
ACTIVE = "active"
"""Not of hidden states: the share of tokens, weighted as in ``weighted``, at which each MLP neuron is above 0 (the
neuron activation state of NeuronXA, arXiv 2507.14900); in float16, for layers 1 to L, [L, members, neurons]."""


def pooled_pass(
    lm: LanguageModel, layout: Layout, layers: Sequence[int], poolings: Sequence[str], trunk: Trunk | None = None
) -> dict[str, Tensor]:
    """One forward pass: pooling -> [layers, members, D]. The input of block k is hidden_states[k], pooled there."""
    if lm.plan is not None:
        real = replace(lm, plan=None)
        planned(lm, "states", layout, trunk, lambda again, held: pooled_pass(real, again, layers, poolings, held))
        blank = torch.zeros(len(layers), len(layout.members), lm.width, dtype=lm.model.dtype)
        active_blank = torch.zeros(lm.num_layers, len(layout.members), lm.neurons, dtype=torch.float16)
        return {pooling: active_blank if pooling == ACTIVE else blank for pooling in poolings}
    kept: dict[int, dict[str, Tensor]] = {}
    active: list[Tensor] = []
    pool = _Pool(layout, poolings)

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            kept[layer] = pool(args[0] if args else kwargs["hidden_states"])

        return hook

    def neurons(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        active.append(pool.active(output))

    inner = [k for k in layers if k < lm.num_layers]
    handles = [lm.layers[k].register_forward_pre_hook(keep(k), with_kwargs=True) for k in inner]
    if ACTIVE in poolings:
        handles += [function.register_forward_hook(neurons) for function in lm.activations]
    with hooked(handles), called_with(layout, trunk) as arguments:
        final = lm.decoder(**arguments).last_hidden_state
    if lm.num_layers in layers:
        kept[lm.num_layers] = pool(final)
    found = {pooling: torch.stack([kept[k][pooling] for k in layers]) for pooling in poolings if pooling != ACTIVE}
    return found | ({ACTIVE: torch.stack(active)} if ACTIVE in poolings else {})


class _Pool:
    """[B, T, D] -> pooling -> [members, D], for one layout."""

    def __init__(self, layout: Layout, poolings: Sequence[str]) -> None:
        device = layout.tokens.device
        ends = [layout.rows[layout.row_of[m]].ends[m] for m in layout.members]
        self.row = torch.tensor([layout.row_of[m] for m in layout.members], device=device)
        self.end = torch.tensor(ends, device=device)
        self.poolings = poolings
        self.weights: dict[str, Tensor] = {}
        if {"weighted", MEAN, ACTIVE} & set(poolings):
            width = layout.tokens.shape[1]
            counts = torch.bincount(self.row.cpu(), minlength=len(layout.rows))
            self.slot = torch.cat([torch.arange(int(n)) for n in counts]).to(device)
            steps = torch.arange(1, width + 1).expand(len(layout.rows), width)
            if layout.sees is not None and layout.positions is not None:
                seen, steps = layout.sees[self.row.cpu(), self.end.cpu()], layout.positions.cpu() + 1
            else:
                seen = torch.arange(width) <= torch.tensor(ends)[:, None]
            for pooling, weight in (("weighted", steps), (MEAN, torch.ones_like(steps)), (ACTIVE, steps)):
                if pooling in poolings:
                    weights = torch.zeros(len(layout.rows), int(counts.max()), width)
                    weights[self.row.cpu(), self.slot.cpu()] = torch.where(seen, weight[self.row.cpu()], 0).float()
                    self.weights[pooling] = (weights / weights.sum(-1, keepdim=True).clamp(min=1)).to(device)

    def __call__(self, states: Tensor) -> dict[str, Tensor]:
        pooled = {}
        if "last" in self.poolings:
            pooled["last"] = states[self.row, self.end]
        for pooling, weights in self.weights.items():
            if pooling == ACTIVE:
                continue
            mean = (weights @ states.float())[self.row, self.slot]
            pooled[pooling] = mean if pooling == MEAN else mean.to(states.dtype)
        return pooled

    def active(self, neurons: Tensor) -> Tensor:
        """Neurons [B, T, F] -> `ACTIVE` of each member, [members, F]."""
        # Some modules flatten the tokens.
        neurons = neurons.reshape(*self.weights[ACTIVE].shape[::2], -1)
        return (self.weights[ACTIVE] @ (neurons > 0).float())[self.row, self.slot].half()


def check_finite(states: Tensor, model: str, layers: Sequence[int], names: Sequence[str]) -> None:
    """Refuse states [layers, members, D] that are not finite.

    Raises:
        InputError: some are not; names model, layer and item.
    """
    bad = ~torch.isfinite(states).all(dim=-1)  # [layers, members]
    if bad.any():
        layer, member = torch.nonzero(bad)[0].tolist()
        raise InputError(
            f"{model} has a hidden state that is not a finite number in layer {layers[layer]} for item "
            f"{names[member]}; try model.dtype=float32 or bfloat16."
        )
