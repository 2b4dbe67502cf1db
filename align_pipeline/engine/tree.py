"""Sequences with shared prefixes, arranged so that each prefix is computed once.

Sequences become the leaves of a trie. A `Tree` is a part of the trie written into one row, parents before children.
Each token attends only to its own ancestors and its position is its depth, so the result is the same as for each
sequence alone.

    P Q A        P
    P Q B   ->   ├── Q ── A, B      row: P Q A B R C
    P R C        └── R ── C
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Tokens = Sequence[int]

ROW_TOKENS = 512
"""Trees are cut to rows of about this length, because attention's cost is quadratic in the row length."""
CUT_COST = 0.05
"""A tree is cut if the tokens that are then computed twice are at most this share of it."""
TRUNK_TOKENS = 64
"""Shared prefixes of at least this length that do not fit one row are kept as a KV cache."""


@dataclass
class Node:
    """A span of tokens that all sequences below it share.

    Attributes:
        depth: number of tokens above it.
        edge: its own tokens.
        children: the following nodes; at least two unless a sequence ends here.
        members: sequences that end with this span.
        size: number of tokens in it and below.
        first_need: the earliest position at which any sequence below needs a result.
    """

    depth: int
    edge: list[int]
    children: list[Node] = field(default_factory=list)
    members: list[int] = field(default_factory=list)
    size: int = 0
    first_need: int = 0

    @property
    def end(self) -> int:
        """Depth of the end of this span: tokens from the beginning of the sequences."""
        return self.depth + len(self.edge)


@dataclass(frozen=True)
class Tree:
    """A part of the trie, in one row.

    Attributes:
        tokens: [T].
        positions: [T], each token's position in its sequence, from 0.
        segments: (start, end, parent) of each span: its range in the row, and the row index of the token before it; -1
            where the row (or the trunk before it) begins.
        ends: sequence -> row index of its last token.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    segments: tuple[tuple[int, int, int], ...]
    ends: dict[int, int]

    @property
    def is_chain(self) -> bool:
        """Whether each token follows the one to its left, so that plain causal attention is enough."""
        return all(parent == start - 1 for start, _, parent in self.segments)

    def sees(self) -> NDArray[np.bool_]:
        """[T, T]: whether token t (row) attends to token s (column), itself included."""
        seen = np.zeros((len(self.tokens), len(self.tokens)), dtype=np.bool_)
        for start, end, parent in self.segments:
            if parent >= 0:
                seen[start:end] = seen[parent]
            seen[start:end, start:end] = np.tri(end - start, dtype=np.bool_)
        return seen

    def path(self, member: int) -> list[int]:
        """Row indices of a sequence's tokens in this row, in order."""
        starts = {start: (start, end, parent) for start, end, parent in self.segments}
        order = sorted(starts)
        spans: list[range] = []
        at = self.ends[member]
        while at >= 0:
            start = order[int(np.searchsorted(order, at, side="right")) - 1]
            spans.append(range(start, at + 1))
            at = starts[start][2]
        return [index for span in reversed(spans) for index in span]

    def chains(self) -> list[Tree]:
        """The sequences of a row that starts at position 0, each as a row of its own."""
        apart: dict[int, list[int]] = {}
        for member, end in self.ends.items():
            apart.setdefault(end, []).append(member)
        return [
            Tree(self.tokens[path], np.arange(len(path)), ((0, len(path), -1),), dict.fromkeys(owners, len(path) - 1))
            for owners in apart.values()
            for path in [self.path(owners[0])]
        ]


@dataclass(frozen=True)
class Step:
    """Trees to run after a shared prefix.

    Attributes:
        trunk: prefix to hold in a KV cache before the trees run; () for none.
        trees: each attends to the trunk and to itself.
        cuts: ends of the trunk's parts, each computed in a pass of its own: the trunks of the steps above, then
            its own. A trunk is then bit-identical whatever was in the cache before.
    """

    trunk: tuple[int, ...]
    trees: tuple[Tree, ...]
    cuts: tuple[int, ...] = ()


