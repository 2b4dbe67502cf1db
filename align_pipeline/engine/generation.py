"""Greedy generation of one line per prompt; prompts share their common prefix."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import itertools
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from align_pipeline import distributed
from align_pipeline.engine.forward import Advance, shares, token_budget
from align_pipeline.engine.layout import by_kind, work_of
from align_pipeline.engine.model import LanguageModel, Tokens
from align_pipeline.errors import InputError

log = logging.getLogger(__name__)

COMPACT = 0.75
"""A batch shrinks only when at most this share of its rows continues, because moving the cache has a cost too."""
FEWEST = 4
"""Rows that a batch on a CPU keeps, unless a single one continues: products with two or three rows take longer there
than with four, with a vocabulary of 262,144 one and a half times as long."""


_CPU_CACHE = 2**29
"""Bytes of the KV cache on a CPU."""


_CACHED_TOKENS = (2048, 16384)
"""Minimum and maximum tokens in the KV cache on a CPU."""


_NOTHING = contextlib.nullcontext()


def greedy(
    lm: LanguageModel,
    prompts: Sequence[Tokens],
    max_new_tokens: int,
    batch_tokens: int | None,
    advance: Advance = lambda texts: None,
    expected: Sequence[int] | None = None,
) -> list[Tokens]:
    """Greedy decoding until the line ends, with the same result as `model.generate` for each prompt alone.

    Args:
        lm: the model.
        prompts: token ids, at least one each.
        max_new_tokens: maximum tokens to add; fewer if the model's context ends before.
        batch_tokens: maximum tokens in the KV cache, with prefixes and future tokens; a longer row runs alone; None:
            `cache_budget`.
        advance: called with the number of prompts that each batch finished.
        expected: new tokens of each prompt that a model that only plans counts; see `engine.plan`.

    Returns:
        the new tokens of each prompt, including the one that ends the line (`LanguageModel.line_ends`).

    Raises:
        InputError: logits are not finite, or one row alone exceeds the device's memory.
    """
    batch_tokens = distributed.least(cache_budget(lm, batch_tokens))
    beginning = common_beginning(prompts)
    rests = [prompt[len(beginning) :] for prompt in prompts]
    limits = token_limits(lm, prompts, max_new_tokens, expected)
    padded = pad_tokens(lm, max(map(len, prompts)) + max_new_tokens)
    batches = list(generation_batches(rests, len(beginning) + max_new_tokens, batch_tokens, padded))

    @functools.cache
    def trunk() -> Any:
        return cached_trunk(lm, beginning)

    def run(rows: list[int]) -> list[Tokens]:
        return Batch(lm, trunk(), len(beginning), [rests[row] for row in rows]).run([limits[row] for row in rows])

    return in_batches(lm, batches, [len(prompt) for prompt in prompts], run, advance)


def token_limits(
    lm: LanguageModel, prompts: Sequence[Tokens], max_new_tokens: int, expected: Sequence[int] | None = None
) -> list[int]:
    """Maximum new tokens of each prompt; the last one is only predicted and needs no position in the context.

    A model that only plans adds the expected number of tokens, if that is known.
    """
    limits = [min(max_new_tokens, lm.max_length - len(prompt) + 1) for prompt in prompts]
    if lm.plan is None or expected is None:
        return limits
    return [min(limit, max(count, 1)) for limit, count in zip(limits, expected, strict=True)]


def cache_budget(lm: LanguageModel, asked: int | None) -> int:
    """Maximum tokens in the KV cache: as requested, as a GPU's memory allows, or `_CPU_CACHE` bytes.

    A step of generation reads all weights once, whatever the number of rows, so on a CPU, too, more rows are faster.
    """
    if asked is not None or lm.device.type == "cuda":
        return token_budget(lm, asked)
    config = lm.model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    taken = 2 * lm.num_layers * int(heads) * int(width) * int(lm.model.dtype.itemsize)
    few, many = _CACHED_TOKENS
    return min(many, max(few, _CPU_CACHE // taken))


def pad_tokens(lm: LanguageModel, longest: int) -> bool:
    """Whether rows of different lengths may run together.

    This needs padding, so the model must accept position ids. Transformers' attention windows count padding columns, so
    they must not be shorter than the longest row, unless the model handles masks of ours.
    """
    fits = lm.window is None or longest <= lm.window or _own_masks(lm)
    return "position_ids" in call_arguments(lm) and fits


def _own_masks(lm: LanguageModel) -> bool:
    """Whether attention windows are applied by masks of ours to a cache that keeps all tokens."""
    return lm.window is not None and shares(lm)


def _mask(lm: LanguageModel, columns: Tensor, width: int) -> Any:
    """The attention mask of the last `width` columns, of which those with 0 are padding.

    Args:
        lm: the model.
        columns: 0 or 1, [rows, K]: cached tokens, then the current ones.
        width: T.

    Returns:
        `columns`; if `_own_masks`, [rows, 1, T, K] in the model's dtype, by kind of layer if there are several: 0 where
        a token attends to another, else the lowest number.
    """
    if not _own_masks(lm):
        return columns
    positions = columns.cumsum(dim=1) - 1
    places = torch.arange(columns.shape[1], device=columns.device)
    sees = columns.bool()[:, None, :] & (places <= places[-width:, None])
    far = positions[:, -width:, None] - positions[:, None, :]  # [rows, T, K]

    def mask(window: int | None) -> Tensor:
        seen = sees if window is None else sees & (far < window)
        zeros = torch.zeros(seen.shape, dtype=lm.model.dtype, device=lm.device)
        return zeros.masked_fill_(~seen, torch.finfo(lm.model.dtype).min)[:, None]

    return by_kind(lm, mask)


def in_batches(
    lm: LanguageModel,
    batches: Sequence[list[int]],
    lengths: Sequence[int],
    run: Callable[[list[int]], list[Tokens]],
    advance: Advance,
) -> list[Tokens]:
    """Generate for each row, batch by batch; a batch that exceeds the memory is split in halves.

    Args:
        lm: the model.
        batches: rows that run together; every row is in exactly one batch.
        lengths: tokens of each row, for an error message.
        run: returns the new tokens of a batch's rows.
        advance: called with the number of rows that each batch finished.

    Raises:
        InputError: a single row does not fit.
    """
    advance = distributed.advancing(advance)

    def fitting(rows: list[int]) -> list[Tokens]:
        with contextlib.suppress(torch.OutOfMemoryError), torch.inference_mode():
            found = run(rows)
            advance(len(rows))
            return found
        if len(rows) == 1:
            raise InputError(
                f"{lm.device} has too little memory for {lm.name} and a prompt of {lengths[rows[0]]} tokens; use "
                "model.dtype=bfloat16, fewer examples (task.num_fewshot) or a device with more memory."
            )
        if lm.device.type == "cuda":
            torch.cuda.empty_cache()
        log.info("Out of memory: %d sentences are translated in two batches.", len(rows))
        half = len(rows) // 2
        return fitting(rows[:half]) + fitting(rows[half:])

    found = distributed.each(batches, [len(rows) for rows in batches], fitting)
    output_of = {
        row: output
        for rows, outputs in zip(batches, found, strict=True)
        for row, output in zip(rows, outputs, strict=True)
    }
    return [output_of[row] for row in range(len(lengths))]


def call_arguments(lm: LanguageModel) -> Collection[str]:
    """Names of the parameters of the model's forward method."""
    return inspect.signature(lm.model.forward).parameters.keys()


