"""Pack trees of different lengths into passes with little padding.

A pass is a rectangle of rows as wide as the longest one. Short trees are packed side by side in a row. The number of
rows is chosen to minimise the cost of padding and attention.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from align_pipeline.engine.tree import Tree

Row = list[Tree]
"""Trees side by side; they do not attend to one another."""

MASK_CELLS = 2**26
"""Maximum number of mask cells in one pass, unless a single row has more."""
_FULL = 0.9  # share of the budget that is filled with tokens; the rest is left for padding
_PADDING = 1.1  # shapes with a higher ratio of computed to real tokens are used only if there is no other
_MASKED = 2.0  # masked attention runs at about half the FLOP rate of weight products
_WIDE = 1024  # maximum tokens of a row with several trees
_TRIED = 12  # number of row counts that are tried


@dataclass(frozen=True)
class Costs:
    """FLOPs of a pass of B rows of T tokens: B * T * (token + cell * T).

    Attributes:
        token: FLOPs of the blocks' weight products, per token.
        cell: FLOPs of all blocks' attention, per pair of tokens.
    """

    token: float
    cell: float


def passes(trees: Sequence[Tree], budget: int, costs: Costs, beside: bool = True) -> Iterator[list[Row]]:
    """The rows of each pass. Texts that need no mask run in passes without trees.

    Args:
        trees: in any order, which matters only between trees of equal length.
        budget: maximum tokens per pass, with padding; a longer tree runs alone.
        costs: of the model.
        beside: whether trees may be packed side by side, which needs a model that handles tree masks.
    """
    for chains in (True, False):
        left = sorted((tree for tree in trees if tree.is_chain is chains), key=lambda tree: -len(tree.tokens))
        at = 0
        while at < len(left):
            count, tokens = 0, 0
            for tree in left[at:]:
                tokens += len(tree.tokens)
                if count and tokens > _FULL * budget:
                    break
                count += 1
            rows = _shape(left[at : at + count], costs, beside)
            while count > 1 and not _fits(rows, budget):
                count = max(1, int(count * 0.9))
                rows = _shape(left[at : at + count], costs, beside)
            yield rows
            at += count


def batches(units: Sequence[Sequence[Tree]], budget: int) -> Iterator[list[Sequence[Tree]]]:
    """Batch units (trees whose results must come together) of similar length under a token budget."""
    batch: list[Sequence[Tree]] = []
    used = 0
    longest = [max(len(tree.tokens) for tree in unit) for unit in units]
    for index in sorted(range(len(units)), key=lambda i: (-longest[i], i)):
        tokens = sum(len(tree.tokens) for tree in units[index])
        if batch and used + tokens > _FULL * budget:
            yield batch
            batch, used = [], 0
        batch.append(units[index])
        used += tokens
    if batch:
        yield batch


def width(row: Row) -> int:
    """Tokens of a row, without padding."""
    return sum(len(tree.tokens) for tree in row)


def _fits(rows: Sequence[Row], budget: int) -> bool:
    wide = max(map(width, rows))
    bare = all(len(row) == 1 and row[0].is_chain for row in rows)
    return len(rows) * wide <= budget and (bare or len(rows) * wide * wide <= MASK_CELLS)


def _shape(trees: Sequence[Tree], costs: Costs, beside: bool) -> list[Row]:
    """The cheapest arrangement of these trees in rows; the trees are sorted longest first."""
    if not beside:
        return [[tree] for tree in trees]
    total, longest = sum(len(tree.tokens) for tree in trees), len(trees[0].tokens)
    fewest, most = -(-total // max(longest, _WIDE)), -(-total // longest)
    counts = {len(trees), *np.geomspace(fewest, most, _TRIED).round().astype(int).tolist()}
    tried = []
    for count in sorted(counts, reverse=True):
        rows = _level(trees, min(count, len(trees)))
        wide = max(map(width, rows))
        bare = len(rows) == len(trees) and all(tree.is_chain for tree in trees)
        computed = len(rows) * wide
        cost = computed * (costs.token + costs.cell * wide * (0.5 if bare else _MASKED))
        tried.append((computed > _PADDING * total, cost, rows))
    return min(tried, key=lambda shape: shape[:2])[2]


def _level(trees: Sequence[Tree], count: int) -> list[Row]:
    """Distribute the trees, longest first, over `count` rows of about equal length: each goes to the shortest row."""
    rows: list[Row] = [[] for _ in range(count)]
    heap = [(0, index) for index in range(count)]
    for tree in trees:
        used, index = heapq.heappop(heap)
        rows[index].append(tree)
        heapq.heappush(heap, (used + len(tree.tokens), index))
    return rows
