"""The engine: maps token sequences to pooled hidden states of every layer, or to log-likelihoods of continuations.

Shared prefixes are computed once (`engine.tree`): the options of an item share its passage and question, two questions
share a passage, and all items share their few-shot examples. Prefix trees are packed into right-padded batches under a
token budget, with a mask that lets each token attend only to its own ancestors. Prefixes that are too long to repeat in
every row are kept in a KV cache. Equal sequences are one leaf, so equal texts have bit-equal vectors.
"""

from __future__ import annotations

import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.engine.layout import Layout, Trunk, lay_out
from align_pipeline.engine.likelihood import scored_pass
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.engine.packing import Row, batches, passes, width
from align_pipeline.engine.pooling import POOLINGS, check_finite, pooled_pass
from align_pipeline.engine.tree import Step, Tree, chains, steps, trees, trie
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)


Value = TypeVar("Value")


Advance = Callable[[int], None]
"""Called after each batch with the number of texts it finished."""


STEP_TOKENS = 1024
"""Approximate maximum of tree tokens after one trunk in a pass."""


_CPU_TOKENS = (512, 16384)
"""Minimum and maximum tokens per pass on a CPU."""


_CPU_FLOPS = 2.5e11
"""FLOPs per pass on a CPU: a few seconds on two cores, so that progress is visible; larger passes are no faster."""


_PROBE_TOKENS = 2048  # size of the test pass that measures GPU memory per token


_MOST_TOKENS = 2**17  # larger passes are no faster on any device


_MEMORY_SHARE = 0.6  # of a GPU's free memory; the rest is for masks, logits and pooled states


# The attention window during the test of `_probe`, shorter than its sequences.
_TEST_WINDOW = 4


