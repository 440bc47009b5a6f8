"""Which of many token sequences share a tree: the partition that computes the fewest tokens."""

import itertools
from collections.abc import Sequence

Tokens = tuple[int, ...]


def prefix_groups(sequences: Sequence[Tokens]) -> list[list[int]]:
    """Indices of the sequences, grouped so that trees of one shared prefix save most tokens.

    Sorted sequences that share a prefix are neighbours, and one that begins another costs nothing
    in its tree. A run of k neighbours whose shortest common prefix is m saves m * (k - 1) tokens as
    one tree, or what its parts save if it is split where the common prefix is m. What then shares
    nothing forms one group, for the few tokens with which every text of a template begins.

    Args:
        sequences: non-empty.

    Returns:
        Groups of indices, each in ascending order, by their lowest index.
    """
    beginnings: dict[int, list[int]] = {}  # by the sequence that begins with them
    order = list[int]()
    for index in sorted(range(len(sequences)), key=sequences.__getitem__, reverse=True):
        ids = sequences[index]
        if order and sequences[order[-1]][: len(ids)] == ids:
            beginnings.setdefault(order[-1], []).append(index)
        else:
            order.append(index)
    if not order:
        return []
    common = [common_prefix(sequences[a], sequences[b]) for a, b in itertools.pairwise(order)]
    groups = [order[slice(*run)] for run in _best_runs(common, 0, len(order))[1]]
    alone = [group[0] for group in groups if len(group) == 1]
    groups = [group for group in groups if len(group) > 1]
    # Between the first and the last of sorted sequences all share what these two share.
    if alone and common_prefix(sequences[alone[0]], sequences[alone[-1]]):
        groups.append(alone)
    else:
        groups += [[index] for index in alone]
    for group in groups:
        group += [index for whole in group for index in beginnings.get(whole, ())]
    return sorted(map(sorted, groups))


def common_prefix(one: Tokens, other: Tokens) -> int:
    """Length of the longest prefix that two sequences share."""
    low, high = 0, min(len(one), len(other))
    while low < high:  # comparing slices takes less time than a loop over tokens
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _best_runs(common: Sequence[int], start: int, stop: int) -> tuple[int, list[tuple[int, int]]]:
    """Tokens saved by the best split of the sorted sequences from `start` to `stop`, and its runs.

    Args:
        common: entry k is the common prefix of the sorted sequences k and k + 1.
    """
    if stop - start == 1:
        return 0, [(start, stop)]
    shortest = min(common[start : stop - 1])
    whole = shortest * (stop - start - 1)
    edges = [start, *(k + 1 for k in range(start, stop - 1) if common[k] == shortest), stop]
    parts = [_best_runs(common, *edge) for edge in itertools.pairwise(edges)]
    split = sum(saved for saved, _ in parts)
    if split >= whole:
        return split, [run for _, runs in parts for run in runs]
    return whole, [(start, stop)]
