"""Token trees: what the responses of a comparison share is laid out, and computed, once.

A tree is a trunk, the longest token prefix that all its sequences share, and one branch a response.
Packed into a row it reads `trunk branch_0 branch_1 ...`; every branch goes on at position P, the
trunk's length, and sees the trunk and itself. Causal models give each token the same hidden state
there as in a sequence of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


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
        """(K,) packed index of each branch's last token, where its reward is read."""
        return self.trunk + np.cumsum(self.branches) - 1


def grow(sequences: Sequence[Sequence[int]]) -> tuple[Tree, list[int]]:
    """The tree of some token sequences (each non-empty) and its packed tokens.

    Every branch keeps at least its last token, so that every response has a place of its own to be
    read at; a lone sequence is one branch without a trunk.
    """
    shortest = min(map(len, sequences)) - 1
    shared = 0
    if len(sequences) > 1:
        first = sequences[0]
        while shared < shortest and all(s[shared] == first[shared] for s in sequences):
            shared += 1
    packed = list(sequences[0][:shared])
    for sequence in sequences:
        packed += sequence[shared:]
    return Tree(shared, tuple(len(s) - shared for s in sequences)), packed