def trie(sequences: Sequence[Tokens], needs: Sequence[int] | None = None) -> Node:
    """The trie of the sequences; equal sequences end at the same node.

    Args:
        sequences: each has at least one token.
        needs: per sequence, the first position at which a result is needed; default: its last.
    """
    firsts = [len(s) - 1 for s in sequences] if needs is None else list(needs)
    order = sorted(range(len(sequences)), key=lambda i: list(sequences[i]))
    root = Node(0, [])
    path = [root]  # nodes from the root to the last sequence's end
    last: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    for index in order:
        own = np.asarray(sequences[index], dtype=np.int64)
        common = _common(last, own)
        while path[-1].depth >= common and len(path) > 1:
            path.pop()
        node = path[-1]
        if node.end > common:  # the previous sequence continued within this span: split it
            cut = common - node.depth
            rest = Node(common, node.edge[cut:], node.children, node.members)
            node.edge, node.children, node.members = node.edge[:cut], [rest], []
        if len(own) > common:
            leaf = Node(common, own[common:].tolist())
            node.children.append(leaf)
            path.append(leaf)
            node = leaf
        node.members.append(index)
        last = own
    _measure(root, firsts)
    return root


def _common(a: NDArray[np.int64], b: NDArray[np.int64]) -> int:
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def _measure(root: Node, firsts: Sequence[int]) -> None:
    """Fill in `size` and `first_need`, bottom up; iteratively, because tries can be as deep as there are sequences."""
    order = [root]
    for node in order:
        order.extend(node.children)
    for node in reversed(order):
        node.size = len(node.edge) + sum(child.size for child in node.children)
        below = [child.first_need for child in node.children] + [firsts[m] for m in node.members]
        node.first_need = min(below, default=0)


def chains(sequences: Sequence[Tokens], depth: int = 0) -> list[Tree]:
    """Each distinct sequence as a row of its own, from position `depth`: only equal sequences are shared."""
    members: dict[tuple[int, ...], list[int]] = {}
    for index, sequence in enumerate(sequences):
        members.setdefault(tuple(sequence), []).append(index)
    return [
        Tree(
            np.asarray(tokens, dtype=np.int64),
            np.arange(depth, depth + len(tokens)),
            ((0, len(tokens), -1),),
            dict.fromkeys(owners, len(tokens) - 1),
        )
        for tokens, owners in members.items()
    ]


def trees(root: Node, row_tokens: int = ROW_TOKENS) -> list[Tree]:
    """The trie as rows; each is a subtree, preceded by a copy of the tokens above it."""
    return [lay([(above, node)], 0) for above, node in _cut(root, [], row_tokens)]


def _cut(node: Node, above: list[int], row_tokens: int) -> Iterator[tuple[list[int], Node]]:
    """Cut into subtrees that become rows, each with the tokens above it."""
    stack = [(above, node)]
    while stack:
        prefix, current = stack.pop()
        parts = len(current.children) + bool(current.members)
        repeated = (len(prefix) + len(current.edge)) * (parts - 1)
        total = len(prefix) + current.size
        if parts > 1 and (repeated <= CUT_COST * total or (total > 4 * row_tokens and repeated < 0.5 * total)):
            whole = prefix + current.edge
            stack.extend((whole, child) for child in reversed(current.children))
            if current.members:
                yield prefix, Node(current.depth, current.edge, [], current.members, len(current.edge))
        elif parts == 1 and not current.members:  # a single child: it stays in the same row
            stack.append((prefix + current.edge, current.children[0]))
        else:
            yield prefix, current


def steps(root: Node, row_tokens: int) -> Iterator[Step]:
    """The trie as trees after cached trunks: prefixes whose sequences do not fit one row are computed once.

    Trunks are ordered depth first, so that each starts with the part that is still in the cache.
    """
    yield from _steps(root, [], (), row_tokens)


