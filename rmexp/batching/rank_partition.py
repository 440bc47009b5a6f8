"""Which comparisons of a step each process of a run takes: as many tokens each as can be."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

SLACK = 1.1
"""A process may have so much of the fair share before comparisons of one prompt are parted."""


@dataclass(frozen=True)
class RankPartition:
    """The part of every step that one process of several takes.

    Args:
        rank: of the process, from 0.
        count: of processes.
        sizes: (rows of the data set,) distinct tokens of each comparison.
        shared: (same,) tokens that all responses to its prompt share.
        prompts: (same,) the prompt of each, as a number.
    """

    rank: int
    count: int
    sizes: np.ndarray
    shared: np.ndarray
    prompts: np.ndarray

    def of(self, rows: Sequence[int]) -> list[int]:
        """This process's rows of a step; the processes' parts make up the step."""
        return self.hands(rows)[self.rank]

    def hands(self, rows: Sequence[int]) -> list[list[int]]:
        """Each process's rows of a step."""
        at = np.asarray(rows)
        dealt = partition_rows(self.sizes[at], self.shared[at], self.prompts[at], self.count)
        return [[rows[place] for place in hand] for hand in dealt]


def partition_rows(
    sizes: np.ndarray, shared: np.ndarray, prompts: np.ndarray, count: int
) -> list[list[int]]:
    """Deal comparisons out to `count` processes by tokens: the largest first, to whom has least.

    Comparisons of a prompt stay together, as they share a tree, as long as nobody has more than
    `SLACK` fair shares; else the largest such group of the fullest hand is halved, and all is dealt
    anew. So the fullest hand has at most `SLACK` fair shares, or a fair share and the largest
    comparison. (Graham 1969, "Bounds on multiprocessing timing anomalies".)

    Args:
        sizes, shared, prompts: (C,) see `RankPartition`.

    Returns the places of each process, rising; a process has none where there are too few.
    """
    groups: dict[int, list[int]] = {}
    for place, prompt in enumerate(prompts.tolist()):
        groups.setdefault(prompt, []).append(place)
    units = list(groups.values())
    while True:
        costs = [cost(sizes[unit], shared[unit]) for unit in units]
        loads, hands = [0] * count, [[] for _ in range(count)]  # type: ignore[var-annotated]
        for n in sorted(range(len(units)), key=lambda n: -costs[n]):
            least = loads.index(min(loads))
            loads[least] += costs[n]
            hands[least].append(n)
        fullest = loads.index(max(loads))
        groups_there = [n for n in hands[fullest] if len(units[n]) > 1]
        if loads[fullest] <= SLACK * sum(costs) / count or not groups_there:
            return [sorted(place for n in hand for place in units[n]) for hand in hands]
        parted = units.pop(max(groups_there, key=lambda n: costs[n]))
        units += [parted[: len(parted) // 2], parted[len(parted) // 2 :]]


def cost(sizes: np.ndarray, shared: np.ndarray) -> int:
    """Distinct tokens of comparisons of one prompt in one tree, about."""
    return int((sizes - shared).sum() + shared.max())
