"""Best of n: how good is the response with the highest reward among n?

Functions of arrays over N responses: `rewards_N` (no NaN), `levels_N` (rank level in the
comparison, 0 the worst, -1 unranked) and `rows_N`, the comparison of each response.
"""

import numpy as np
import scipy


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


def best_of_n_curves(
    rewards_N: np.ndarray, values_N_C: np.ndarray, rows_N: np.ndarray, most: int
) -> np.ndarray:
    """Expected values of the highest-reward response among n random ones of each comparison.

    Exact: the mean over all subsets of n of a comparison's K responses. Responses with equal
    rewards share their mean values, as if ties were broken at random. Sorted by reward, response
    k = 1 .. K is the highest of n with probability C(k - 1, n - 1) / C(K, n) (Nakano et al. 2021,
    arXiv:2112.09332, appendix I).

    Args:
        values_N_C: (N, C) what is averaged, e.g. gold rewards and lengths.
        rows_N: (N,) the comparison of each response; each has `most` responses or more.
        most: the largest n.

    Returns:
        (P, most, C) for the comparisons in ascending order and n = 1 .. most.
    """
    order = np.lexsort((rewards_N, rows_N))
    rewards, rows, values = rewards_N[order], rows_N[order], values_N_C[order].astype(np.float64)
    _, sizes_P = np.unique(rows, return_counts=True)
    new = np.ones(len(rows), dtype=bool)
    new[1:] = (np.diff(rows) != 0) | (np.diff(rewards) != 0)
    tied, starts = np.cumsum(new) - 1, np.flatnonzero(new)
    values = (np.add.reduceat(values, starts) / np.bincount(tied)[:, None])[tied]
    curves = np.empty((len(sizes_P), most, values.shape[1]))
    for size in np.unique(sizes_P).tolist():
        here = sizes_P == size
        members = values[np.repeat(here, sizes_P)].reshape(-1, size, values.shape[1])
        curves[here] = np.einsum("nk,pkc->pnc", _highest_of_n(size, most), members)
    return curves


def _highest_of_n(size: int, most: int) -> np.ndarray:
    """(most, size) chance that each of `size` sorted responses is the highest of n."""
    n, below = np.arange(1, most + 1)[:, None], np.arange(size)[None]  # below: k - 1
    inside = below >= n - 1
    rest = np.where(inside, below - n + 1, 0)
    gammaln = scipy.special.gammaln
    logs = gammaln(below + 1) - gammaln(n) - gammaln(rest + 1)
    subsets = gammaln(size + 1) - gammaln(n + 1) - gammaln(size - n + 1)
    return np.where(inside, np.exp(logs - subsets), 0.0)


def best_of_n_kl(n: np.ndarray) -> np.ndarray:
    """KL divergence of the best of n from the policy: log n - (n - 1) / n, in nats.

    Exact without ties, else an upper bound (Beirami et al. 2024, arXiv:2401.01879).
    """
    return np.log(n) - (n - 1) / n


def overoptimisation_fit(gains: np.ndarray, distances_G: np.ndarray) -> np.ndarray:
    """Least-squares (a, b) of R(d) = d (a - b d), the law of best-of-n in Gao et al. 2022.

    Args:
        gains: (..., G) gain over the policy at each distance.
        distances_G: d = sqrt(KL) of each.

    Returns:
        (..., 2); NaN with fewer than two distances. Source: arXiv:2210.10760, equation 1.
    """
    if len(distances_G) < 2:
        return np.full((*gains.shape[:-1], 2), np.nan)
    basis = np.stack([distances_G, -np.square(distances_G)], axis=1)
    return gains @ np.linalg.pinv(basis).T


def _by_group(ufunc: np.ufunc, values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Reduce the values of each group; groups are numbered from 0 and not empty."""
    order = np.argsort(member, kind="stable")
    starts = np.flatnonzero(np.diff(member[order], prepend=-1))
    return ufunc.reduceat(values[order], starts)