def hidden_states(
    lm: LanguageModel,
    groups: Sequence[Sequence[Tokens]],
    names: Sequence[str],
    layers: Sequence[int],
    poolings: Sequence[str],
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
    """Pooled hidden states, batch by batch; unpooled states are never stored. Each process runs its share of the texts.

    Args:
        lm: the model.
        groups: texts whose results must come together, such as the options of an item; all groups have the same size m.
        names: what to call each group in an error.
        layers: which of Hugging Face's ``hidden_states``, 0 to L; L comes after the final norm.
        poolings: ``last`` (the final token's state), ``weighted`` (sum_t t*h_t / sum_t t, t = 1..T; MEXA), ``mean``,
            ``active`` (`pooling.ACTIVE`, of layers 1 to L whatever `layers` says).
        batch_tokens: maximum tokens per forward pass, with padding; a longer row runs alone; None: `token_budget`.
        advance: called with the number of texts that each batch finished.

    Yields:
        Indices of the batch's groups, and by pooling a tensor [layers, groups in the batch, m, D] in the model's
        dtype; both means are computed in float32, and ``mean`` stays in it.

    Raises:
        InputError: a hidden state is NaN or infinite (names model, layer and group), or one text alone exceeds the
            device's memory.
    """
    size = len(groups[0])
    if any(len(group) != size for group in groups):
        raise ValueError("groups of different sizes")
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
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
            layout = lay_out(lm, passed)
            with torch.inference_mode():
                pooled = pooled_pass(lm, layout, layers, poolings)
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
            check_finite(value, lm.name, layers, [names[group] for group in chosen for _ in range(size)])
            states[pooling] = value.reshape(len(value), len(chosen), size, -1)
        yield chosen, states
        advance(len(order))


def each_state(
    lm: LanguageModel,
    texts: Sequence[str],
    reduce: Callable[[Tensor], Tensor],
    pooling: str = "last",
    batch_tokens: int | None = None,
) -> Tensor:
    """One number per text and layer, computed from its pooled state, in all processes: [layers, texts] in float32.

    Args:
        lm: the model.
        texts: at least one.
        reduce: maps pooled states [layers, texts of a batch, D] in float32 to [layers, texts of a batch].
        pooling, batch_tokens: see `hidden_states`, which also lists the errors.
    """
    every = torch.zeros(lm.num_layers + 1, len(texts))
    groups = [[tokens] for tokens in lm.encode(list(texts))]
    for chosen, states in hidden_states(lm, groups, texts, range(lm.num_layers + 1), (pooling,), batch_tokens):
        every[:, chosen] = reduce(states[pooling][:, :, 0].float()).float().cpu()
    return distributed.filled(every)


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
        batch_tokens: maximum tokens per forward pass, with padding; None: `token_budget`.
        advance: called with the number of requests that each batch finished.

    Raises:
        InputError: a log-likelihood is not finite, or one text alone exceeds the device's memory.
    """
    if not all(context for context, _ in requests):
        raise ValueError("a context needs at least one token to predict from")
    # The last token's own prediction is not needed, so options of one token share their whole input.
    sequences = [[*context, *continuation[:-1]] for context, continuation in requests]
    needs = [len(context) - 1 for context, _ in requests]

    def score(layout: Layout, trunk: Trunk) -> list[float]:
        behind, members = len(trunk.tokens), layout.members
        spans = [(layout.row_of[m], layout.path(m)[needs[m] - behind :], requests[m][1]) for m in members]
        return scored_pass(lm, layout, spans, trunk)

    return over_passes(lm, sequences, needs, batch_tokens, advance, score)


def over_passes(
    lm: LanguageModel,
    sequences: Sequence[Tokens],
    firsts: Sequence[int],
    batch_tokens: int | None,
    advance: Advance,
    run: Callable[[Layout, Trunk], Sequence[Value]],
) -> list[Value]:
    """Run sequences through the model, each in one of the processes; shared prefixes are computed once.

    Args:
        lm: the model.
        sequences: token ids.
        firsts: for each sequence, the first position that needs a result; earlier positions may be held in a KV cache.
        batch_tokens: maximum tokens per forward pass, with padding; None: `token_budget`.
        advance: called with the number of sequences that each pass finished.
        run: takes a pass's layout and the trunk in the KV cache; returns one value per member of the layout, in order.

    Returns:
        The value of `run` for each sequence.
    """
    batch_tokens = distributed.least(token_budget(lm, batch_tokens))
    advance = distributed.advancing(advance)
    trunk = Trunk(lm, batch_tokens)

    def take(step: Step) -> list[tuple[int, Value]]:
        found: list[tuple[int, Value]] = []

        def run_pass(passed: list[Row]) -> None:
            layout = lay_out(lm, passed, len(step.trunk))
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
    """Whether a text may share a pass with others: the model handles trees, and the text's length leaves RoPE as is."""
    if lm.obeys_trees is None:
        lm.obeys_trees = _probe(lm)
        if not lm.obeys_trees:
            log.info("%s cannot share prefixes between texts; it runs in plain batches.", lm.name)
    return lm.obeys_trees and not lm.rescales(len(text))


def _apart(lm: LanguageModel, sequences: Sequence[Tokens]) -> tuple[list[int], list[int]]:
    """Indices of the sequences that may share prefixes, and of those that must run alone."""
    sharing = [shares(lm, sequence) for sequence in sequences]
    return [m for m, yes in enumerate(sharing) if yes], [m for m, yes in enumerate(sharing) if not yes]


def _renamed(rows: Iterable[Tree], names: Sequence[int]) -> list[Tree]:
    """Rows of a subset of the sequences, renumbered to indices in the full list."""
    return [replace(row, ends={names[member]: end for member, end in row.ends.items()}) for row in rows]


def _probe(lm: LanguageModel) -> bool:
    """Test the model's tree masks and cache: run short sequences as a tree, behind a cache, and alone, and compare.

    During the test, attention windows are shorter than the sequences, so that their masks are tested too.
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
            layout = lay_out(lm, rows)
            shared = pooled_pass(lm, layout, layers, ["last"])["last"][0].float()
            shared = shared[[layout.members.index(0), layout.members.index(1)]]
            plain = torch.cat(
                [pooled_pass(lm, lay_out(lm, [chains([s])]), layers, ["last"])["last"][0].float() for s in (one, two)]
            )
            cache = Trunk(lm)
            cache.hold(tuple(one[:5]))
            behind = lay_out(lm, [chains([one[5:]], depth=5)], behind=5)
            cached = pooled_pass(lm, behind, layers, ["last"], cache)["last"][0].float()
    except Exception:  # a model can raise anything if it does not support such a mask or cache
        return False
    finally:
        if lm.window is not None:
            config.sliding_window, lm.windows = kept, windows
        lm.recount(count)
    tolerance = 1e-3 if lm.model.dtype == torch.float32 else 0.1
    errors = (shared - plain).norm() / plain.norm(), (cached - plain[:1]).norm() / plain[:1].norm()
    return all(bool(torch.isfinite(error)) and error.item() < tolerance for error in errors)


def _units(rows: Sequence[Tree], size: int) -> list[list[Tree]]:
    """Put rows that hold parts of the same group into one unit."""
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
    """Maximum tokens per pass: as requested, or as the device's memory allows, measured once per model.

    `lm.fits` is lowered after a pass that ran out of memory.
    """
    if asked is None and lm.fits is None:
        few, many = _CPU_TOKENS
        lm.fits = min(many, max(few, int(_CPU_FLOPS / lm.costs.token))) if lm.device.type != "cuda" else _room(lm)
    return min(limit for limit in (asked, lm.fits) if limit is not None)


def _room(lm: LanguageModel) -> int:
    """Tokens that fit the GPU's free memory, estimated from the peak memory of a test pass."""
    count = lm.counted()
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(lm.device)
    before = torch.cuda.memory_allocated(lm.device)
    torch.cuda.reset_peak_memory_stats(lm.device)
    tokens = min(_PROBE_TOKENS, lm.max_length)
    with torch.inference_mode():
        pooled_pass(lm, lay_out(lm, [chains([[0] * tokens])]), range(lm.num_layers + 1), POOLINGS)
    lm.recount(count)
    taken = max(torch.cuda.max_memory_allocated(lm.device) - before, 1) / tokens
    return max(tokens, min(_MOST_TOKENS, int(_MEMORY_SHARE * free / taken)))


def _passes(lm: LanguageModel, trees: Sequence[Tree], batch_tokens: int) -> list[list[Row]]:
    """Distribute trees over forward passes. A text whose length changes its RoPE runs alone in its pass."""
    alone = [tree.is_chain and lm.rescales(len(tree.tokens)) for tree in trees]
    together = [tree for tree, yes in zip(trees, alone, strict=True) if not yes]
    packed = passes(together, batch_tokens, lm.costs, beside=bool(lm.obeys_trees))
    return [*packed, *([[tree]] for tree, yes in zip(trees, alone, strict=True) if yes)]


def _in_memory(lm: LanguageModel, trees: Sequence[Tree], batch_tokens: int, run: Callable[[list[Row]], None]) -> None:
    """Call `run` with the rows of each pass; a pass that runs out of memory is repeated in smaller passes.

    The size that fits is remembered for the model. A single tree that does not fit is run text by text. `run` must not
    keep any result if it fails.

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
        # Outside the handler, because the exception keeps the failed pass's tensors alive.
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
        first = [tree for row in waiting[0] for tree in row]
        rest = [tree for passed in list(waiting)[1:] for row in passed for tree in row]
        if len(first) > 1:
            lm.fits = len(waiting[0]) * max(map(width, waiting[0])) // 2
            log.info("Out of memory: from now on a pass has at most %d tokens.", lm.fits)
        elif not first[0].is_chain:
            first = first[0].chains()
        else:
            raise InputError(
                f"{lm.device} has too little memory for {lm.name} and a text of {len(first[0].tokens)} tokens; use "
                "model.dtype=bfloat16, fewer examples (task.num_fewshot) or a device with more memory."
            )
        waiting = deque(_passes(lm, first + rest, token_budget(lm, batch_tokens)))
