"""The engine: token sequences in; pooled hidden states of every layer, or log-likelihoods of continuations, out.

What sequences share at their beginning is computed once (`align_pipeline.tree`): an item's options share its passage
and question, two questions a passage, all items their few-shot examples. Rows of trees run in right-padded batches
under a token budget, with a mask that lets each token see its own ancestors alone. Beginnings that are too long to
repeat in every row are held in a KV cache. Equal sequences are one leaf: equal texts have bit-equal vectors.
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from align_pipeline import distributed
from align_pipeline.errors import InputError
from align_pipeline.model import LanguageModel, Tokens
from align_pipeline.packing import Row, batches, passes, width
from align_pipeline.tree import Step, Tree, chains, steps, trees, trie

log = logging.getLogger(__name__)

Value = TypeVar("Value")
Advance = Callable[[int], None]
"""Called after each batch with the number of texts it finished."""

POOLINGS = ("last", "weighted")
STEP_TOKENS = 1024
"""Most tokens of trees behind one trunk in a pass, roughly."""
_CPU_TOKENS = (512, 16384)
"""Fewest and most tokens in a pass on a CPU."""
_CPU_FLOPS = 2.5e11
"""Of a pass on a CPU: a few seconds on two cores, so that progress is seen; more tokens gain nothing there."""
_PROBE_TOKENS = 2048  # a pass of as many tells what a token takes of a GPU's memory
_MOST_TOKENS = 2**17  # more tokens in a pass gain nothing on any device
_MEMORY_SHARE = 0.6  # of a GPU's free memory; masks, logits and pooled states need the rest
_TRUNK_STEP = 4096  # most tokens of a cached beginning that are run at once
_LOGIT_BYTES = {"cpu": 2**25 - 2**16, "cuda": 2**30}  # of float32 logits that are made at once
# On a CPU less than what glibc would give back to the system after each block (`machine.settle`).
_TEST_WINDOW = 4  # of the passes that show whether a model obeys a tree


def hidden_states(
    lm: LanguageModel,
    groups: Sequence[Sequence[Tokens]],
    names: Sequence[str],
    layers: Sequence[int],
    poolings: Sequence[str],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Pooled hidden states, batch by batch; only pooled ones are ever kept. Of several processes, each runs its share.

    Args:
        lm: the model.
        groups: texts that must come out together, such as the options of an item; all groups of one size m.
        names: what to call each group in an error.
        layers: which of Hugging Face's ``hidden_states``, 0 to L; L comes after the final norm.
        poolings: ``last`` (the final token's state) and/or ``weighted`` (sum_t t*h_t / sum_t t, t = 1..T; MEXA).
        batch_tokens: most tokens in a forward pass, padding included; one longer row runs alone; None: `token_budget`.
        advance: told how many texts each batch finished.

    Yields:
        Indices of the batch's groups, and by pooling a tensor [layers, groups in the batch, m, D] in the model's
        dtype; the weighted mean is taken in float32.

    Raises:
        InputError: a hidden state is NaN or infinite; names model, layer and group. Or one text alone is too long for
            the device's memory.
    """
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
    size = len(groups[0])
    texts = [text for group in groups for text in group]
    together, alone = _apart(lm, texts)
    rows = _renamed(chains([texts[m] for m in alone]), alone)
    if together:
        rows += _renamed(trees(trie([texts[m] for m in together])), together)
    planned = list(batches(_units(rows, size), batch_tokens))
    advance = distributed.advancing(advance)
    for batch in distributed.mine([sum(len(row.tokens) for unit in units for row in unit) for units in planned]):
        units = planned[batch]
        members: list[int] = []
        parts: dict[str, list[Tensor]] = {pooling: [] for pooling in poolings}

        def pool(passed: list[Row], members: list[int] = members, parts: dict[str, list[Tensor]] = parts) -> None:
            layout = _lay_out(lm, passed)
            with torch.inference_mode():
                pooled = _pooled_pass(lm, layout, layers, poolings)
            members += layout.members
            for pooling, value in pooled.items():
                parts[pooling].append(value)

        _in_memory(lm, [row for unit in units for row in unit], batch_tokens, pool)
        place = {member: position for position, member in enumerate(members)}
        chosen = sorted({member // size for member in members})
        order = torch.tensor([place[group * size + k] for group in chosen for k in range(size)], device=lm.device)
        states = {}
        for pooling, values in parts.items():
            value = torch.cat(values, dim=1)[:, order]
            _check_finite(value, lm.name, layers, [names[group] for group in chosen for _ in range(size)])
            states[pooling] = value.reshape(len(layers), len(chosen), size, -1)
        yield chosen, states
        advance(len(order))


def loglikelihoods(
    lm: LanguageModel,
    requests: Sequence[tuple[Tokens, Tokens]],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> list[float]:
    """log p(continuation | context) in nats, summed over the continuation's tokens; log-softmax in float32.

    Args:
        lm: the model.
        requests: (context, continuation) as token ids; the context has at least one token.
        batch_tokens: most tokens in a forward pass, padding included; None: `token_budget`.
        advance: told how many requests each batch finished.

    Raises:
        InputError: a log-likelihood is not finite, or one text alone is too long for the device's memory.
    """
    if not all(context for context, _ in requests):
        raise ValueError("a context needs at least one token to predict from")
    # The last token predicts nothing that is asked for: options of one token share their whole input.
    sequences = [[*context, *continuation[:-1]] for context, continuation in requests]
    needs = [len(context) - 1 for context, _ in requests]

    def score(layout: Layout, trunk: Trunk) -> list[float]:
        behind, members = len(trunk.tokens), layout.members
        spans = [(layout.row_of[m], layout.path(m)[needs[m] - behind :], requests[m][1]) for m in members]
        return _scored_pass(lm, layout, spans, trunk)

    return over_passes(lm, sequences, needs, batch_tokens, advance, score)


def over_passes(
    lm: LanguageModel,
    sequences: Sequence[Tokens],
    firsts: Sequence[int],
    batch_tokens: int | None,
    advance: Advance,
    run: Callable[[Layout, Trunk], Sequence[Value]],
) -> list[Value]:
    """Run sequences through the model, each in one of the processes, what they share at their beginnings once.

    Args:
        lm: the model.
        sequences: token ids.
        firsts: the first position of each at which anything is wanted; what stands before may be held in a KV cache.
        batch_tokens: most tokens in a forward pass, padding included; None: `token_budget`.
        advance: told how many sequences each pass finished.
        run: given a pass's layout and the cache it stands behind, the values of the layout's members, in their order.

    Returns:
        What `run` gave for each sequence.
    """
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
    advance = distributed.advancing(advance)
    trunk = Trunk(lm, batch_tokens)

    def take(step: Step) -> list[tuple[int, Value]]:
        found: list[tuple[int, Value]] = []

        def run_pass(passed: list[Row]) -> None:
            layout = _lay_out(lm, passed, len(step.trunk))
            with torch.inference_mode():
                found.extend(zip(layout.members, run(layout, trunk), strict=True))
            advance(len(layout.members))

        trunk.hold(step.trunk, step.cuts)
        if step.trunk:
            run_pass([list(step.trees)])
        else:
            _in_memory(lm, step.trees, batch_tokens, run_pass)
        return found

    together, alone = _apart(lm, sequences)
    planned = steps(trie([sequences[m] for m in together], [firsts[m] for m in together]), STEP_TOKENS)
    found = [Step(s.trunk, tuple(_renamed(s.trees, together)), s.cuts) for s in planned] if together else []
    loose = [tree for step in found if not step.trunk for tree in step.trees]
    loose += _renamed(chains([sequences[m] for m in alone]), alone)
    work = [step for step in found if step.trunk]
    work += [Step((), tuple(itertools.chain(*rows))) for rows in _passes(lm, loose, batch_tokens)]
    costs = [sum(len(tree.tokens) for tree in step.trees) for step in work]
    values = dict(pair for pairs in distributed.each(work, costs, take) for pair in pairs)
    return [values[index] for index in range(len(sequences))]


def shares(lm: LanguageModel, text: Sequence[int] = ()) -> bool:
    """Whether a text may share passes: the model obeys a tree's mask, and turns each position as if it stood alone."""
    if lm.obeys_trees is None:
        lm.obeys_trees = _probe(lm)
        if not lm.obeys_trees:
            log.info("%s cannot share beginnings between texts: plain batches.", lm.name)
    return lm.obeys_trees and not lm.rescales(len(text))


def _apart(lm: LanguageModel, sequences: Sequence[Tokens]) -> tuple[list[int], list[int]]:
    """Which sequences may share their beginnings, and which run by themselves."""
    sharing = [shares(lm, sequence) for sequence in sequences]
    return [m for m, yes in enumerate(sharing) if yes], [m for m, yes in enumerate(sharing) if not yes]


def _renamed(rows: Iterable[Tree], names: Sequence[int]) -> list[Tree]:
    """The rows of some of the sequences, with their numbers among all of them."""
    return [replace(row, ends={names[member]: end for member, end in row.ends.items()}) for row in rows]


def _probe(lm: LanguageModel) -> bool:
    """Run short sequences as a tree and each by itself: models differ in what they make of a mask.

    Windows are made shorter than the sequences meanwhile, so that their masks are tried too.
    """
    one = [(7 * k) % 50 + 2 for k in range(12)]
    two = one[:6] + [(5 * k) % 40 + 3 for k in range(8)]
    layers = [lm.num_layers]
    count, windows, config = lm.counted(), dict(lm.windows), lm.model.config.get_text_config()
    kept = getattr(config, "sliding_window", None)
    try:
        if lm.window is not None:
            config.sliding_window = _TEST_WINDOW
            lm.windows = {kind: window and _TEST_WINDOW for kind, window in windows.items()}
        with torch.inference_mode():
            rows = [[tree] for tree in trees(trie([one, two]))]
            layout = _lay_out(lm, rows)
            shared = _pooled_pass(lm, layout, layers, ["last"])["last"][0].float()
            shared = shared[[layout.members.index(0), layout.members.index(1)]]
            plain = torch.cat(
                [_pooled_pass(lm, _lay_out(lm, [chains([s])]), layers, ["last"])["last"][0].float() for s in (one, two)]
            )
            cache = Trunk(lm)
            cache.hold(tuple(one[:5]))
            behind = _lay_out(lm, [chains([one[5:]], depth=5)], behind=5)
            cached = _pooled_pass(lm, behind, layers, ["last"], cache)["last"][0].float()
    except Exception:  # whatever a model raises when it is handed a mask or a cache that it does not know
        return False
    finally:
        if lm.window is not None:
            config.sliding_window, lm.windows = kept, windows
        lm.recount(count)
    tolerance = 1e-3 if lm.model.dtype == torch.float32 else 0.1
    errors = (shared - plain).norm() / plain.norm(), (cached - plain[:1]).norm() / plain[:1].norm()
    return all(bool(torch.isfinite(error)) and error.item() < tolerance for error in errors)


# ---- batches


def _units(rows: Sequence[Tree], size: int) -> list[list[Tree]]:
    """Rows that hold parts of one group stay together."""
    parent = list(range(len(rows)))

    def find(index: int) -> int:
        while parent[index] != index:
            parent[index] = index = parent[parent[index]]
        return index

    first: dict[int, int] = {}
    for index, row in enumerate(rows):
        for group in {member // size for member in row.ends}:
            parent[find(index)] = find(first.setdefault(group, index))
    units: dict[int, list[Tree]] = {}
    for index, row in enumerate(rows):
        units.setdefault(find(index), []).append(row)
    return list(units.values())


def token_budget(lm: LanguageModel, asked: int | None) -> int:
    """Most tokens in a pass: what was asked for, or what the device's memory has room for, found once per model.

    A pass that ran out of memory has since lowered it (`lm.fits`).
    """
    if asked is None and lm.fits is None:
        few, many = _CPU_TOKENS
        lm.fits = min(many, max(few, int(_CPU_FLOPS / lm.costs.token))) if lm.device.type != "cuda" else _room(lm)
    return min(limit for limit in (asked, lm.fits) if limit is not None)


def _room(lm: LanguageModel) -> int:
    """Tokens that fit a GPU's free memory, judged by what a pass over some takes."""
    count = lm.counted()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(lm.device)
    before = torch.cuda.memory_allocated(lm.device)
    torch.cuda.reset_peak_memory_stats(lm.device)
    tokens = min(_PROBE_TOKENS, lm.max_length)
    with torch.inference_mode():
        _pooled_pass(lm, _lay_out(lm, [chains([[0] * tokens])]), range(lm.num_layers + 1), POOLINGS)
    lm.recount(count)
    taken = max(torch.cuda.max_memory_allocated(lm.device) - before, 1) / tokens
    return max(tokens, min(_MOST_TOKENS, int(_MEMORY_SHARE * free / taken)))


def _passes(lm: LanguageModel, trees: Sequence[Tree], batch_tokens: int) -> list[list[Row]]:
    """Trees by forward pass. What turns positions by the whole text's length is alone in its pass."""
    alone = [tree.is_chain and lm.rescales(len(tree.tokens)) for tree in trees]
    together = [tree for tree, yes in zip(trees, alone, strict=True) if not yes]
    packed = passes(together, batch_tokens, lm.costs, beside=bool(lm.obeys_trees))
    return [*packed, *([[tree]] for tree, yes in zip(trees, alone, strict=True) if yes)]


def _in_memory(lm: LanguageModel, trees: Sequence[Tree], batch_tokens: int, run: Callable[[list[Row]], None]) -> None:
    """Call `run` with the rows of each pass; what runs out of memory is run again in smaller passes.

    The size that fits is remembered for the model; a tree that does not fit is run text by text. `run` must not have
    kept anything when it fails.

    Raises:
        InputError: a single text does not fit.
    """
    waiting = deque(_passes(lm, trees, token_budget(lm, batch_tokens)))
    while waiting:
        failed = False
        try:
            run(waiting[0])
        except torch.OutOfMemoryError:
            failed = True
        if not failed:
            waiting.popleft()
            continue
        # Outside the handler: the exception holds the failed pass's tensors.
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
        first = [tree for row in waiting[0] for tree in row]
        rest = [tree for passed in list(waiting)[1:] for row in passed for tree in row]
        if len(first) > 1:
            lm.fits = len(waiting[0]) * max(map(width, waiting[0])) // 2
            log.info("Out of memory: at most %d tokens in a pass from now on.", lm.fits)
        elif not first[0].is_chain:
            first = first[0].chains()
        else:
            raise InputError(
                f"A text of {len(first[0].tokens)} tokens does not fit the memory of {lm.device} beside {lm.name}; use "
                "model.dtype=bfloat16, fewer examples (task.num_fewshot) or a device with more memory."
            )
        waiting = deque(_passes(lm, first + rest, token_budget(lm, batch_tokens)))


def _beside(parts: Sequence[Tree]) -> Tree:
    """Trees side by side in one row: none sees another."""
    if len(parts) == 1:
        return parts[0]
    tokens, positions, segments, offset = [], [], [], 0
    ends: dict[int, int] = {}
    for part in parts:
        tokens.append(part.tokens)
        positions.append(part.positions)
        segments += [(s + offset, e + offset, p + offset if p >= 0 else -1) for s, e, p in part.segments]
        ends |= {member: end + offset for member, end in part.ends.items()}
        offset += len(part.tokens)
    return Tree(np.concatenate(tokens), np.concatenate(positions), tuple(segments), ends)


@dataclass(frozen=True)
class Layout:
    """Rows as the model takes them.

    Attributes:
        rows: the trees.
        members: their sequences, in the order of the results.
        row_of: row of each sequence.
        tokens: [B, T] int64, padded on the right with any id: nothing sees the padding.
        positions: [B, T] int64; None for plain causal rows.
        mask: [B, 1, T, P + T] in the model's dtype, 0 where a token sees another (P cached ones first), else the
            lowest number; by kind of layer where some see a window alone; None for plain causal rows.
        sees: bool [B, T, T] on the CPU; None for plain causal rows.
    """

    rows: tuple[Tree, ...]
    members: list[int]
    row_of: dict[int, int]
    tokens: Tensor
    positions: Tensor | None
    mask: Tensor | dict[str, Tensor] | None
    sees: Tensor | None

    def path(self, member: int) -> list[int]:
        """Row indices of a sequence's tokens in this layout."""
        row = self.rows[self.row_of[member]]
        return list(range(row.ends[member] + 1)) if self.sees is None else row.path(member)


def _lay_out(lm: LanguageModel, parts: Sequence[Row], behind: int = 0) -> Layout:
    """Put trees into rows and pad those; count their tokens as run. `behind` tokens are in the cache."""
    rows = [_beside(row) for row in parts]
    wide = max(len(row.tokens) for row in rows)
    tokens = torch.zeros(len(rows), wide, dtype=torch.long)
    for index, row in enumerate(rows):
        tokens[index, : len(row.tokens)] = torch.from_numpy(row.tokens)
        lm.tokens_run += len(row.tokens)
    lm.tokens_computed += tokens.numel()
    members = [member for row in rows for member in row.ends]
    row_of = {member: index for index, row in enumerate(rows) for member in row.ends}
    tokens = tokens.to(lm.device)
    if not behind and all(row.is_chain for row in rows):
        return Layout(tuple(rows), members, row_of, tokens, None, None, None)
    positions = torch.zeros(len(rows), wide, dtype=torch.long)
    sees = torch.zeros(len(rows), wide, wide, dtype=torch.bool)
    for index, row in enumerate(rows):
        n = len(row.tokens)
        positions[index, :n] = torch.from_numpy(row.positions)
        sees[index, :n, :n] = torch.from_numpy(row.sees())
        padding = torch.arange(n, wide)
        sees[index, padding, padding] = True  # itself: no line is empty
    masks = {kind: _mask(lm, sees, positions, behind, window) for kind, window in lm.windows.items()}
    mask = next(iter(masks.values())) if len(masks) == 1 else masks
    return Layout(tuple(rows), members, row_of, tokens, positions.to(lm.device), mask, sees)


def _mask(lm: LanguageModel, sees: Tensor, positions: Tensor, behind: int, window: int | None) -> Tensor:
    """`Layout.mask` for layers with a window: the last `window` tokens of its own sequence are all that a token sees.

    Args:
        lm: the model.
        sees: bool [B, T, T].
        positions: [B, T].
        behind: P, tokens in the cache.
        window: None: no bound.
    """
    count, wide = positions.shape
    dtype = lm.model.dtype
    mask = torch.zeros(count, 1, wide, behind + wide, dtype=dtype, device=lm.device)
    lowest = torch.finfo(dtype).min
    if window is not None and int(positions.max()) >= window:
        sees = sees & (positions[:, :, None] - positions[:, None, :] < window)
        far = positions[:, :, None] - torch.arange(behind) >= window  # [B, T, P]
        mask[:, 0, :, :behind].masked_fill_(far.to(lm.device), lowest)
    mask[:, 0, :, behind:].masked_fill_(~sees.to(lm.device), lowest)
    return mask


# ---- passes


class Trunk:
    """The shared beginning that is in the KV cache, one row of it."""

    def __init__(self, lm: LanguageModel, step: int = _TRUNK_STEP) -> None:
        self.lm, self.step = lm, min(step, _TRUNK_STEP)  # masks stay small however long the beginning is
        self.tokens: tuple[int, ...] = ()
        self.cuts: tuple[int, ...] = ()
        self.cache: Any = None

    def hold(self, tokens: tuple[int, ...], cuts: tuple[int, ...] = ()) -> None:
        """Make the cache hold exactly these tokens, computed in parts that end at the cuts.

        Parts that it already holds are kept; a cached token is the same to the last bit whatever was held before.
        """
        cuts = cuts or (len(tokens),)
        same = 0
        for own, other in zip(self.cuts, cuts, strict=False):
            if own != other or self.tokens[same:own] != tokens[same:own]:
                break
            same = own
        if not same:
            self.cache = None
        elif same < len(self.tokens):
            self.cache.crop(same - len(self.tokens))
        self.tokens = tokens[:same]
        for end in (cut for cut in cuts if cut > same):
            while (at := len(self.tokens)) < end:
                part = tokens[at : min(at + self.step, end)]
                layout = _lay_out(self.lm, [chains([part], at)], behind=at)
                with torch.inference_mode():
                    self.lm.decoder(**self.inputs(layout))
                self.tokens += part
        self.cuts = cuts

    def inputs(self, layout: Layout) -> dict[str, Any]:
        """What the model is called with: rows behind the cached tokens, or by themselves."""
        from transformers import DynamicCache

        if self.cache is None:
            self.cache = DynamicCache()  # without the config all layers keep all tokens; windows are the masks' matter
        return _inputs(layout) | {"past_key_values": self.cache, "use_cache": True}

    def forget(self, layout: Layout) -> None:
        """Drop what a pass over `layout` added."""
        self.cache.crop(-layout.tokens.shape[1])


@contextlib.contextmanager
def _hooked(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """The model is left without hooks, whatever happens."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inputs(layout: Layout) -> dict[str, Any]:
    if layout.mask is None:  # causal attention: what stands right of a token cannot reach it, so padding needs no mask
        return {"input_ids": layout.tokens, "use_cache": False}
    return {
        "input_ids": layout.tokens,
        "attention_mask": layout.mask,
        "position_ids": layout.positions,
        "use_cache": False,
    }


@contextlib.contextmanager
def _called_with(layout: Layout, trunk: Trunk | None) -> Iterator[dict[str, Any]]:
    """The model's arguments for a pass, behind the trunk if it holds anything; the trunk is left as it was."""
    if trunk is None or not trunk.tokens:
        yield _inputs(layout)
        return
    try:
        yield trunk.inputs(layout)
    finally:
        trunk.forget(layout)


def _pooled_pass(
    lm: LanguageModel, layout: Layout, layers: Sequence[int], poolings: Sequence[str], trunk: Trunk | None = None
) -> dict[str, Tensor]:
    """One forward pass: pooling -> [layers, members, D]. What block k reads is hidden_states[k]; it is pooled there."""
    kept: dict[int, dict[str, Tensor]] = {}
    pool = _Pool(layout, poolings)

    def keep(layer: int) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Tensor]) -> None:
            kept[layer] = pool(args[0] if args else kwargs["hidden_states"])

        return hook

    inner = [k for k in layers if k < lm.num_layers]
    handles = [lm.layers[k].register_forward_pre_hook(keep(k), with_kwargs=True) for k in inner]
    with _hooked(handles), _called_with(layout, trunk) as arguments:
        final = lm.decoder(**arguments).last_hidden_state
    if lm.num_layers in layers:
        kept[lm.num_layers] = pool(final)
    return {pooling: torch.stack([kept[k][pooling] for k in layers]) for pooling in poolings}


class _Pool:
    """[B, T, D] -> pooling -> [members, D], for one layout."""

    def __init__(self, layout: Layout, poolings: Sequence[str]) -> None:
        device = layout.tokens.device
        ends = [layout.rows[layout.row_of[m]].ends[m] for m in layout.members]
        self.row = torch.tensor([layout.row_of[m] for m in layout.members], device=device)
        self.end = torch.tensor(ends, device=device)
        self.poolings = poolings
        if "weighted" in poolings:
            width = layout.tokens.shape[1]
            counts = torch.bincount(self.row.cpu(), minlength=len(layout.rows))
            self.slot = torch.cat([torch.arange(int(n)) for n in counts]).to(device)
            weights = torch.zeros(len(layout.rows), int(counts.max()), width)
            steps = torch.arange(1, width + 1).expand(len(layout.rows), width)
            if layout.sees is not None and layout.positions is not None:
                seen, steps = layout.sees[self.row.cpu(), self.end.cpu()], layout.positions.cpu() + 1
            else:
                seen = torch.arange(width) <= torch.tensor(ends)[:, None]
            weights[self.row.cpu(), self.slot.cpu()] = torch.where(seen, steps[self.row.cpu()], 0).float()
            self.weights = (weights / weights.sum(-1, keepdim=True).clamp(min=1)).to(device)

    def __call__(self, states: Tensor) -> dict[str, Tensor]:
        pooled = {}
        if "last" in self.poolings:
            pooled["last"] = states[self.row, self.end]
        if "weighted" in self.poolings:
            pooled["weighted"] = (self.weights @ states.float())[self.row, self.slot].to(states.dtype)
        return pooled


def _scored_pass(
    lm: LanguageModel, layout: Layout, spans: Sequence[tuple[int, Sequence[int], Tokens]], trunk: Trunk
) -> list[float]:
    """Summed log-probabilities of spans (row, row indices that predict, tokens) in one forward pass.

    Logits are made only where a span needs them.
    """
    rows = torch.tensor([row for row, _, tokens in spans for _ in tokens], device=lm.device, dtype=torch.long)
    columns = [column for _, at, tokens in spans for column in at[: len(tokens)]]
    targets = torch.tensor([token for _, _, tokens in spans for token in tokens], device=lm.device)
    if not columns:
        return [0.0] * len(spans)
    # Spans of one row often ask for the same position (four options after one prompt): its logits are made once.
    asked = torch.stack([rows, torch.tensor(columns, device=lm.device)])
    places, place_of = torch.unique(asked, dim=1, return_inverse=True)
    with _called_with(layout, trunk) as arguments:
        output = lm.decoder(**arguments)
    states = output.last_hidden_state[places[0], places[1]]
    chosen = _log_probabilities(lm, output, states, place_of, targets)
    sums = torch.zeros(len(spans), dtype=torch.float64)
    owner = torch.tensor([index for index, (_, _, tokens) in enumerate(spans) for _ in tokens])
    sums.index_add_(0, owner, chosen.double().cpu())
    if not torch.isfinite(sums).all():
        raise InputError(f"{lm.name} gives a log-likelihood that is not a finite number; try model.dtype=float32.")
    return sums.tolist()


def _log_probabilities(lm: LanguageModel, output: Any, states: Tensor, place_of: Tensor, targets: Tensor) -> Tensor:
    """log p(target) in nats, float32, with few rows of the vocabulary in memory at once.

    Args:
        lm: the model.
        output: what its decoder gave.
        states: [P, D], final hidden states at some places.
        place_of: [N], the place that predicts each target.
        targets: [N].
    """
    size = max(1, _LOGIT_BYTES.get(states.device.type, _LOGIT_BYTES["cpu"]) // (4 * lm.vocabulary))
    found = torch.empty(len(targets), dtype=torch.float32, device=states.device)
    for start in range(0, len(states), size):
        # Not logsumexp, which takes ten times as long where many tokens have next to no probability.
        logs = _logits(lm, output, states[start : start + size]).float().log_softmax(dim=-1)
        here = ((place_of >= start) & (place_of < start + size)).nonzero()[:, 0]
        found[here] = logs[place_of[here] - start, targets[here]]
    return found


def _logits(lm: LanguageModel, output: Any, states: Tensor) -> Tensor:
    """[P, V]: what the model makes of final hidden states [P, D], soft-capping and scaling included.

    The causal LM is called with a decoder that gives these states, so that whatever it does after it is done.
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


def _check_finite(states: Tensor, model: str, layers: Sequence[int], names: Sequence[str]) -> None:
    bad = ~torch.isfinite(states).all(dim=-1)  # [layers, members]
    if bad.any():
        layer, member = torch.nonzero(bad)[0].tolist()
        raise InputError(
            f"{model} has a hidden state that is not a finite number in layer {layers[layer]} for item "
            f"{names[member]}; try model.dtype=float32 or bfloat16."
        )
