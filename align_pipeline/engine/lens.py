"""The logit lens: the next token that each layer's state predicts, read with the final norm and the output embeddings.

After nostalgebraist (2020) and Wendler et al. (arXiv 2402.10588).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from align_pipeline.engine.forward import Advance, over_passes
from align_pipeline.engine.layout import Layout, Trunk, called_with, hooked, planned
from align_pipeline.engine.likelihood import log_probabilities
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError


def lens(
    lm: LanguageModel,
    contexts: Sequence[Tokens],
    asked: Sequence[Sequence[int]],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> tuple[Tensor, Tensor]:
    """What each layer's state at the last token of a context predicts; logits are computed in blocks, none is kept.

    Args:
        lm: the model.
        contexts: token sequences.
        asked: tokens whose probability is wanted, the same number k for each context.
        batch_tokens: maximum tokens per forward pass, with padding; None: `forward.token_budget`.
        advance: called with the number of contexts that each pass finished.

    Returns:
        Probabilities [contexts, L + 1, k] in float32, and the most likely token [contexts, L + 1] in int64, for layers
        0 to L; those of layer L are the model's own.

    Raises:
        InputError: the final norm cannot be found, or a probability is not a number.
    """
    norm = final_norm(lm)

    def read(layout: Layout, trunk: Trunk, plans: bool = lm.plan is not None) -> list[tuple[Tensor, Tensor]]:
        if plans:
            count, again = lm.num_layers + 1, functools.partial(read, plans=False)
            planned(lm, "lens", layout, trunk, again, count * len(layout.members))
            return [(torch.zeros(count, len(asked[m])), torch.zeros(count, dtype=torch.long)) for m in layout.members]
        behind = len(trunk.tokens)
        rows = torch.tensor([layout.row_of[m] for m in layout.members])
        columns = torch.tensor([layout.path(m)[len(contexts[m]) - 1 - behind] for m in layout.members])
        kept: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            state = args[0] if args else kwargs["hidden_states"]
            kept.append(state[rows.to(state.device), columns.to(state.device)])

        handles = [block.register_forward_pre_hook(keep, with_kwargs=True) for block in lm.layers]
        with hooked(handles), called_with(layout, trunk) as arguments:
            output = lm.decoder(**arguments)
        last = output.last_hidden_state
        device = last.device
        states = torch.stack([*(norm(state.to(device)) for state in kept), last[rows.to(device), columns.to(device)]])
        tokens = torch.tensor([asked[m] for m in layout.members], device=device).repeat(len(states), 1)
        chances = torch.empty(tokens.shape, device=device)
        best = torch.empty(len(tokens), dtype=torch.long, device=device)
        for part, logs in log_probabilities(lm, output, states.flatten(0, 1)):
            chances[part], best[part] = logs.gather(1, tokens[part]).exp(), logs.argmax(dim=-1)
        if not torch.isfinite(chances).all():
            raise InputError(f"{lm.name} gives a probability that is not a number; try model.dtype=float32.")
        shape = (len(states), len(layout.members))
        return list(zip(chances.reshape(*shape, -1).transpose(0, 1).cpu(), best.reshape(shape).T.cpu(), strict=True))

    firsts = [len(context) - 1 for context in contexts]
    found = over_passes(lm, contexts, firsts, batch_tokens, advance, read)
    return torch.stack([chances for chances, _ in found]), torch.stack([best for _, best in found])


def final_norm(lm: LanguageModel) -> Callable[[Tensor], Tensor]:
    """The module between the last block and the decoder's output, whatever the architecture calls it.

    It is found in a pass over one token: the child of the decoder that maps the last block's output to the decoder's.

    Raises:
        InputError: there is no such module, and the two differ.
    """
    seen: list[tuple[nn.Module, Tensor, Tensor]] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        value = output[0] if isinstance(output, tuple) else output
        if isinstance(value, Tensor):
            seen.append((module, args[0] if args else value, value))

    parts = [part for part in lm.decoder.children() if not isinstance(part, nn.ModuleList)]
    with hooked([part.register_forward_hook(note) for part in [lm.layers[-1], *parts]]), torch.inference_mode():
        tokens = torch.zeros(1, 1, dtype=torch.long, device=lm.device)
        last = lm.decoder(input_ids=tokens, use_cache=False).last_hidden_state
    raw = next(value for module, _, value in seen if module is lm.layers[-1])
    for module, given, value in seen:
        same = module is not lm.layers[-1] and given.shape == raw.shape == value.shape
        if same and torch.equal(given, raw.to(given.device)) and torch.equal(value, last):
            return module
    if torch.equal(raw.to(last.device), last):
        return lambda state: state
    raise InputError(f"The final norm of {lm.name} cannot be found; logit_lens=true needs it.")
