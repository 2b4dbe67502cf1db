"""Forward passes with gradients: hidden states at chosen layers, and next-token losses."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from align_pipeline.engine.layout import hooked
from align_pipeline.engine.likelihood import logits
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError

LOGITS = 2**25
"""Logits in memory at once; each chunk's are computed again in the backward pass."""


class _EnoughError(Exception):
    """Ends a pass after the last layer that is needed."""


@dataclass
class Trainee:
    """A model in training.

    Attributes:
        lm: the model; its trainable weights are those with ``requires_grad``.
        max_length: texts are cut off at this number of tokens.
        tokens: number of tokens that went through the model so far, without padding.
    """

    lm: LanguageModel
    max_length: int
    tokens: int = 0

    def encode(self, texts: Sequence[str], sentences: int = 1) -> list[Tokens]:
        """Token ids with BOS, cut off at `max_length` for each of the sentences in a text."""
        return [tokens[: sentences * self.max_length] for tokens in self.lm.encode(texts)]

    def layer(self, given: float) -> int:
        """A layer as a number: a share of the depth, a layer, or a negative number counted from the last layer.

        Raises:
            InputError: the model does not have the layer.
        """
        last = self.lm.num_layers
        share = isinstance(given, float) and 0 < given < 1
        found = round(given * last) if share else int(given) + (last + 1 if given < 0 else 0)
        if not 0 <= found <= last:
            raise InputError(f"The objective's layer {given} does not exist: {self.lm.name} has layers 0 to {last}.")
        return found

    def states(self, texts: Sequence[Tokens], layers: Sequence[int]) -> tuple[dict[int, Tensor], Tensor]:
        """Hidden states with gradients; the pass ends at the last of the layers.

        Args:
            texts: token ids.
            layers: of Hugging Face's ``hidden_states``, 0 to L.

        Returns:
            layer -> [B, T, D], right-padded; bool [B, T], which tokens are not padding.
        """
        lm, kept = self.lm, dict[int, Tensor]()
        ids, mask = self._padded(texts)
        enough = max(layers)

        def keep(layer: int) -> Callable[..., None]:
            def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
                kept[layer] = args[0] if args else kwargs["hidden_states"]
                if layer == enough:
                    raise _EnoughError

            return hook

        inner = [layer for layer in set(layers) if layer < lm.num_layers]
        handles = [lm.layers[k].register_forward_pre_hook(keep(k), with_kwargs=True) for k in inner]
        with hooked(handles), contextlib.suppress(_EnoughError):
            kept[lm.num_layers] = self._decoded(ids, mask).last_hidden_state
        return {layer: kept[layer] for layer in layers}, mask

    def next_token_loss(self, texts: Sequence[Tokens], starts: Sequence[int]) -> Tensor:
        """Mean cross entropy, in nats, over each text's tokens from `starts` on; at least position 1 is predicted."""
        ids, mask = self._padded(texts)
        output = self._decoded(ids, mask)
        wanted = mask.clone()
        for row, start in enumerate(starts):
            wanted[row, : max(start, 1)] = False
        targets, states = ids[wanted], output.last_hidden_state[:, :-1][wanted[:, 1:]]
        size = max(1, LOGITS // self.lm.vocabulary)
        sums = [
            checkpoint(self._summed, output, states[at : at + size], targets[at : at + size], use_reentrant=False)
            for at in range(0, len(targets), size)
        ]
        if not sums:
            raise InputError("The texts to predict have no second token; use longer texts or a larger tune.max_length.")
        return torch.stack(sums).sum() / len(targets)

    def _summed(self, output: Any, states: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits(self.lm, output, states).float(), targets, reduction="sum")

    def _decoded(self, ids: Tensor, mask: Tensor) -> Any:
        self.tokens += int(mask.sum())
        return self.lm.decoder(input_ids=ids, attention_mask=mask.long(), use_cache=False)

    def _padded(self, texts: Sequence[Tokens]) -> tuple[Tensor, Tensor]:
        rows = [torch.tensor(tokens, dtype=torch.long) for tokens in texts]
        ids = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = nn.utils.rnn.pad_sequence([torch.ones_like(row, dtype=torch.bool) for row in rows], batch_first=True)
        return ids.to(self.lm.device), mask.to(self.lm.device)
