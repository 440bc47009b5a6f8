"""Accuracy as it would be between equally long responses."""

import numpy as np

from rmexp.evaluation.reliability import quantile_bins, sigmoid
from rmexp.evaluation.stats.bootstrap import Estimate, clustered, ratio

BINS, PAIRS_PER_BIN = 10, 20
"""Bins of equal mass by |length difference|; fewer where they would have fewer pairs."""

PENALTY = 1e-3
"""Weight of slope^2 / 2 beside the mean log-likelihood: keeps the slope finite."""

STEPS, LONGEST_STEP = 25, 4.0
"""Newton steps of the regression, which converges in under ten, and their greatest length."""


def length_controlled_accuracy(
    gaps_P: np.ndarray,
    longer_P: np.ndarray,
    prompts_P: np.ndarray,
    weights_P: np.ndarray | None = None,
) -> Estimate:
    """Estimate the accuracy if better and worse responses were equally long.

    P(right) = sigmoid(a + b tanh(longer / spread)) is fitted over pairs of different rewards, with
    the root mean square of `longer` as spread, and evaluated at `longer` = 0. This is the length
    term of length-controlled win rates (Dubois et al. 2024, arXiv:2404.04475), for "ranks as people
    did" instead of "wins". Equal rewards are not right, as in the accuracy: sigmoid(a) is
    multiplied by the share of other pairs. Without an effect of length the result is the accuracy.

    Pairs are binned by |longer|. In each bin, pairs with a longer better response get the same
    total weight as those with a shorter one (the overlap weights of Li, Morgan and Zaslavsky 2018,
    which fade where a kind is rare), and all pairs the mean of |tanh|. So a model that always takes
    the longer response has 1/2 (of the pairs that it decides), however P(better is longer) depends
    on the difference. NaN where no bin has both kinds.

    Args:
        gaps_P: r_better - r_worse of each pair.
        longer_P: length of the better response minus that of the worse one.
        prompts_P: the prompt of each pair.
        weights_P: weight of each pair; None: all 1.
    """
    weights_P = np.ones(len(gaps_P)) if weights_P is None else weights_P
    here = weights_P > 0
    gaps_P, longer_P, prompts_P, weights_P = (
        x[here] for x in (gaps_P, longer_P.astype(np.float64), prompts_P, weights_P)
    )
    spread = np.sqrt(np.average(np.square(longer_P), weights=weights_P)) or 1.0
    differ = longer_P != 0
    count = max(1, min(BINS, int(differ.sum()) // PAIRS_PER_BIN))
    bin_P = np.full(len(longer_P), count)  # the last one: equally long
    if differ.any():
        bin_P[differ] = quantile_bins(np.abs(longer_P[differ]), count, weights_P[differ])
    effects_P = weights_P * np.tanh(np.abs(longer_P) / spread)
    effects_B = ratio(*(np.bincount(bin_P, x, count + 1) for x in (effects_P, weights_P)))
    cells_P_K = np.zeros((len(gaps_P), 2 * (count + 1)))
    cells_P_K[np.arange(len(gaps_P)), 2 * bin_P + (longer_P > 0)] = weights_P
    decided_P_K, right_P_K = (cells_P_K * side[:, None] for side in (gaps_P != 0, gaps_P > 0))
    return clustered(
        np.column_stack([decided_P_K, right_P_K, weights_P]),
        prompts_P,
        lambda sums: _at_equal_length(sums, np.nan_to_num(effects_B)),
        span=(0, 1),
    )


def _at_equal_length(sums: np.ndarray, effects_B: np.ndarray) -> np.ndarray:
    """The accuracy, from sums (..., 4B + 1) of decided, right and all pairs by bin and sign."""
    decided, right = np.split(sums[..., :-1], 2, axis=-1)
    by_sign = decided.reshape(*decided.shape[:-1], len(effects_B), 2)
    weights = np.nan_to_num(ratio(by_sign.prod(-1), by_sign.sum(-1)))
    weights[..., -1] = by_sign[..., -1, 0] / 4  # equally long: as if half of them were longer
    x = np.outer(effects_B, [-1.0, 1.0]).ravel()
    rates = np.where(decided > 0, ratio(right, decided), 0.0)
    rates[..., -1] = rates[..., -2]
    at_zero = sigmoid(_intercept(rates, x, np.repeat(weights, 2, axis=-1)))
    at_zero = np.where((right == decided).all(-1), 1.0, at_zero)
    share = decided.sum(-1) / sums[..., -1]
    return np.where((weights.sum(-1) > 0) | (share == 0), share * at_zero, np.nan)


def _intercept(rates: np.ndarray, x_K: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(...) intercepts of logistic regressions of (..., K) rates on x, by Newton's method."""
    weights = np.nan_to_num(ratio(weights, weights.sum(-1, keepdims=True)))
    a, b = np.zeros((2, *rates.shape[:-1]))
    for _ in range(STEPS):
        chance = sigmoid(a[..., None] + b[..., None] * x_K)
        error, bend = weights * (rates - chance), weights * chance * (1 - chance)
        up_a, up_b = error.sum(-1), (error * x_K).sum(-1) - PENALTY * b
        aa = bend.sum(-1) + 1e-12
        ab, bb = (bend * x_K).sum(-1), (bend * x_K * x_K).sum(-1) + PENALTY
        whole = aa * bb - ab**2
        step_a, step_b = (bb * up_a - ab * up_b) / whole, (aa * up_b - ab * up_a) / whole
        longest = np.maximum(np.abs(step_a), np.abs(step_b))
        scale = np.minimum(1, LONGEST_STEP / np.maximum(longest, 1e-12))
        a, b = a + scale * step_a, b + scale * step_b
        if longest.max() < 1e-9:
            break
    return a
