"""Whatever trees are given, every one is in one pass, and passes hold little padding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.packing import Costs, Row, batches, passes, width
from align_pipeline.tree import Tree

COSTS = Costs(token=2e8, cell=4.0 * 18 * 1024)  # of Gemma 3 270M
lengths = st.lists(st.integers(1, 900), min_size=1, max_size=80)


def tree(member: int, length: int, branching: bool) -> Tree:
    half = length // 2
    segments = ((0, half, -1), (half, length, -1)) if branching and half else ((0, length, -1),)
    return Tree(np.zeros(length, np.int64), np.arange(length), segments, {member: length - 1})


def computed(planned: list[list[Row]]) -> int:
    return sum(len(rows) * max(map(width, rows)) for rows in planned)


@given(lengths, st.integers(1, 4000), st.booleans(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_each_tree_is_in_one_pass_within_the_budget(
    given_: list[int], budget: int, branching: bool, beside: bool
) -> None:
    trees = [tree(member, length, branching) for member, length in enumerate(given_)]
    planned = list(passes(trees, budget, COSTS, beside))
    assert sorted(m for rows in planned for row in rows for part in row for m in part.ends) == list(range(len(trees)))
    for rows in planned:
        parts = [part for row in rows for part in row]
        assert len(parts) == 1 or len(rows) * max(map(width, rows)) <= budget
        assert beside or all(len(row) == 1 for row in rows)


@pytest.mark.parametrize("budget", [1250, 16384])
@pytest.mark.parametrize("branching", [True, False])
@given(st.lists(st.integers(8, 400), min_size=60, max_size=300))
@settings(max_examples=60, deadline=None)
def test_padding_stays_below_an_eighth(budget: int, branching: bool, given_: list[int]) -> None:
    trees = [tree(member, length, branching) for member, length in enumerate(given_)]
    assert computed(list(passes(trees, budget, COSTS))) <= 1.125 * sum(given_)


def test_one_long_tree_beside_many_short_ones_pads_nothing_away() -> None:
    """Twenty rows as wide as the longest would compute eight times the tokens."""
    trees = [tree(0, 769, True)] + [tree(1 + k, 40 + k, True) for k in range(19)]
    assert computed(list(passes(trees, 16384, COSTS))) < 1.15 * sum(len(t.tokens) for t in trees)


@given(lengths, st.integers(1, 3000))
@settings(max_examples=100, deadline=None)
def test_units_stay_together(given_: list[int], budget: int) -> None:
    units = [[tree(k, length, True), tree(k + 1000, length // 3 + 1, True)] for k, length in enumerate(given_)]
    found = list(batches(units, budget))
    assert sorted(id(unit) for batch in found for unit in batch) == sorted(map(id, units))
    for batch in found:
        assert len(batch) == 1 or sum(len(part.tokens) for unit in batch for part in unit) <= budget
