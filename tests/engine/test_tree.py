"""Whatever sequences are given, every one of them can be read back from the rows that it was laid into."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from align_pipeline.engine.tree import Step, Tree, chains, steps, trees, trie

# Few different tokens: sequences that begin alike, repeat, or continue one another come up often.
sequence = st.lists(st.integers(0, 2), min_size=1, max_size=12)
shared = st.builds(lambda head, tail: head + tail, st.sampled_from([[1] * 70, [1] * 70 + [2] * 80, []]), sequence)
sequences = st.lists(st.one_of(sequence, shared), min_size=1, max_size=14)


def read(tree: Tree, member: int, behind: int = 0) -> list[int]:
    path = tree.path(member)
    assert tree.positions[path].tolist() == list(range(behind, behind + len(path)))
    return [int(token) for token in tree.tokens[path]]


@given(sequences, st.integers(1, 400))
@settings(max_examples=300, deadline=None)
def test_trees_hold_every_sequence_once(given_: list[list[int]], row_tokens: int) -> None:
    rows = trees(trie(given_), row_tokens)
    members = [member for row in rows for member in row.ends]
    assert sorted(members) == list(range(len(given_)))
    for row in rows:
        for member in row.ends:
            assert read(row, member) == given_[member]


@given(sequences)
@settings(max_examples=200, deadline=None)
def test_a_token_sees_its_own_sequence_alone(given_: list[list[int]]) -> None:
    for row in trees(trie(given_)):
        sees = row.sees()
        for member, end in row.ends.items():
            path = row.path(member)
            assert sorted(path) == sees[end].nonzero()[0].tolist()
            for step, at in enumerate(path):
                assert sees[at].nonzero()[0].tolist() == sorted(path[: step + 1])
        if row.is_chain:
            assert all(sees[t, : t + 1].all() and not sees[t, t + 1 :].any() for t in range(len(sees)))


@given(sequences, st.integers(1, 300), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_steps_hold_every_sequence_behind_its_trunk(given_: list[list[int]], row_tokens: int, draw: object) -> None:
    needs = [draw.randrange(len(s)) for s in given_]  # type: ignore[attr-defined]
    found: list[int] = []
    step: Step
    for step in steps(trie(given_, needs), row_tokens):
        for tree in step.trees:
            for member in tree.ends:
                found.append(member)
                assert [*step.trunk, *read(tree, member, len(step.trunk))] == given_[member]
                assert len(step.trunk) <= needs[member]
    assert sorted(found) == list(range(len(given_)))


def test_equal_sequences_are_one_leaf_and_shared_tokens_appear_once() -> None:
    (row,) = trees(trie([[1, 2, 3, 4], [1, 2, 3, 5], [1, 2, 3, 4], [1, 2]]))
    assert len(row.tokens) == 5
    assert row.ends[0] == row.ends[2]


def test_what_only_begins_with_one_token_alike_is_cut() -> None:
    """Repeating BOS costs less than attention over everything."""
    texts = [[0] + [10 * k + j for j in range(30)] for k in range(5)]
    assert len(trees(trie(texts))) == 5


def test_a_long_shared_beginning_becomes_a_trunk_computed_once() -> None:
    head = list(range(500))
    texts = [head + [1000 + k] * 50 for k in range(40)]
    planned = list(steps(trie(texts), 256))
    assert {step.trunk for step in planned} == {tuple(head)}
    assert sum(len(tree.tokens) for step in planned for tree in step.trees) == 40 * 50


def test_chains_share_nothing_but_whole_sequences() -> None:
    rows = chains([[1, 2], [1, 2, 3], [1, 2]])
    assert [row.tokens.tolist() for row in rows] == [[1, 2], [1, 2, 3]]
    assert rows[0].ends == {0: 1, 2: 1}
