"""Best of K: how good is the response with the highest reward among K?

Functions of arrays over N responses: `rewards_N` (no NaN), `levels_N` (rank level in the
comparison, 0 the worst, -1 unranked) and `rows_N`, the comparison of each response.
"""

import numpy as np


def best_of_k(
    rewards_N: np.ndarray, levels_N: np.ndarray, rows_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probability that a response with the highest reward is one of the best responses.

    Ties are broken at random: with one best response this is RewardBench 2's 1 / (number of
    maxima).

    Returns:
        rows_R: comparisons whose responses are not all equally good, sorted.
        values_R: the probability for each of them.
        chances_R: the same for a random pick: the share of best responses.
    """
    inside = levels_N >= 0
    rewards, levels = rewards_N[inside].astype(np.float64), levels_N[inside]
    rows_R, member = np.unique(rows_N[inside], return_inverse=True)
    if not len(rows_R):
        return rows_R, np.zeros(0), np.zeros(0)
    top, best, worst = (
        _by_group(ufunc, values, member)
        for ufunc, values in ((np.maximum, rewards), (np.maximum, levels), (np.minimum, levels))
    )
    picked, good = rewards == top[member], levels == best[member]
    both, maxima, bests, sizes = (
        np.bincount(member, weights=flags, minlength=len(rows_R))
        for flags in (picked & good, picked, good, np.ones(len(member)))
    )
    differ = best > worst
    return rows_R[differ], (both / maxima)[differ], (bests / sizes)[differ]


def _by_group(ufunc: np.ufunc, values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Reduce the values of each group; groups are numbered from 0 and not empty."""
    order = np.argsort(member, kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    return ufunc.reduceat(values[order], starts)
