"""Prefix trees: tokens that the responses to a prompt share are computed once.

A tree is the longest prefix that all its sequences share, and one branch for each distinct
sequence. Packed into a row it reads `prefix branch_0 branch_1 ...`; positions of each
branch continue those of the prefix, and a branch attends to the prefix and itself. Causal models
compute the same hidden states as for separate sequences.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from rmexp.batching.prefix_groups import common_prefix

BUCKET = 32
"""Shapes are rounded up to multiples of this: each new one costs a kernel set-up and memory."""

QUERIES = 256
"""Maximum queries of an attention block; longer segments are split to skip masked keys."""

MASKED_POSITION = 2**40
"""Position of a key that no query attends to."""


def bucketed(size: int, bucket: int = BUCKET) -> int:
    """`size` rounded up to a multiple of `bucket`."""
    return -(-size // bucket) * bucket


def row_width(tokens: int) -> int:
    """Width of a packed row: whole buckets, with space for the last block to read over its end."""
    return bucketed(tokens + BUCKET - 1)


@dataclass(frozen=True)
class Tree:
    """A prefix of `shared_prefix` tokens and branches of `branches[k]` >= 1 tokens each."""

    shared_prefix: int
    branches: tuple[int, ...]

    @property
    def size(self) -> int:
        return self.shared_prefix + sum(self.branches)

    def positions(self) -> np.ndarray:
        """(size,) position of each packed token in its own sequence."""
        parts = [
            np.arange(self.shared_prefix),
            *(self.shared_prefix + np.arange(n) for n in self.branches),
        ]
        return np.concatenate(parts)

    def segments(self) -> np.ndarray:
        """(size,) 0 for the prefix, k + 1 for branch k."""
        return np.repeat(np.arange(len(self.branches) + 1), [self.shared_prefix, *self.branches])

    def ends(self) -> np.ndarray:
        """(branches,) packed index of each branch's last token."""
        return self.shared_prefix + np.cumsum(self.branches) - 1


@dataclass(frozen=True)
class PrefixTreeBuilder:
    """The distinct sequences of a tree to which more can be added.

    Every branch has at least its last token, where the reward is read; a single sequence has no
    shared prefix. A sequence that is a prefix of another (the first steps of an answer) needs no
    branch.

    Args:
        branch_of: sequence -> its branch.
        contained_in: sequence -> the longest sequence that begins with it.
        shared: length of the prefix that the branches share.
        total: tokens of all branches with their prefix.
    """

    branch_of: Mapping[tuple[int, ...], int] = field(default_factory=dict)
    contained_in: Mapping[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)
    shared: int = 0
    total: int = 0

    def with_sequences(self, sequences: Iterable[Sequence[int]]) -> "PrefixTreeBuilder":
        """A builder with more token sequences (each non-empty); equal ones share a branch."""
        branches, shared, total = dict(self.branch_of), self.shared, self.total
        known = self.branch_of.keys() | self.contained_in.keys()
        new = [ids for ids in dict.fromkeys(map(tuple, sequences)) if ids not in known]
        prefixes = _prefixes(new)
        for ids in new:
            if ids in prefixes:
                continue
            first = next(iter(branches), ids)
            limit = min(shared, len(ids) - 1) if branches else len(ids) - 1
            shared = common_prefix(first, ids[:limit])
            total += len(ids)
            branches[ids] = len(branches)
        return PrefixTreeBuilder(branches, {**self.contained_in, **prefixes}, shared, total)

    def least_growth(self, sequences: Iterable[Sequence[int]]) -> int:
        """At least as many tokens `with_sequences` adds to the `size` of a tree that has some.

        A new sequence, if no other begins with it, adds what lies beyond the shared prefix, which
        can only become shorter.
        """
        known = (self.branch_of, self.contained_in)
        new = [len(ids) for ids in map(tuple, sequences) if not any(ids in one for one in known)]
        return max(new, default=self.shared) - self.shared

    @property
    def size(self) -> int:
        """Tokens of the packed tree."""
        return self.total - self.shared * (len(self.branch_of) - 1)

    def packed(self) -> tuple[Tree, list[int]]:
        prefix = self.shared if len(self.branch_of) > 1 else 0
        tokens = list(next(iter(self.branch_of))[:prefix])
        for ids in self.branch_of:
            tokens += ids[prefix:]
        return Tree(prefix, tuple(len(ids) - prefix for ids in self.branch_of)), tokens

    def ends(self, tree: Tree, sequences: Iterable[Sequence[int]]) -> list[int]:
        """Index of each sequence's last token in the packed tree."""
        ends = tree.ends()
        found = []
        for ids in map(tuple, sequences):
            whole = self.contained_in.get(ids, ids)
            in_prefix = len(ids) <= tree.shared_prefix
            end = int(ends[self.branch_of[whole]]) - (len(whole) - len(ids))
            found.append(len(ids) - 1 if in_prefix else end)
        return found


def tree_size(sequences: Sequence[Sequence[int]]) -> int:
    """Tokens of the tree of some sequences."""
    if len(sequences) == 2:  # most comparisons, in a third of the time
        one, other = map(tuple, sequences)
        return len(one) + len(other) - common_prefix(one, other)
    return PrefixTreeBuilder().with_sequences(sequences).size


