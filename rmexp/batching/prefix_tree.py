"""Token trees: what the responses to a prompt share is laid out, and computed, once.

A tree is a trunk, the longest token prefix that all its sequences share, and one branch for each
distinct sequence. Packed into a row it reads `trunk branch_0 branch_1 ...`; every branch goes on at
position P, the trunk's length, and sees the trunk and itself. Causal models give each token the
same hidden state there as in a sequence of its own.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

BUCKET = 32
"""Shapes are rounded up to multiples of this: each new one costs a kernel set-up and memory."""


QUERIES = 256
"""Most queries of an attention block: longer stretches are cut, so that few later keys are met."""


NOWHERE = 2**40
"""The position of a key that no query sees."""


def bucketed(size: int, bucket: int = BUCKET) -> int:
    """`size` rounded up to a multiple of `bucket`."""
    return -(-size // bucket) * bucket


def row_width(tokens: int) -> int:
    """Tokens of a packed row: whole buckets, and room for the last block to read over its end."""
    return bucketed(tokens + BUCKET - 1)


@dataclass(frozen=True)
class Tree:
    """A trunk of `trunk` tokens and branches of `branches[k]` tokens each, all at least 1."""

    trunk: int
    branches: tuple[int, ...]

    @property
    def size(self) -> int:
        """Tokens of the packed tree."""
        return self.trunk + sum(self.branches)

    def positions(self) -> np.ndarray:
        """(size,) position of each packed token in its own sequence."""
        parts = [np.arange(self.trunk), *(self.trunk + np.arange(n) for n in self.branches)]
        return np.concatenate(parts)

    def segments(self) -> np.ndarray:
        """(size,) 0 for the trunk, k + 1 for branch k."""
        return np.repeat(np.arange(len(self.branches) + 1), [self.trunk, *self.branches])

    def ends(self) -> np.ndarray:
        """(branches,) packed index of each branch's last token, where its reward is read."""
        return self.trunk + np.cumsum(self.branches) - 1


def shared_prefix(one: Sequence[int], other: Sequence[int], limit: int) -> int:
    """How many tokens two sequences share at their start, at most `limit`."""
    a, b = np.asarray(one[:limit]), np.asarray(other[:limit])
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


@dataclass(frozen=True)
class PrefixTreeBuilder:
    """The distinct sequences of a tree that may still grow: where each is, and what they share.

    Every branch keeps at least its last token, so that every response has a place to be read at; a
    lone sequence has no trunk. A sequence that is the start of another (the first steps of an
    answer) needs no branch: it is read inside of the other.

    Args:
        places: sequence -> its branch.
        inside: sequence -> the longer one in which it is read.
    """

    places: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    inside: Mapping[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    shared: int = 0
    total: int = 0

    def with_sequences(self, sequences: Iterable[Sequence[int]]) -> "PrefixTreeBuilder":
        """The same with more token sequences (each non-empty); equal ones share a branch."""
        places, shared, total = dict(self.places), self.shared, self.total
        known = self.places.keys() | self.inside.keys()
        new = [ids for ids in dict.fromkeys(map(tuple, sequences)) if ids not in known]
        starts = _starts(new)
        for ids in new:
            if ids in starts:
                continue
            first = next(iter(places), ids)
            most = min(shared, len(ids) - 1) if places else len(ids) - 1
            shared = shared_prefix(first, ids, most)
            total += len(ids)
            places[ids] = len(places)
        return PrefixTreeBuilder(places, {**self.inside, **starts}, shared, total)

    @property
    def size(self) -> int:
        """Tokens of the packed tree."""
        return self.total - self.shared * (len(self.places) - 1)

    def packed(self) -> tuple[Tree, list[int]]:
        """The tree and its packed tokens."""
        trunk = self.shared if len(self.places) > 1 else 0
        tokens = list(next(iter(self.places))[:trunk])
        for ids in self.places:
            tokens += ids[trunk:]
        return Tree(trunk, tuple(len(ids) - trunk for ids in self.places)), tokens

    def ends(self, tree: Tree, sequences: Iterable[Sequence[int]]) -> list[int]:
        """Where the last token of each sequence is in the packed tree."""
        ends = tree.ends()
        found = []
        for ids in map(tuple, sequences):
            whole = self.inside.get(ids, ids)
            in_trunk = len(ids) <= tree.trunk
            end = int(ends[self.places[whole]]) - (len(whole) - len(ids))
            found.append(len(ids) - 1 if in_trunk else end)
        return found


def _starts(sequences: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Those that are the start of another one -> the longest such."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    # In order, a sequence comes right before those that begin with it.
    for one, other in reversed(list(pairwise(sorted(sequences)))):
        if other[: len(one)] == one:
            found[one] = found.get(other, other)
    return found


@dataclass(frozen=True)
class Block:
    """Consecutive queries of a packed row, and the keys that some of them see.

    A block covers whole buckets: it may read over its last query and key, where `hidden` is true.

    start, queries   the first query's place in the row, and how many count
    wide             how many there are once rounded up
    keys             stretches of the row, (start, length), in the order of their positions
    hidden           (wide, keys from `first`) true where a query must not look
    first            the keys before this one are seen by all queries
    """

    start: int
    queries: int
    wide: int
    keys: tuple[tuple[int, int], ...]
    hidden: np.ndarray
    first: int


def attention_blocks(trees: Sequence[Tree], window: int | None) -> Iterator[Block]:
    """What each token of a packed row (`row_width` wide) sees, in blocks of dense work.

    Trunk tokens see the trunk before them; a branch's see the trunk and the branch before them.
    With a `window`, only keys less than that many positions back, as in sliding attention.
    """
    start = 0
    for tree in trees:
        place = start + tree.trunk
        for begin in range(0, tree.trunk, QUERIES):
            queries = min(QUERIES, tree.trunk - begin)
            yield _block(start, 0, start, begin, queries, window)
        for length in tree.branches:
            for begin in range(0, length, QUERIES):
                queries = min(QUERIES, length - begin)
                yield _block(start, tree.trunk, place, begin, queries, window)
            place += length
        start = place


def _block(
    tree: int, trunk: int, segment: int, begin: int, queries: int, window: int | None
) -> Block:
    """`queries` queries from `begin` on of the segment at `segment`, behind `trunk` tokens."""
    start, end = segment + begin, begin + queries
    wide = bucketed(queries)
    if segment == tree + trunk:  # trunk and segment lie side by side
        own = bucketed(trunk + end)
        keys: tuple[tuple[int, int], ...] = ((tree, own),)
        positions = np.arange(own)
    else:
        before, own = bucketed(trunk), bucketed(end)
        keys = ((tree, before), (segment, own)) if trunk else ((segment, own),)
        ahead = np.arange(before if trunk else 0)
        ahead[trunk:] = NOWHERE
        positions = np.concatenate([ahead, trunk + np.arange(own)])
    at = trunk + begin + np.arange(wide)
    hidden = positions[None] > at[:, None]
    if window is not None:
        hidden |= at[:, None] - positions[None] >= window
    hidden[queries:] = False  # queries that do not count: anything but nothing at all
    columns = np.flatnonzero(hidden.any(0))
    first = int(columns[0]) if len(columns) else hidden.shape[1]
    return Block(start, queries, wide, keys, hidden[:, first:], first)
