"""Read activations at chosen tokens, and score options while activations are replaced.

Tokens before the first replaced one do not change, so they are held in a KV cache. From there on, the run of each layer
is one branch of a packed row, so that one row covers all layers. For models that do not handle tree masks, the
whole text is run again in one row per branch. Hooks are always removed afterwards, even after an error.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from align_pipeline import distributed
from align_pipeline.config.patch import Component
from align_pipeline.engine.forward import STEP_TOKENS, Advance, over_passes, shares, token_budget
from align_pipeline.engine.layout import Layout, Trunk, called_with, lay_out, planned
from align_pipeline.engine.likelihood import scored_pass
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.tree import TRUNK_TOKENS, Node, chains, lay, trie
from align_pipeline.errors import InputError

_PROJECTIONS = {
    # Attention and MLP write to the residual stream through one matrix, whose output is taken. The output of the whole
    # module would be wrong for BLOOM, where it already includes the residual stream.
    Component.attn: ("o_proj", "out_proj", "dense", "c_proj", "wo"),
    Component.mlp: ("down_proj", "dense_4h_to_h", "c_proj", "fc2", "w2"),
}


# ---- where

Edit = Callable[[Tensor], Tensor | None]
"""Receives an activation [B, T, D]; its return value, if any, replaces the activation."""


@dataclass(frozen=True)
class Tap:
    """A tensor [B, T, D] inside the model: a module's input or its output."""

    module: nn.Module
    before: bool

    def hook(self, edit: Edit) -> torch.utils.hooks.RemovableHandle:
        """Call `edit` with the tensor in every pass, until the handle is removed."""

        def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            changed = edit(args[0] if args else kwargs["hidden_states"])
            if changed is None:
                return None
            return ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})

        def leaving(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            changed = edit(output if isinstance(output, Tensor) else output[0])
            if changed is None:
                return None
            return changed if isinstance(output, Tensor) else (changed, *output[1:])

        if self.before:
            return self.module.register_forward_pre_hook(entering, with_kwargs=True)
        return self.module.register_forward_hook(leaving)


def taps(lm: LanguageModel, component: Component) -> dict[int, Tap]:
    """Where to read or replace a component's activation, by layer.

    Returns:
        For the residual stream, layers 0 to L: 0 is the embedding output and L the last block's output before the final
        norm. For attention, MLP and heads, layers 1 to L: l is block l, which writes hidden state l. Heads are read
        concatenated, before the attention's output projection.

    Raises:
        InputError: a block has no single module with this output.
    """
    if component is Component.resid:
        found = {layer: Tap(block, True) for layer, block in enumerate(lm.layers)}
        return found | {lm.num_layers: Tap(lm.layers[-1], False)}
    heads = component is Component.head
    kind = Component.attn if heads else component
    return {layer: Tap(_projection(lm, block, kind), heads) for layer, block in enumerate(lm.layers, 1)}


def _projection(lm: LanguageModel, block: nn.Module, kind: Component) -> nn.Module:
    found: list[nn.Module] = []
    for name, module in block.named_modules():
        parent, _, own = name.rpartition(".")
        if own in _PROJECTIONS[kind] and ("att" in parent) == (kind is Component.attn):
            found.append(module)
    if len(found) != 1:
        raise InputError(
            f"The {kind.value} of {lm.name}'s blocks has no single output projection ({len(found)} found); "
            "patch.component=resid works with every model."
        )
    return found[0]


def num_heads(lm: LanguageModel) -> int:
    """Number of attention heads in a block."""
    heads: int = lm.model.config.get_text_config().num_attention_heads
    return heads


# ---- reading


def activations(
    lm: LanguageModel,
    contexts: Sequence[Tokens],
    sites: Sequence[Sequence[int]],
    component: Component,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> Tensor:
    """A component's activations at chosen tokens, in every layer.

    Args:
        lm: the model.
        contexts: token sequences.
        sites: ascending positions in each sequence; the same number for each.
        component: the component to read.
        batch_tokens: maximum tokens per forward pass, with padding; None: `token_budget`.
        advance: called with the number of contexts that each batch finished.

    Returns:
        [contexts, K, S, D] on the CPU, in the model's dtype; K layers in the order of `taps`.
    """
    places = taps(lm, component)
    sequences = [list(context[: at[-1] + 1]) for context, at in zip(contexts, sites, strict=True)]

    def read(layout: Layout, trunk: Trunk, plans: bool = lm.plan is not None) -> list[Tensor]:
        if plans:
            planned(lm, "activations", layout, trunk, functools.partial(read, plans=False))
            return list(torch.zeros(len(layout.members), len(places), len(sites[0]), lm.width, dtype=lm.model.dtype))
        rows = torch.tensor([layout.row_of[m] for m in layout.members])[:, None]
        behind = len(trunk.tokens)
        columns = torch.tensor([[layout.path(m)[at - behind] for at in sites[m]] for m in layout.members])
        kept: dict[int, Tensor] = {}

        def keep(layer: int) -> Callable[[Tensor], None]:
            def edit(value: Tensor) -> None:
                kept[layer] = value[rows.to(value.device), columns.to(value.device)].cpu()

            return edit

        edits = [(tap, keep(layer)) for layer, tap in places.items()]
        with hooked_edits(edits), called_with(layout, trunk) as arguments:
            lm.decoder(**arguments)
        states = torch.stack([kept[layer] for layer in places], dim=1)
        if not torch.isfinite(states).all():
            raise InputError(f"{lm.name} has an activation that is not a finite number; try model.dtype=float32.")
        return list(states)

    firsts = [at[0] for at in sites]
    return torch.stack(over_passes(lm, sequences, firsts, batch_tokens, advance, read))


# ---- replacing


@dataclass(frozen=True)
class Branch:
    """One run with replaced activations.

    Attributes:
        values: layer -> [S, D'], the new value at each site; D' is a head's width if `head` is set.
        head: the head to replace; None: the whole activation.
    """

    values: Mapping[int, Tensor]
    head: int | None = None


@dataclass(frozen=True)
class Scoring:
    """Options after one context, scored in several branches.

    Attributes:
        context: token ids.
        continuations: token ids of each option.
        sites: positions in the context whose activations are replaced, ascending.
        branches: returns the branches; called only when they are needed.
    """

    context: Tokens
    continuations: Sequence[Tokens]
    sites: Sequence[int]
    branches: Callable[[], Sequence[Branch]]


def patched_loglikelihoods(
    lm: LanguageModel,
    scorings: Sequence[Scoring],
    component: Component,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> dict[int, Tensor]:
    """log p(continuation | context) in nats with activations replaced, for every branch and option.

    Args:
        lm: the model.
        scorings: may run in another order, in which they share prefixes.
        component: the component to replace.
        batch_tokens: maximum tokens per pass for models that run whole texts again; None: `token_budget`.
        advance: called with the number of finished scorings.

    Returns:
        Index of the scoring -> float64 [branches, options].
    """
    places = taps(lm, component)
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
    advance = distributed.advancing(advance)
    sharing = [shares(lm, _longest(scoring)) for scoring in scorings]
    trunk = Trunk(lm, batch_tokens)
    cuts = _cuts([s.context[: s.sites[0]] for s in scorings]) if any(sharing) else []

    def run(index: int) -> Tensor:
        scoring = scorings[index]
        branches = scoring.branches()
        result = torch.full((len(branches), len(scoring.continuations)), torch.nan, dtype=torch.float64)
        if sharing[index]:
            passes = _behind_a_trunk(scoring, trunk, cuts[index], len(branches))
        else:
            passes = _whole(scoring, lm, len(branches), batch_tokens)
        for chosen, layout, spans, spots in passes:
            edits = edits_of(places, [branches[b] for b in chosen], spots)
            with torch.inference_mode(), hooked_edits(edits):
                scored = scored_pass(lm, layout, spans, trunk)
            result[chosen] = torch.tensor(scored, dtype=torch.float64).reshape(len(chosen), -1)
        advance(1)
        return result

    order = sorted(range(len(scorings)), key=lambda i: scorings[i].context)
    costs = [len(scorings[index].context) for index in order]
    return dict(zip(order, distributed.each(order, costs, run), strict=True))


def _cuts(beginnings: Sequence[Tokens]) -> list[tuple[int, ...]]:
    """Positions at which each prefix is cut into parts that others share, as in `tree.Step.cuts`."""
    found: list[tuple[int, ...]] = [()] * len(beginnings)
    stack: list[tuple[Node, tuple[int, ...]]] = [(trie(beginnings), ())]
    while stack:
        node, above = stack.pop()
        for member in node.members:
            found[member] = (*above, node.end)
        below = (*above, node.end) if node.end - (above[-1] if above else 0) >= TRUNK_TOKENS else above
        stack.extend((child, below) for child in node.children)
    return found


def _longest(scoring: Scoring) -> Tokens:
    """The longest input over all options; the last token of a text is only predicted, not read."""
    return [*scoring.context, *max(scoring.continuations, key=len)[:-1]]


_Spots = list[list[tuple[int, int]]]
"""(row, column) of a branch's sites, for each of its copies in the pass."""
_Span = tuple[int, Sequence[int], Tokens]
"""Row, predicting columns, and the tokens to score."""
_Pass = tuple[list[int], Layout, list[_Span], list[_Spots]]
"""Branches, layout, spans to score (by branch, then option), and the spots of each branch."""


def _behind_a_trunk(scoring: Scoring, trunk: Trunk, cuts: tuple[int, ...], branches: int) -> Iterator[_Pass]:
    """Cache the tokens before the first site, and run the rest once per branch, side by side in one row."""
    start = scoring.sites[0]
    trunk.hold(tuple(scoring.context[:start]), cuts)
    tail = list(scoring.context[start:])
    piece = lay([([], trie([tail + c[:-1] for c in scoring.continuations]))], start)
    count, width = len(scoring.continuations), len(piece.tokens)
    paths = [piece.path(option)[len(tail) - 1 :] for option in range(count)]
    for chosen in _batches(branches, STEP_TOKENS // width):
        copies = [
            dataclasses.replace(piece, ends={b * count + option: end for option, end in piece.ends.items()})
            for b in range(len(chosen))
        ]
        spans: list[_Span] = [
            (0, [b * width + column for column in paths[option]], continuation)
            for b in range(len(chosen))
            for option, continuation in enumerate(scoring.continuations)
        ]
        spots = [[[(0, b * width + site - start) for site in scoring.sites]] for b in range(len(chosen))]
        yield chosen, lay_out(trunk.lm, [copies], behind=start), spans, spots


def _whole(scoring: Scoring, lm: LanguageModel, branches: int, batch_tokens: int) -> Iterator[_Pass]:
    """Run the whole text of every option, once per branch."""
    rows = chains([[*scoring.context, *c[:-1]] for c in scoring.continuations])
    row_of = {option: index for index, row in enumerate(rows) for option in row.ends}
    begin = len(scoring.context) - 1
    for chosen in _batches(branches, batch_tokens // (len(rows) * max(len(row.tokens) for row in rows))):
        spans: list[_Span] = [
            (b * len(rows) + row_of[option], range(begin, begin + len(continuation)), continuation)
            for b in range(len(chosen))
            for option, continuation in enumerate(scoring.continuations)
        ]
        spots = [
            [[(b * len(rows) + row, site) for site in scoring.sites] for row in range(len(rows))]
            for b in range(len(chosen))
        ]
        yield chosen, lay_out(lm, [[row] for row in rows] * len(chosen)), spans, spots


def _batches(count: int, size: int) -> Iterator[list[int]]:
    size = max(1, size)
    for first in range(0, count, size):
        yield list(range(first, min(count, first + size)))


def edits_of(places: Mapping[int, Tap], branches: Sequence[Branch], spots: Sequence[_Spots]) -> list[tuple[Tap, Edit]]:
    """All replacements of a pass, grouped by layer."""
    by_layer: dict[tuple[int, bool], list[tuple[int, int, int, Tensor]]] = {}
    for branch, copies in zip(branches, spots, strict=True):
        for layer, values in branch.values.items():
            for copy in copies:
                for (row, column), value in zip(copy, values, strict=True):
                    entry = (row, column, branch.head or 0, value)
                    by_layer.setdefault((layer, branch.head is not None), []).append(entry)
    return [(places[layer], _edit(entries, partly)) for (layer, partly), entries in by_layer.items()]


def _edit(entries: Sequence[tuple[int, int, int, Tensor]], partly: bool) -> Edit:
    rows, columns, heads = (torch.tensor([entry[k] for entry in entries]) for k in range(3))
    values = torch.stack([entry[3] for entry in entries])

    def edit(state: Tensor) -> Tensor:
        device = state.device
        changed = state.clone()
        # A head is a slice of the last axis; a whole activation is a single slice.
        parts = changed.view(*changed.shape[:-1], -1, values.shape[-1]) if partly else changed.unsqueeze(-2)
        parts[rows.to(device), columns.to(device), heads.to(device)] = values.to(state)
        return changed

    return edit


@contextlib.contextmanager
def hooked_edits(edits: Sequence[tuple[Tap, Edit]]) -> Iterator[None]:
    """Run with the edits as hooks; they are always removed, even after an error."""
    with contextlib.ExitStack() as stack:
        for tap, edit in edits:
            stack.callback(tap.hook(edit).remove)
        yield
