"""Turn rows of trees into model inputs (tokens, positions, masks), with an optional prefix in the KV cache."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from align_pipeline.engine.model import LanguageModel
from align_pipeline.engine.packing import Row
from align_pipeline.engine.tree import Tree, chains

_TRUNK_STEP = 4096  # maximum tokens of a cached prefix per pass


def _beside(parts: Sequence[Tree]) -> Tree:
    """Concatenate trees in one row; they do not attend to one another."""
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


_READ = 16  # reading the weights takes about as long as computing so many tokens
_LAUNCH = 2.5e7  # FLOPs that a CPU core could do while a block's operations are started


@dataclass(frozen=True)
class Layout:
    """Rows as model inputs.

    Attributes:
        rows: the trees.
        members: the sequences in the rows, in the order of the results.
        row_of: row of each sequence.
        tokens: [B, T] int64, right-padded with any id, because nothing attends to the padding.
        positions: [B, T] int64; None for plain causal rows.
        mask: [B, 1, T, P + T] in the model's dtype: 0 where a token attends to another (P cached ones come first), else
            the lowest number; by kind of layer if some have an attention window; None for plain causal rows.
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


def lay_out(lm: LanguageModel, parts: Sequence[Row], behind: int = 0) -> Layout:
    """Put trees into padded rows and count their tokens as run. `behind` tokens are in the cache."""
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
        sees[index, padding, padding] = True  # padding attends to itself, so that no mask row is empty
    mask = by_kind(lm, lambda window: _mask(lm, sees, positions, behind, window))
    return Layout(tuple(rows), members, row_of, tokens, positions.to(lm.device), mask, sees)


def by_kind(lm: LanguageModel, mask: Callable[[int | None], Tensor]) -> Tensor | dict[str, Tensor]:
    """The masks that `mask` makes from the attention windows, by kind of layer; of a single kind, the mask itself."""
    masks = {kind: mask(window) for kind, window in lm.windows.items()}
    return next(iter(masks.values())) if len(masks) == 1 else masks


def _mask(lm: LanguageModel, sees: Tensor, positions: Tensor, behind: int, window: int | None) -> Tensor:
    """`Layout.mask` for layers with a window: a token attends only to the last `window` tokens of its own sequence.

    Args:
        lm: the model.
        sees: bool [B, T, T].
        positions: [B, T].
        behind: P, number of tokens in the cache.
        window: None: no limit.
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


class Trunk:
    """The shared prefix in the KV cache, as a single row."""

    def __init__(self, lm: LanguageModel, step: int = _TRUNK_STEP) -> None:
        self.lm, self.step = lm, min(step, _TRUNK_STEP)  # keeps masks small for long prefixes
        self.tokens: tuple[int, ...] = ()
        self.cuts: tuple[int, ...] = ()
        self.cache: Any = None

    def hold(self, tokens: tuple[int, ...], cuts: tuple[int, ...] = ()) -> None:
        """Make the cache hold exactly these tokens, computed in parts that end at the cuts.

        Parts that are already in the cache are kept; a cached token is bit-identical whatever was held before.
        """
        cuts = cuts or (len(tokens),)
        same = 0
        for own, other in zip(self.cuts, cuts, strict=False):
            if own != other or self.tokens[same:own] != tokens[same:own]:
                break
            same = own
        if not same:
            self.cache = None
        elif self.cache is not None and same < len(self.tokens):
            self.cache.crop(same - len(self.tokens))
        self.tokens = tokens[:same]
        for end in (cut for cut in cuts if cut > same):
            while (at := len(self.tokens)) < end:
                part = tokens[at : min(at + self.step, end)]
                layout = lay_out(self.lm, [chains([part], at)], behind=at)
                if self.lm.plan is not None:
                    before = Trunk(self.lm)
                    before.tokens, before.cuts = self.tokens, (*(cut for cut in cuts if cut < at), at)
                    planned(self.lm, "prefix", layout, before, _extended)
                else:
                    _extend(layout, self)
                self.tokens += part
        self.cuts = cuts

    def inputs(self, layout: Layout) -> dict[str, Any]:
        """The model's arguments for a layout, after the cached tokens if there are any."""
        from transformers import DynamicCache

        if self.cache is None:
            self.cache = DynamicCache()  # without the config all layers keep all tokens; the masks apply the windows
        return _inputs(layout) | {"past_key_values": self.cache, "use_cache": True}

    def forget(self, layout: Layout) -> None:
        """Remove the tokens of a pass over `layout` from the cache."""
        self.cache.crop(-layout.tokens.shape[1])