def _steps(node: Node, above: list[int], cuts: tuple[int, ...], row_tokens: int) -> Iterator[Step]:
    """The steps of a subtree.

    Args:
        node: the subtree.
        above: all tokens above it.
        cuts: end positions of the passes that computed the part of `above` in the cache.
        row_tokens: approximate maximum of tree tokens in one step.
    """
    trunk = cuts[-1] if cuts else 0
    prefix, total = above[trunk:], len(above) - trunk + node.size
    whole = above + node.edge
    if total <= row_tokens or not node.children:
        yield Step(tuple(above[:trunk]), tuple(_laid(prefix, node, trunk)), cuts)
        return
    # A position that needs a result must not go into the cache.
    reach = min(len(whole), node.first_need)
    if reach - trunk >= TRUNK_TOKENS:
        trunk, cuts = reach, (*cuts, reach)
    held = Node(node.depth, node.edge, [], node.members, len(node.edge)) if node.members else None
    small: list[tuple[list[int], Node]] = [] if held is None else [(above[trunk:], held)]
    large: list[Node] = []
    for child in node.children:
        fits = len(whole) - trunk + child.size <= row_tokens
        if fits:
            small.append((whole[trunk:], child))
        else:
            large.append(child)
    yield from _filled(whole[:trunk], small, cuts, row_tokens)
    for child in large:
        yield from _steps(child, whole, cuts, row_tokens)


def _filled(
    trunk: list[int], parts: Sequence[tuple[list[int], Node]], cuts: tuple[int, ...], row_tokens: int
) -> Iterator[Step]:
    """Group subtrees, in order, into steps of about `row_tokens`."""
    depth = len(trunk)
    waiting: list[Tree] = []
    used = 0
    for prefix, node in parts:
        skipped = max(depth - node.depth, 0)  # a member that ends inside the trunk keeps its last tokens
        part = Node(node.depth + skipped, node.edge[skipped:], node.children, node.members, node.size - skipped)
        laid = _laid(prefix, part, depth)
        size = sum(len(tree.tokens) for tree in laid)
        if waiting and used + size > row_tokens:
            yield Step(tuple(trunk), tuple(waiting), cuts)
            waiting, used = [], 0
        waiting += laid
        used += size
    if waiting:
        yield Step(tuple(trunk), tuple(waiting), cuts)


def _laid(prefix: list[int], node: Node, depth: int) -> list[Tree]:
    """A subtree as one tree; without a trunk before it, as several trees if their shared part is small."""
    if depth:
        return [lay([(prefix, node)], depth)]
    return [lay([part], 0) for part in _cut(node, prefix, ROW_TOKENS)]


def lay(parts: Sequence[tuple[list[int], Node]], depth: int) -> Tree:
    """Write subtrees into a row, each after the tokens above it; the row starts at position `depth`."""
    tokens: list[int] = []
    positions: list[int] = []
    segments: list[tuple[int, int, int]] = []
    ends: dict[int, int] = {}

    def write(run: Sequence[int], at: int, parent: int) -> int:
        """Append a span; returns the row index of its last token."""
        if not run:
            return parent
        start = len(tokens)
        tokens.extend(run)
        positions.extend(range(at, at + len(run)))
        segments.append((start, len(tokens), parent))
        return len(tokens) - 1

    for prefix, node in parts:
        stack = [(node, write(prefix, depth, -1), depth + len(prefix))]
        while stack:
            current, parent, at = stack.pop()
            last = write(current.edge, at, parent)
            ends.update(dict.fromkeys(current.members, last))
            stack.extend((child, last, at + len(current.edge)) for child in reversed(current.children))
    return Tree(np.array(tokens, dtype=np.int64), np.array(positions, dtype=np.int64), tuple(segments), ends)
