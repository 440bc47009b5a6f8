"""Paired tests of two reward models on the same items, clustered by prompt.

Null hypothesis: the two models are exchangeable on each prompt, so that the sum of their
differences on it is symmetric about 0.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy

from rmexp.evaluation.stats.bootstrap import clustered_mean, clustered_variance

N_PERMUTATIONS = 9_999
"""Sign flips drawn where there are too many to enumerate; p is a multiple of 1/10,000."""

STOP_AFTER = 500
"""Exceedances after which drawing stops: p is then above 5%, or known to within 5% of itself."""

MAX_ENUMERATED = 14
"""Up to this many prompts all patterns of signs are enumerated: 2^13, by symmetry."""

MIN_CLUSTERS = 6
"""With fewer prompts no pattern of signs has a p of 5% or less."""

ALPHA, POWER = 0.05, 0.80
"""Two-sided level of the tests; power assumed by sample sizes."""


@dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B on the same items, with its uncertainty.

    value low high     the difference and its 95% interval
    p                  two-sided, before correction for multiple tests (see `holm_correction`)
    method             name of the test
    items prompts      their numbers
    variance           of `value`, due to the sample of prompts
    seeds_variance     of `value`, due to the sample of seeds; 0 for checkpoints
    """

    value: float
    low: float
    high: float
    p: float
    method: str
    items: int
    prompts: int
    variance: float
    seeds_variance: float = 0.0


def paired_difference(
    a: np.ndarray,
    b: np.ndarray,
    prompts: np.ndarray,
    weights: np.ndarray | None = None,
    draws: int = N_PERMUTATIONS,
) -> Difference:
    """Test two checkpoints (or means of checkpoints) on the items that both were evaluated on.

    Args:
        a, b: (P,) value of each item, e.g. 1.0 where the better response won.
        prompts: (P,) the prompt of each item.
        weights: (P,) weight of each item, above 0; None: all 1.
        draws: number of sign flips, see `sign_flip`.
    """
    d = a.astype(np.float64) - b
    weights = np.ones(len(d)) if weights is None else weights
    count, alike = len(np.unique(prompts)), len(weights) and np.ptp(weights) == 0
    value, low, high = clustered_mean(d, prompts, weights)
    if count == len(d) and alike and np.isin(d, (-1.0, 0.0, 1.0)).all():
        p, method = mcnemar_midp(int((d > 0).sum()), int((d < 0).sum())), "mid-p McNemar"
    else:
        p, method = sign_flip(d * weights, prompts, draws), "sign flips of prompts"
    variance = clustered_variance(d, prompts, weights)
    return Difference(value, low, high, p, method, len(d), count, variance)


def sign_flip(
    differences: np.ndarray, prompts: np.ndarray, draws: int = N_PERMUTATIONS, seed: int = 0
) -> float:
    """Two-sided p of mean(differences) = 0, flipping the sign of each prompt's sum.

    With few prompts all patterns of signs are enumerated. Otherwise n are drawn and p is
    (b + 1) / (n + 1) (Phipson and Smyth 2010, "Permutation P-values should never be zero"), or b/n
    as soon as b reaches `STOP_AFTER` (Besag and Clifford 1991, "Sequential Monte Carlo p-values").
    Signs of whole clusters: Canay, Romano and Shaikh 2017, "Randomization tests under an
    approximate symmetry assumption", Econometrica 85.

    Args:
        differences: (P,) A minus B of each item, times its weight.
        prompts: (P,) the prompt of each item.
        draws: number of sign flips.
        seed: of the drawn flips.
    """
    _, member = np.unique(prompts, return_inverse=True)
    sums = np.bincount(member, weights=differences)
    slack = 1e-9 * np.abs(sums).sum()  # sums in another order differ in their last bits
    sums = sums[np.abs(sums) > slack]
    if not len(sums):
        return 1.0
    observed = abs(sums.sum()) - slack
    if len(sums) <= MAX_ENUMERATED:
        patterns = np.arange(2 ** (len(sums) - 1))[:, None] >> np.arange(len(sums)) & 1
        return float((np.abs(_flipped(patterns, sums)) >= observed).mean())
    rng = np.random.default_rng(seed)
    beyond = 0  # draws that are at least as far from 0
    for start in range(0, draws, 1000):
        rows = min(1000, draws - start)
        drawn = rng.integers(256, size=(rows, -(-len(sums) // 8)), dtype=np.uint8)
        bits = np.unpackbits(drawn, axis=1, count=len(sums))
        (found,) = np.nonzero(np.abs(_flipped(bits, sums)) >= observed)
        if beyond + len(found) >= STOP_AFTER:
            return STOP_AFTER / (start + int(found[STOP_AFTER - beyond - 1]) + 1)
        beyond += len(found)
    return (beyond + 1) / (draws + 1)


def sign_flip_floor(prompts: int) -> float:
    """The smallest two-sided p of sign flips: all prompts have the same sign."""
    return min(1.0, 2.0 ** (1 - prompts))


def _flipped(patterns: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(D,) totals of the sums, flipping the sign of those that a pattern (D, G) does not mark."""
    return 2 * (patterns.astype(np.float64) @ sums) - sums.sum()


def mcnemar_midp(wins: int, losses: int) -> float:
    """McNemar's mid-p: the two-sided binomial tail, with the observed point counted half.

    Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional", BMC Medical Research Methodology 13:91. Valid for
    independent items only, not for prompts with many pairs.

    Args:
        wins: items that A got right and B did not.
        losses: the reverse.
    """
    n, fewer = wins + losses, min(wins, losses)
    below = float(scipy.special.bdtr(fewer - 1, n, 0.5)) if fewer else 0.0
    return float(scipy.special.bdtr(fewer, n, 0.5)) + below  # the tails with and without the point


def holm_correction(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's step-down correction (Holm 1979), in the order given.

    Args:
        p_values: of the tests shown.
        family: size of the family that these tests were selected from by their results; the others
            count as having larger p-values, which is conservative. None: these are all.
    """
    total = len(p_values) if family is None else family
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (total - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def needed_items(difference: Difference, effect: float = 0.01) -> tuple[int | None, float]:
    """Sample size that would detect a difference of `effect` (two-sided 5%, power 80%).

    Assumes prompts of the same size and variance as these.

    Returns:
        The number of items, None where no item differs; and the factor by which seeds would have to
        increase as well (1: enough seeds).
    """
    target = (effect / float(scipy.special.ndtri(1 - ALPHA / 2) + scipy.special.ndtri(POWER))) ** 2
    if not difference.variance > 0:
        return None, 1.0
    remaining = target - difference.seeds_variance
    more = 1.0
    if remaining <= 0:  # no number of items suffices with these seeds: split in half
        remaining, more = target / 2, 2 * difference.seeds_variance / target
    return math.ceil(difference.items * difference.variance / remaining), more