@contextlib.contextmanager
def hooked(handles: Sequence[torch.utils.hooks.RemovableHandle]) -> Iterator[None]:
    """Remove the hooks at the end, even after an error."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _inputs(layout: Layout) -> dict[str, Any]:
    if layout.mask is None:  # causal attention never sees right padding, so no mask is needed
        return {"input_ids": layout.tokens, "use_cache": False}
    return {
        "input_ids": layout.tokens,
        "attention_mask": layout.mask,
        "position_ids": layout.positions,
        "use_cache": False,
    }


@contextlib.contextmanager
def called_with(layout: Layout, trunk: Trunk | None) -> Iterator[dict[str, Any]]:
    """The model's arguments for a pass, after the trunk if it holds tokens; the trunk is restored afterwards."""
    if trunk is None or not trunk.tokens:
        yield _inputs(layout)
        return
    try:
        yield trunk.inputs(layout)
    finally:
        trunk.forget(layout)


def _extend(layout: Layout, trunk: Trunk) -> None:
    """Run a pass whose tokens stay in the trunk's cache."""
    with torch.inference_mode():
        trunk.lm.decoder(**trunk.inputs(layout))


def _extended(layout: Layout, trunk: Trunk) -> None:
    _extend(layout, trunk)
    trunk.forget(layout)


def planned(
    lm: LanguageModel,
    kind: str,
    layout: Layout,
    trunk: Trunk | None,
    run: Callable[[Layout, Trunk], object],
    predicted: int = 0,
) -> None:
    """Count a pass of a model that only plans.

    Args:
        lm: the model.
        kind: of the pass.
        layout: its rows.
        trunk: the tokens in the cache.
        run: runs it with the model that `lm` stands for, given a layout and a trunk of that model.
        predicted: number of positions whose logits are computed.
    """
    assert lm.plan is not None
    behind, cuts = (trunk.tokens, trunk.cuts) if trunk is not None else ((), ())
    rows, wide = layout.rows, layout.tokens.shape[1]
    alone = sum(int(rows[layout.row_of[m]].positions[rows[layout.row_of[m]].ends[m]]) + 1 for m in layout.members)

    def repeat() -> Callable[[], object]:
        assert lm.plan is not None
        real = replace(lm, plan=None)
        held = lm.plan.held = lm.plan.held or Trunk(real)  # one for all, so that a prefix is computed once
        held.hold(behind, cuts)
        again = lay_out(real, [[row] for row in rows], len(behind))
        return lambda: run(again, held)

    work = work_of(lm, len(rows), wide, len(behind), predicted)
    lm.plan.add(kind, work, len(rows) * wide, 0 if kind == "prefix" else alone, repeat)


def work_of(lm: LanguageModel, rows: int, wide: int, behind: int, predicted: int) -> float:
    """About how long a pass takes, in FLOPs: those of its tokens, and more for reading the weights and for overhead.

    Args:
        lm: the model.
        rows: B, number of rows.
        wide: T, tokens of a row.
        behind: tokens in the cache.
        predicted: positions whose logits are computed.
    """
    logits = 2.0 * lm.vocabulary * int(lm.model.config.get_text_config().hidden_size)
    blocks = rows * wide * (lm.costs.token + lm.costs.cell * (behind + wide))
    return blocks + predicted * logits + _READ * (lm.costs.token + logits * (predicted > 0)) + _LAUNCH * lm.num_layers
