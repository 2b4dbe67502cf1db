"""Trees of many lengths into passes of few padded tokens.

A pass is a rectangle: as many rows as it has, each as wide as the longest. Short trees stand beside one another in a
row; how many rows a pass gets is what makes it cheapest, padding and attention both counted.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from align_pipeline.engine.tree import Tree

Row = list[Tree]
"""Trees beside one another; none sees another."""

MASK_CELLS = 2**26
"""Cells of the masks of one pass, unless a single row has more."""
_FULL = 0.9  # of the budget is given out in tokens; the rest is for padding
_PADDING = 1.1  # a shape with more computed tokens by real ones is taken only where there is no other
_MASKED = 2.0  # attention under a mask reaches about half the rate of products with weights
_WIDE = 1024  # tokens of the longest rows that several trees are put into
_TRIED = 12  # numbers of rows that are tried


@dataclass(frozen=True)
class Costs:
    """FLOPs of a pass of B rows of T tokens: B * T * (token + cell * T).

    Attributes:
        token: of the blocks' products with weights, for one token.
        cell: of all blocks' attention, for one token that sees one other.
    """

    token: float
    cell: float


def passes(trees: Sequence[Tree], budget: int, costs: Costs, beside: bool = True) -> Iterator[list[Row]]:
    """The rows of each pass. Texts that need no mask run apart from trees.

    Args:
        trees: in any order; the result depends on it only where trees are as long as one another.
        budget: most tokens in a pass, padding included; a longer tree runs alone.
        costs: of the model.
        beside: whether trees may stand beside one another, for which the model has to obey masks.
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
    """Units, trees that must come out together, by batch: those of like length, under a token budget."""
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
    """Tokens of a row, padding not counted."""
    return sum(len(tree.tokens) for tree in row)


def _fits(rows: Sequence[Row], budget: int) -> bool:
    wide = max(map(width, rows))
    bare = all(len(row) == 1 and row[0].is_chain for row in rows)
    return len(rows) * wide <= budget and (bare or len(rows) * wide * wide <= MASK_CELLS)


def _shape(trees: Sequence[Tree], costs: Costs, beside: bool) -> list[Row]:
    """The cheapest rows for these trees, which are given longest first."""
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
    """So many rows of about one length: each tree, longest first, goes to the shortest row."""
    rows: list[Row] = [[] for _ in range(count)]
    heap = [(0, index) for index in range(count)]
    for tree in trees:
        used, index = heapq.heappop(heap)
        rows[index].append(tree)
        heapq.heappush(heap, (used + len(tree.tokens), index))
    return rows