def common_beginning(prompts: Sequence[Tokens]) -> Tokens:
    """The common prefix of all prompts; it excludes the last token of each, which predicts the next one."""
    first, last = min(prompts), max(prompts)
    most = min(map(len, prompts)) - 1
    return first[: next((k for k in range(most) if first[k] != last[k]), most)]


def generation_batches(rests: Sequence[Tokens], more: int, batch_tokens: int, padded: bool) -> Iterator[list[int]]:
    """Batches of rows, longest first, which reduces padding and puts the memory peak at the start."""
    batch: list[int] = []
    for row in sorted(range(len(rests)), key=lambda i: (-len(rests[i]), i)):
        wide = len(rests[batch[0]]) if batch else 0
        if batch and ((len(batch) + 1) * (wide + more) > batch_tokens or not (padded or len(rests[row]) == wide)):
            yield batch
            batch = []
        batch.append(row)
    yield batch


def cached_trunk(lm: LanguageModel, beginning: Tokens) -> Any:
    """The KV cache of a prefix, as a single row."""
    # Imported here because it loads transformers, which a job with only cache hits does not need.
    from align_pipeline.engine.kv_cache import roomy

    cache = roomy(lm.model.config, keep_all=_own_masks(lm))
    if beginning:
        lm.tokens_run += len(beginning)
        lm.tokens_computed += len(beginning)
        if lm.plan is not None:
            _planned(lm, 1, len(beginning), 0, alone=0)
            return cache
        tokens = torch.tensor([beginning], device=lm.device)
        mask = _mask(lm, torch.ones_like(tokens), len(beginning))
        lm.decoder(input_ids=tokens, attention_mask=mask, past_key_values=cache, use_cache=True)
    return cache


