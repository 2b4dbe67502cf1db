"""Log-probabilities computed in chunks, so that few logits are in memory at once."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from align_pipeline.engine.layout import Layout, Trunk, called_with, planned
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError

_LOGIT_BYTES = {"cpu": 2**25 - 2**16, "cuda": 2**30}  # bytes of logits at once; CPU: below glibc's mmap threshold


def scored_pass(
    lm: LanguageModel, layout: Layout, spans: Sequence[tuple[int, Sequence[int], Tokens]], trunk: Trunk
) -> list[float]:
    """Summed log-probabilities of spans (row, predicting row indices, tokens) in one forward pass.

    Logits are computed only at positions that a span needs.
    """
    if lm.plan is not None:
        real = replace(lm, plan=None)
        wanted = {(row, column) for row, at, tokens in spans for column in at[: len(tokens)]}
        planned(lm, "scores", layout, trunk, lambda made, held: scored_pass(real, made, spans, held), len(wanted))
        return [0.0] * len(spans)
    rows = torch.tensor([row for row, _, tokens in spans for _ in tokens], device=lm.device, dtype=torch.long)
    columns = [column for _, at, tokens in spans for column in at[: len(tokens)]]
    targets = torch.tensor([token for _, _, tokens in spans for token in tokens], device=lm.device)
    if not columns:
        return [0.0] * len(spans)
    # Spans of a row often share a position (four options after one prompt): its logits are computed once.
    asked = torch.stack([rows, torch.tensor(columns, device=lm.device)])
    places, place_of = torch.unique(asked, dim=1, return_inverse=True)
    with called_with(layout, trunk) as arguments:
        output = lm.decoder(**arguments)
    states = output.last_hidden_state[places[0], places[1]]
    chosen = _of_targets(lm, output, states, place_of, targets)
    sums = torch.zeros(len(spans), dtype=torch.float64)
    owner = torch.tensor([index for index, (_, _, tokens) in enumerate(spans) for _ in tokens])
    sums.index_add_(0, owner, chosen.double().cpu())
    if not torch.isfinite(sums).all():
        raise InputError(f"{lm.name} gives a log-likelihood that is not a finite number; try model.dtype=float32.")
    return sums.tolist()


def _of_targets(lm: LanguageModel, output: Any, states: Tensor, place_of: Tensor, targets: Tensor) -> Tensor:
    """log p(target) in nats, float32, computed in chunks to limit memory.

    Args:
        lm: the model.
        output: the decoder's output.
        states: [P, D], final hidden states at P positions.
        place_of: [N], index of the position that predicts each target.
        targets: [N].
    """
    found = torch.empty(len(targets), dtype=torch.float32, device=states.device)
    for part, logs in log_probabilities(lm, output, states):
        here = ((place_of >= part.start) & (place_of < part.stop)).nonzero()[:, 0]
        found[here] = logs[place_of[here] - part.start, targets[here]]
    return found


def log_probabilities(lm: LanguageModel, output: Any, states: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """All tokens' log-probabilities in nats, [b, V] in float32, after b of the final hidden states [P, D] at a time.

    Args:
        lm: the model.
        output: the decoder's output, for `logits`.
        states: final hidden states.

    Yields:
        The part of the P, and its log-probabilities.
    """
    size = max(1, _LOGIT_BYTES.get(states.device.type, _LOGIT_BYTES["cpu"]) // (4 * lm.vocabulary))
    for start in range(0, len(states), size):
        # logsumexp takes ten times as long where many tokens have a probability near 0.
        logs = logits(lm, output, states[start : start + size]).float().log_softmax(dim=-1)
        yield slice(start, start + size), logs


def logits(lm: LanguageModel, output: Any, states: Tensor) -> Tensor:
    """[P, V]: logits of final hidden states [P, D], soft-capping and scaling included.

    The causal LM is called with a decoder that returns these states, so that all its later steps are applied.
    """
    given = copy.copy(output)
    given.last_hidden_state = states.unsqueeze(0)
    own = lm.decoder.__dict__.get("forward")
    lm.decoder.forward = lambda *args, **kwargs: given
    try:
        tokens = torch.zeros(1, len(states), dtype=torch.long, device=states.device)
        logits: Tensor = lm.model(input_ids=tokens, use_cache=False).logits[0]
    finally:
        del lm.decoder.forward
        if own is not None:
            lm.decoder.forward = own
    return logits
