"""The engine: token sequences in; pooled hidden states of every layer, or log-likelihoods of continuations, out.

Sequences are sorted by length and packed into right-padded batches by a token budget. With causal attention what
stands right of a token cannot reach it, so right padding needs no mask. Sequences that are equal run once: equal texts
then have bit-equal vectors, and an exact tie stays one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from align_pipeline.errors import InputError
from align_pipeline.model import LanguageModel, Tokens

Advance = Callable[[int], None]
"""Called after each batch with the number of texts it finished."""

POOLINGS = ("last", "weighted")
_LOGIT_ROWS = 256  # rows of the vocabulary that are float32 at once


@dataclass(frozen=True)
class Batch:
    """Right-padded sequences and their lengths.

    Attributes:
        tokens: [B, T] int64.
        lengths: [B] int64.
    """

    tokens: Tensor
    lengths: Tensor


def hidden_states(
    lm: LanguageModel,
    groups: Sequence[Sequence[Tokens]],
    names: Sequence[str],
    layers: Sequence[int],
    poolings: Sequence[str],
    batch_tokens: int,
    advance: Advance = lambda texts: None,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Pooled hidden states, batch by batch; only pooled ones are ever kept.

    Args:
        lm: the model.
        groups: texts that must come out together, such as the options of an item; all groups of one size m.
        names: what to call each group in an error.
        layers: which of Hugging Face's ``hidden_states``, 0 to L; L comes after the final norm.
        poolings: ``last`` (the final token's state) and/or ``weighted`` (sum_t t*h_t / sum_t t, t = 1..T; MEXA).
        batch_tokens: most tokens in a forward pass, padding included; one longer group runs alone.
        advance: told how many texts each batch finished.

    Yields:
        Indices of the batch's groups, and by pooling a tensor [layers, groups in the batch, m, D]: ``last`` in the
        model's dtype (exact), ``weighted`` in float32.

    Raises:
        InputError: a hidden state is NaN or infinite; names model, layer and group.
    """
    lengths = [[len(text) for text in group] for group in groups]
    for chosen in _packed([max(n) for n in lengths], [len(n) for n in lengths], batch_tokens):
        texts = [tuple(text) for index in chosen for text in groups[index]]
        row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        with torch.inference_mode():
            pooled = _pooled_pass(lm, _batch(lm, list(row_of)), layers, poolings)
        rows = torch.tensor([row_of[text] for text in texts], device=lm.device)
        shape = (len(layers), len(chosen), len(texts) // len(chosen), -1)
        states = {pooling: value[:, rows].reshape(shape) for pooling, value in pooled.items()}
        for value in states.values():
            _check_finite(value, lm.name, layers, [names[index] for index in chosen])
        yield chosen, states
        advance(len(texts))


def loglikelihoods(
    lm: LanguageModel,
    requests: Sequence[tuple[Tokens, Tokens]],
    batch_tokens: int,
    advance: Advance = lambda texts: None,
) -> list[float]:
    """log p(continuation | context) in nats, summed over the continuation's tokens; log-softmax in float32.

    Args:
        lm: the model.
        requests: (context, continuation) as token ids; the context has at least one token.
        batch_tokens: most tokens in a forward pass, padding included.
        advance: told how many requests each batch finished.
    """
    # The last token predicts nothing that is asked for: options of one token share their whole input.
    wanted: dict[tuple[int, ...], list[int]] = {}
    for index, (context, continuation) in enumerate(requests):
        if not context:
            raise ValueError("a context needs at least one token to predict from")
        wanted.setdefault(tuple([*context, *continuation][:-1] if continuation else context), []).append(index)
    sequences = list(wanted)
    results = [0.0] * len(requests)
    for chosen in _packed([len(s) for s in sequences], [1] * len(sequences), batch_tokens):
        members = [(row, index) for row, which in enumerate(chosen) for index in wanted[sequences[which]]]
        spans = [(row, len(requests[index][0]), requests[index][1]) for row, index in members]
        with torch.inference_mode():
            sums = _scored_pass(lm, _batch(lm, [sequences[which] for which in chosen]), spans)
        for (_, index), value in zip(members, sums, strict=True):
            results[index] = value
        advance(len(members))
    return results


# ---- batches


def _packed(lengths: Sequence[int], sizes: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Indices of what runs together: longest first, so that a batch pads little and memory peaks at once."""
    batch: list[int] = []
    longest = rows = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batch and (rows + sizes[index]) * longest > batch_tokens:
            yield batch
            batch, longest, rows = [], 0, 0
        batch.append(index)
        longest, rows = max(longest, lengths[index]), rows + sizes[index]
    if batch:
        yield batch


def _batch(lm: LanguageModel, sequences: Sequence[Sequence[int]]) -> Batch:
    """The sequences, padded on the right, on the model's device; counted as run."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.zeros(len(sequences), int(lengths.max()), dtype=torch.long)  # any id will do: nothing attends to it
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    lm.tokens_run += int(lengths.sum())
    return Batch(tokens.to(lm.device), lengths.to(lm.device))


# ---- passes


@contextlib.contextmanager
def _hooked(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """The model is left without hooks, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _pooled_pass(lm: LanguageModel, batch: Batch, layers: Sequence[int], poolings: Sequence[str]) -> dict[str, Tensor]:
    """One forward pass: pooling -> [layers, B, D]. What block k reads is hidden_states[k]; it is pooled right there."""
    kept: dict[int, dict[str, Tensor]] = {}

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            kept[layer] = _pool(args[0] if args else kwargs["hidden_states"], batch.lengths, poolings)

        return hook

    inner = [k for k in layers if k < lm.num_layers]
    with _hooked([lm.layers[k].register_forward_pre_hook(keep(k), with_kwargs=True) for k in inner]):
        final = lm.decoder(input_ids=batch.tokens, use_cache=False).last_hidden_state
    if lm.num_layers in layers:
        kept[lm.num_layers] = _pool(final, batch.lengths, poolings)
    return {pooling: torch.stack([kept[k][pooling] for k in layers]) for pooling in poolings}


def _pool(states: Tensor, lengths: Tensor, poolings: Sequence[str]) -> dict[str, Tensor]:
    """[B, T, D] -> pooling -> [B, D]."""
    pooled = {}
    if "last" in poolings:
        pooled["last"] = states[torch.arange(len(lengths), device=states.device), lengths - 1]
    if "weighted" in poolings:
        steps = torch.arange(1, states.shape[1] + 1, device=states.device)
        weights = torch.where(steps <= lengths[:, None], steps, 0).float()
        weights /= weights.sum(dim=1, keepdim=True)
        pooled["weighted"] = torch.einsum("bt,btd->bd", weights, states.float())
    return pooled


def _scored_pass(lm: LanguageModel, batch: Batch, spans: Sequence[tuple[int, int, Tokens]]) -> list[float]:
    """Summed log-probabilities of spans (row, start, tokens) in one forward pass.

    Logits are made only where a span needs them, by handing the output embeddings those positions alone; whatever the
    model does to logits afterwards (soft-capping, scaling) still happens.
    """
    rows = torch.tensor([row for row, _, tokens in spans for _ in tokens], device=lm.device)
    steps = torch.tensor(
        [start - 1 + offset for _, start, tokens in spans for offset in range(len(tokens))], device=lm.device
    )
    targets = torch.tensor([token for _, _, tokens in spans for token in tokens], device=lm.device)
    if not len(targets):
        return [0.0] * len(spans)
    # Spans of one row often ask for the same position (four options after one prompt): its logits are made once.
    places, place_of = torch.unique(torch.stack([rows, steps]), dim=1, return_inverse=True)

    def select(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor]:
        return (args[0][places[0], places[1]].unsqueeze(0),)

    with _hooked([lm.head.register_forward_pre_hook(select)]):
        logits = lm.model(input_ids=batch.tokens, use_cache=False).logits[0]
    chosen = torch.cat(
        [
            logits[place_of[at : at + _LOGIT_ROWS]]
            .float()
            .log_softmax(dim=-1)
            .gather(1, targets[at : at + _LOGIT_ROWS, None])
            for at in range(0, len(targets), _LOGIT_ROWS)
        ]
    )
    sums = torch.zeros(len(spans), dtype=torch.float64)
    owner = torch.tensor([index for index, (_, _, tokens) in enumerate(spans) for _ in tokens])
    sums.index_add_(0, owner, chosen[:, 0].double().cpu())
    if not torch.isfinite(sums).all():
        raise InputError(f"{lm.name} gives a log-likelihood that is not a finite number; try model.dtype=float32.")
    return sums.tolist()


def _check_finite(states: Tensor, model: str, layers: Sequence[int], names: Sequence[str]) -> None:
    bad = ~torch.isfinite(states).all(dim=-1).all(dim=-1)  # [layers, groups]
    if bad.any():
        layer, group = torch.nonzero(bad)[0].tolist()
        raise InputError(
            f"{model} has a hidden state that is not a finite number in layer {layers[layer]} for item {names[group]}; "
            "try model.dtype=float32 or bfloat16."
        )