def _prefixes(sequences: Sequence[tuple[int, ...]]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Sequences that are a prefix of another one -> the longest such."""
    found: dict[tuple[int, ...], tuple[int, ...]] = {}
    # When sorted, a sequence comes right before those that begin with it.
    for one, other in reversed(list(pairwise(sorted(sequences)))):
        if other[: len(one)] == one:
            found[one] = found.get(other, other)
    return found


@dataclass(frozen=True)
class Block:
    """Consecutive queries of a packed row and their keys.

    A block covers whole buckets: it may read over its last query and key, where `hidden` is true.

    Attributes:
        start: index of the first query in the row.
        queries: number of queries that count.
        width: number of queries, rounded up.
        keys: segments of the row, (start, length), in the order of their positions.
        hidden: (width, keys from `first`) true where a query must not attend to a key.
        first: all queries attend to the keys before this one.
    """

    start: int
    queries: int
    width: int
    keys: tuple[tuple[int, int], ...]
    hidden: np.ndarray
    first: int


def attention_blocks(trees: Sequence[Tree], window: int | None) -> Iterator[Block]:
    """The attention pattern of a packed row (`row_width` wide), in dense blocks.

    Prefix tokens attend to the prefix before them, branch tokens to the prefix and the branch
    before them; with a `window` only to keys less than that many positions back (sliding
    attention).
    """
    start = 0
    for tree in trees:
        prefix = tree.shared_prefix
        segment = start + prefix
        for begin in range(0, prefix, QUERIES):
            yield _block(start, 0, start, begin, min(QUERIES, prefix - begin), window)
        for length in tree.branches:
            for begin in range(0, length, QUERIES):
                count = min(QUERIES, length - begin)
                yield _block(start, prefix, segment, begin, count, window)
            segment += length
        start = segment


Stretch = tuple[slice, slice, bool]
"""Queries and keys of a packed row that attend to each other, and whether causally."""


def attention_stretches(trees: Sequence[Tree]) -> Iterator[Stretch]:
    """The attention pattern of a packed row without a window, without masks.

    Each segment attends causally to itself; after that, all branches of a tree to its prefix.
    """
    start = 0
    for tree in trees:
        ends = start + tree.shared_prefix + np.cumsum([0, *tree.branches])
        for begin, end in pairwise(map(int, (start, *ends))):
            if end > begin:
                yield slice(begin, end), slice(begin, end), True
        if tree.shared_prefix:
            yield slice(int(ends[0]), int(ends[-1])), slice(start, int(ends[0])), False
        start = int(ends[-1])


def visible_pairs(trees: Sequence[Tree], row: int, block: int, window: int | None) -> np.ndarray:
    """(B, B) number of visible pairs of query and key in each block of a packed row's mask.

    By the rule of `attention_blocks`: a query attends to two stretches of the row, one of the
    prefix and one of its own segment. Padding after the trees is one more sequence.
    """
    padding, reach = row - sum(tree.size for tree in trees), window or row
    start, stretches = 0, []
    for tree in [*trees, *([Tree(0, (padding,))] if padding else [])]:
        index, segment = start + np.arange(tree.size), tree.segments()
        first = start + np.cumsum([0, tree.shared_prefix, *tree.branches[:-1]])[segment]
        low = start + np.maximum(tree.positions() - reach + 1, 0)
        high = np.where(segment > 0, start + tree.shared_prefix, low)
        own = np.maximum(first, index - reach + 1)
        stretches.append(np.stack([low, high, own, index + 1]))
        start += tree.size
    edges = np.arange(0, row, block)
    low, high, own, end = np.concatenate(stretches, 1)[:, :, None]
    seen = np.clip(np.minimum(high, edges + block) - np.maximum(low, edges), 0, None)
    seen += np.clip(np.minimum(end, edges + block) - np.maximum(own, edges), 0, None)
    return np.add.reduceat(seen, edges, axis=0)


def _block(
    tree: int, prefix: int, segment: int, begin: int, queries: int, window: int | None
) -> Block:
    """`queries` queries from `begin` of the segment at `segment`, after `prefix` tokens."""
    start, end = segment + begin, begin + queries
    width = bucketed(queries)
    if segment == tree + prefix:  # prefix and segment are adjacent
        own = bucketed(prefix + end)
        keys: tuple[tuple[int, int], ...] = ((tree, own),)
        positions = np.arange(own)
    else:
        before, own = bucketed(prefix), bucketed(end)
        keys = ((tree, before), (segment, own)) if prefix else ((segment, own),)
        ahead = np.arange(before if prefix else 0)
        ahead[prefix:] = MASKED_POSITION
        positions = np.concatenate([ahead, prefix + np.arange(own)])
    at = prefix + begin + np.arange(width)
    hidden = positions[None] > at[:, None]
    if window is not None:
        hidden |= at[:, None] - positions[None] >= window
    hidden[queries:] = False  # rounding queries must attend to something, or the softmax is NaN
    columns = np.flatnonzero(hidden.any(0))
    first = int(columns[0]) if len(columns) else hidden.shape[1]
    return Block(start, queries, width, keys, hidden[:, first:], first)