class Batch:
    """Rows that are generated together after a shared prefix.

    Padding is between the prefix and the row's own tokens, so that all rows end in the same column.
    """

    def __init__(self, lm: LanguageModel, trunk: Any, beginning: int, rests: Sequence[Tokens]) -> None:
        width = max(map(len, rests))
        self.lm, self.rows = lm, list(range(len(rests)))
        self.cache = copy.deepcopy(trunk)
        self.cache.batch_repeat_interleave(len(rests))
        tokens = torch.zeros(len(rests), width, dtype=torch.long)
        mask = torch.ones(len(rests), beginning + width, dtype=torch.long)
        for row, rest in enumerate(rests):
            tokens[row, width - len(rest) :] = torch.tensor(rest)
            mask[row, beginning : beginning + width - len(rest)] = 0
        self.tokens, self.mask = tokens.to(lm.device), mask.to(lm.device)
        self.positions = (self.mask.cumsum(dim=1) - 1).clamp(min=0)[:, beginning:]
        lm.tokens_run += sum(map(len, rests))

    def branch(self, rows: Sequence[int], tails: Sequence[Tokens]) -> None:
        """Process the current tokens, then replace the rows: each new row continues a current one with its own tail.

        Args:
            rows: for each new row, the current row that it continues.
            tails: tokens of each new row; all have the same length.
        """
        self._logits()
        origins = torch.tensor(rows, device=self.tokens.device)
        self.cache.batch_select_indices(origins)
        self.tokens = torch.tensor(tails, device=self.tokens.device)
        self.mask = torch.cat([self.mask[origins], torch.ones_like(self.tokens)], dim=1)
        self.positions = self.mask.cumsum(dim=1)[:, -self.tokens.shape[1] :] - 1
        self.rows = list(range(len(rows)))
        self.lm.tokens_run += self.tokens.numel()

    def run(self, limits: Sequence[int], first: contextlib.AbstractContextManager[Any] = _NOTHING) -> list[Tokens]:
        """The new tokens of each row, at most `limits[row]`; the first forward pass runs within the context `first`."""
        outputs: list[Tokens] = [[] for _ in limits]
        going = self.rows
        while going:
            with first:
                found, tokens = self.step()
            first = _NOTHING
            chosen = dict(zip(self.rows, tokens, strict=True))
            for row in going:
                outputs[row].append(chosen[row])
            going = [row for row in going if chosen[row] not in self.lm.line_ends and len(outputs[row]) < limits[row]]
            self._append(found, going)
        return outputs

    def _logits(self) -> Tensor:
        """[rows, V] after the current tokens, which are added to the cache."""
        self.lm.tokens_computed += self.tokens.numel()
        if self.lm.plan is not None:
            rows, wide = self.tokens.shape
            behind = self.mask.shape[1] - wide
            _planned(self.lm, rows, wide, behind, alone=rows if wide == 1 else int(self.mask.sum()))
            return _going_on(self.lm).expand(rows, -1)
        arguments, taken = {"position_ids": self.positions, "logits_to_keep": 1}, call_arguments(self.lm)
        logits: Tensor = self.lm.model(
            input_ids=self.tokens,
            attention_mask=_mask(self.lm, self.mask, self.tokens.shape[1]),
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in arguments.items() if name in taken},
        ).logits[:, -1]
        return logits

    def step(self) -> tuple[Tensor, Tokens]:
        """[rows]: the most likely next tokens, on the model's device and here."""
        logits = self._logits()
        best: Tensor
        found: Tensor
        best, found = logits.float().max(dim=-1)
        if not torch.isfinite(best).all():
            raise InputError(f"{self.lm.name} gives logits that are not finite numbers; try model.dtype=float32.")
        return found, found.tolist()

    def _append(self, found: Tensor, going: Sequence[int]) -> None:
        """Append the chosen tokens; drop finished rows once there are enough of them."""
        self.lm.tokens_run += len(going)
        self.tokens = found[:, None]
        # A finished row may stay while others go on; at the end of the context there is no further position.
        self.positions = (self.positions[:, -1:] + 1).clamp(max=self.lm.max_length - 1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        left = list(going)
        if 1 < len(left) < FEWEST and self.tokens.device.type == "cpu":
            left += [row for row in self.rows if row not in left][: FEWEST - len(left)]
        if 0 < len(left) <= COMPACT * len(self.rows):
            at = {row: place for place, row in enumerate(self.rows)}
            kept = torch.tensor([at[row] for row in left], device=self.tokens.device)
            self.cache.batch_select_indices(kept)
            self.tokens, self.positions, self.mask = self.tokens[kept], self.positions[kept], self.mask[kept]
            self.rows = left


def _going_on(lm: LanguageModel) -> Tensor:
    """[1, some]: logits of a token that does not end the line, so that a planned generation is as long as it may be."""
    token = next(token for token in itertools.count() if token not in lm.line_ends)
    return torch.eye(token + 1, device=lm.device)[-1:]


def _planned(lm: LanguageModel, rows: int, wide: int, behind: int, alone: int) -> None:
    """Count a pass of a model that only plans; see `layout.planned`."""
    assert lm.plan is not None

    def repeat() -> Callable[[], object]:
        from align_pipeline.engine.kv_cache import roomy

        real = dataclasses.replace(lm, plan=None)
        trunk = roomy(real.model.config, keep_all=_own_masks(real))
        if behind:  # one row's prefix, which the batch copies to all
            tokens = torch.zeros(1, behind, dtype=torch.long, device=real.device)
            mask = _mask(real, torch.ones_like(tokens), behind)
            real.decoder(input_ids=tokens, attention_mask=mask, past_key_values=trunk, use_cache=True)
        return Batch(real, trunk, behind, [[0] * wide] * rows).step

    work = work_of(lm, rows, wide, behind, rows)
    lm.plan.add("generation" if wide == 1 else "prompts", work, rows * wide, alone, repeat)
