"""Calibration error of pair probabilities, computed from the gaps of strictly labelled pairs.

A pair's gap is r_better - r_worse; the model predicts P(better wins) = sigmoid(gap).
"""

from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.stats.bootstrap import Estimate, clustered, ratio

RELIABILITY_BINS = 10
"""Bins of equal mass; the usual number in the literature."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def negative_log_likelihoods(gaps_P: np.ndarray) -> np.ndarray:
    """-log P(better wins) of each pair."""
    return np.logaddexp(0, -gaps_P)


def brier_scores(gaps_P: np.ndarray) -> np.ndarray:
    """(1 - P(better wins))^2 of each pair."""
    return np.square(1 - sigmoid(gaps_P))


@dataclass(frozen=True)
class Reliability:
    """Bins of pairs by the model's confidence, P(the response that it prefers is better).

    confidence_B    mean confidence in each bin
    accuracy_B      share of pairs that the model ranks as people did; equal rewards count half
    counts_B        total weight of the pairs
    """

    confidence_B: np.ndarray
    accuracy_B: np.ndarray
    counts_B: np.ndarray

    @property
    def error(self) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over pairs."""
        apart_B = np.abs(self.confidence_B - self.accuracy_B)
        return float(apart_B @ self.counts_B / self.counts_B.sum())


def reliability(
    gaps_P: np.ndarray, bins: int = RELIABILITY_BINS, weights_P: np.ndarray | None = None
) -> Reliability:
    """Bin pairs by confidence sigmoid(|gap|), into bins of equal mass.

    Expected calibration error: Naeini, Cooper and Hauskrecht 2015; bins of equal mass: Nixon et al.
    2019, arXiv:1904.01685. Pairs of equal confidence share a bin, that of the middle of their mass:
    the order of the rows does not matter.

    Args:
        gaps_P: (P,) gaps.
        bins: number of bins; empty ones are left out.
        weights_P: (P,) weight of each pair; None: all 1.
    """
    weights_P = np.ones(len(gaps_P)) if weights_P is None else weights_P
    member = quantile_bins(np.abs(gaps_P), bins, weights_P)
    counts_B = np.bincount(member, weights_P)
    kept = counts_B > 0
    confidence_B, accuracy_B = (
        np.bincount(member, weights_P * x)[kept] / counts_B[kept]
        for x in (sigmoid(np.abs(gaps_P)), (np.sign(gaps_P) + 1) / 2)
    )
    return Reliability(confidence_B, accuracy_B, counts_B[kept])


def quantile_bins(values: np.ndarray, bins: int, weights: np.ndarray) -> np.ndarray:
    """Bin of each value, by the middle of the mass that equal values share; some may be empty."""
    _, member = np.unique(values, return_inverse=True)
    mass = np.bincount(member, weights)
    middle = (np.cumsum(mass) - mass / 2) / mass.sum()
    return np.minimum(np.floor(bins * middle).astype(np.int64), bins - 1)[member]


def calibration_error(gaps_P: np.ndarray, prompts_P: np.ndarray, weights_P: np.ndarray) -> Estimate:
    """The expected calibration error with its interval; see `reliability`.

    Resampled errors are larger than the error, which is larger than the true one. The interval is
    the error plus and minus the 97.5% quantile of how far the bins of a resample are from these,
    summed: by the triangle inequality its coverage is at least 95%, also of an error of 0.

    Args:
        gaps_P: (P,) gaps.
        prompts_P: (P,) the prompt of each pair.
        weights_P: (P,) weight of each pair.
    """
    here = weights_P > 0
    gaps_P, prompts_P, weights_P = gaps_P[here], prompts_P[here], weights_P[here]
    bin_P = quantile_bins(np.abs(gaps_P), RELIABILITY_BINS, weights_P)
    columns = np.zeros((len(gaps_P), RELIABILITY_BINS + 1))
    apart_P = sigmoid(np.abs(gaps_P)) - (np.sign(gaps_P) + 1) / 2
    columns[np.arange(len(gaps_P)), bin_P] = weights_P * apart_P
    columns[:, -1] = weights_P
    apart_B = columns[:, :-1].sum(0) / weights_P.sum()
    value = float(np.abs(apart_B).sum())

    def moved(sums: np.ndarray) -> np.ndarray:
        return np.abs(ratio(sums[..., :-1], sums[..., -1:]) - apart_B).sum(-1)

    def interval() -> tuple[float, float]:
        half = clustered(columns, prompts_P, moved).high
        low, high = np.clip([value - half, value + half], 0, 1).tolist()
        return low, high

    return Estimate(value, interval)


def pair_scores(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> dict[str, float]:
    """nll, brier and ece of pairs; not all weights may be 0."""
    return {
        "nll": float(np.average(negative_log_likelihoods(gaps_P), weights=weights_P)),
        "brier": float(np.average(brier_scores(gaps_P), weights=weights_P)),
        "ece": reliability(gaps_P, weights_P=weights_P).error,
    }
