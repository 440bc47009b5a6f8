"""The rows of each step that one process of several takes, balanced by tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLACK = 1.1
"""A process may have this many fair shares before comparisons of one prompt are split."""


@dataclass(frozen=True)
class RankPartition:
    """The part of every step that process `rank` of `count` takes.

    Args:
        sizes: (rows of the data set,) distinct tokens of each comparison.
        shared: (same,) tokens that all responses to its prompt share.
        prompts: (same,) its prompt, as a number.
    """

    rank: int
    count: int
    sizes: np.ndarray
    shared: np.ndarray
    prompts: np.ndarray

    def of(self, rows: Sequence[int]) -> list[int]:
        """This process's rows of a step; together the processes have all of them."""
        return self.by_rank(rows)[self.rank]

    def by_rank(self, rows: Sequence[int]) -> list[list[int]]:
        """Each process's rows of a step."""
        at = np.asarray(rows)
        parts = partition_rows(self.sizes[at], self.shared[at], self.prompts[at], self.count)
        return [[rows[index] for index in part] for part in parts]


def partition_rows(
    sizes: np.ndarray, shared: np.ndarray, prompts: np.ndarray, count: int
) -> list[list[int]]:
    """Assign comparisons to `count` processes: the largest first, to the process with least tokens.

    Comparisons of a prompt stay together, as they share a tree, while no process has more than
    `SLACK` fair shares; else the largest such group of the fullest process is halved and the
    assignment restarts. So the fullest process has at most `SLACK` fair shares, or a fair share and
    the largest comparison. (Graham 1969, "Bounds on multiprocessing timing anomalies".)

    Args:
        sizes, shared, prompts: (C,) see `RankPartition`.

    Returns:
        Increasing indices for each process; none for some where there are too few comparisons.
    """
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts.tolist()):
        groups.setdefault(prompt, []).append(index)
    units = list(groups.values())
    while True:
        costs = [tree_tokens(sizes[unit], shared[unit]) for unit in units]
        loads = [0] * count
        assigned: list[list[int]] = [[] for _ in range(count)]
        for n in sorted(range(len(units)), key=lambda n: -costs[n]):
            least = loads.index(min(loads))
            loads[least] += costs[n]
            assigned[least].append(n)
        fullest = loads.index(max(loads))
        divisible = [n for n in assigned[fullest] if len(units[n]) > 1]
        if loads[fullest] <= SLACK * sum(costs) / count or not divisible:
            return [sorted(index for n in part for index in units[n]) for part in assigned]
        largest = units.pop(max(divisible, key=lambda n: costs[n]))
        units += [largest[: len(largest) // 2], largest[len(largest) // 2 :]]


def tree_tokens(sizes: np.ndarray, shared: np.ndarray) -> int:
    """Approximate distinct tokens of comparisons of one prompt in one tree."""
    return int((sizes - shared).sum() + shared.max())
