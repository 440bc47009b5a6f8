"""Is one reward model better than another? Paired tests on the same items, clustered by prompt.

A test's null: the two are exchangeable on each prompt, so that the sum of their differences on it
is as likely with the one sign as with the other.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import bdtr, ndtri

from rmexp.evaluation.stats.bootstrap import clustered_mean, clustered_variance

N_PERMUTATIONS = 9_999
"""Sign flips drawn where there are too many to enumerate: p is a multiple of 1/10,000."""


STOP_AFTER = 500
"""Draws as far from 0 as the data, after which no more are needed: p is above 5% then, or known to
a twentieth of itself."""


MAX_ENUMERATED = 14
"""Up to so many prompts every pattern of signs is counted: 2^13 of them, by symmetry."""


MIN_CLUSTERS = 6
"""Of fewer prompts all 2^n patterns of signs have a p above 5%."""


ALPHA, POWER = 0.05, 0.80
"""Two-sided level of a verdict; power of the sample sizes that are named."""


@dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B on the same items, and how sure that is.

    value low high     the difference and its 95% interval
    p                  two-sided, of the one test; `holm` corrects several
    method             the test, in words
    items prompts      how many there were
    variance           of `value`, from the choice of prompts: more of them make it smaller
    seeds_variance     of `value`, from that of seeds, whatever the prompts; 0 for checkpoints
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
    """Compare two checkpoints (or means of some) on the items that both were judged on.

    Args:
        a, b: (P,) a number an item, e.g. 1.0 where the better response won.
        prompts: (P,) the prompt of each item.
        weights: (P,) of each item, above 0; None: all 1.
        draws: sign flips to draw, see `sign_flip`.
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
    """The two-sided p of mean(differences) = 0 when each prompt's sum may change its sign.

    Every pattern of signs is counted where few prompts differ at all; else (b + 1) / (n + 1) of n
    drawn ones (Phipson and Smyth 2010, "Permutation P-values should never be zero"), or b / n at
    the draw that makes b `STOP_AFTER` (Besag and Clifford 1991, "Sequential Monte Carlo p-values").
    That clusters change sign as wholes: Canay, Romano and Shaikh 2017, "Randomization tests under
    an approximate symmetry assumption", Econometrica 85.

    Args:
        differences: (P,) A minus B, an item each, times its weight.
        prompts: (P,) the prompt of each.
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


def _flipped(patterns: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """(D,) the total when the sums that a pattern (D, G) marks keep their sign, the others not."""
    return 2 * (patterns.astype(np.float64) @ sums) - sums.sum()


def mcnemar_midp(wins: int, losses: int) -> float:
    """McNemar's mid-p: twice the binomial tail of the rarer outcome, its own point counted half.

    Fagerland, Lydersen and Laake 2013, "The McNemar test for binary matched-pairs data: mid-p and
    asymptotic are better than exact conditional", BMC Medical Research Methodology 13:91. Only for
    independent items: on prompts with many pairs it is far too sure.

    Args:
        wins: items that A got right and B did not; `losses` the other way round.
    """
    n, fewer = wins + losses, min(wins, losses)
    below = float(bdtr(fewer - 1, n, 0.5)) if fewer else 0.0
    return float(bdtr(fewer, n, 0.5)) + below  # the tails with and without the point


def holm_correction(p_values: Sequence[float], family: int | None = None) -> list[float]:
    """Holm's step-down correction, in the order given (Holm 1979).

    Args:
        p_values: of the comparisons that are shown.
        family: of how many comparisons they are the ones that somebody picked, where the picking
            looked at the results: the others count as if they came after (which is on the safe
            side). None: these are all.
    """
    total = len(p_values) if family is None else family
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(np.argsort(p_values, kind="stable")):
        largest = max(largest, min(1.0, (total - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def needed_items(difference: Difference, effect: float = 0.01) -> tuple[int | None, float]:
    """How much data would show a difference of `effect` (two-sided 5%, power 80%).

    Prompts are taken to be as large as these and to differ as much.

    Returns:
        The items, and by what factor there would have to be more seeds as well (1: these do).
        None where no item told the two apart, so that nothing can be said.
    """
    bearable = (effect / float(ndtri(1 - ALPHA / 2) + ndtri(POWER))) ** 2
    if not difference.variance > 0:
        return None, 1.0
    left = bearable - difference.seeds_variance
    more = 1.0
    if left <= 0:  # no number of items would do with so few seeds: half for each
        left, more = bearable / 2, 2 * difference.seeds_variance / bearable
    return math.ceil(difference.items * difference.variance / left), more
