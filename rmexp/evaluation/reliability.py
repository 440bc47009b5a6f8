"""Calibration error of pair probabilities, computed from the gaps of strictly labelled pairs.

A pair's gap is r_better - r_worse; the model predicts P(better wins) = sigmoid(gap).
"""

from dataclasses import dataclass

import numpy as np

RELIABILITY_BINS = 10
"""Bins of equal mass; the usual number in the literature."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def negative_log_likelihood(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> float:
    """Mean of -log P(better wins)."""
    return float(np.average(np.logaddexp(0, -gaps_P), weights=weights_P))


def brier(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> float:
    """Mean of (1 - P(better wins))^2."""
    return float(np.average(np.square(1 - sigmoid(gaps_P)), weights=weights_P))


@dataclass(frozen=True)
class Reliability:
    """Bins of pairs by the model's confidence, P(the response that it prefers is better).

    confidence_B    mean confidence in each bin
    accuracy_B      share of pairs that the model ranks as people did
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
    2019, arXiv:1904.01685. A pair belongs to the bin of the middle of its mass.

    Args:
        gaps_P: (P,) gaps.
        bins: number of bins; empty ones are left out.
        weights_P: (P,) weight of each pair; None: all 1.
    """
    weights_P = np.ones(len(gaps_P)) if weights_P is None else weights_P
    order = np.argsort(np.abs(gaps_P), kind="stable")
    order = order[weights_P[order] > 0]
    gaps, weights = gaps_P[order], weights_P[order]
    middle = (np.cumsum(weights) - weights / 2) / weights.sum()
    _, member = np.unique(np.floor(bins * middle).astype(np.int64), return_inverse=True)
    counts_B = np.bincount(member, weights)
    return Reliability(
        confidence_B=np.bincount(member, weights * sigmoid(np.abs(gaps))) / counts_B,
        accuracy_B=np.bincount(member, weights * (gaps > 0)) / counts_B,
        counts_B=counts_B,
    )


def pair_scores(gaps_P: np.ndarray, weights_P: np.ndarray | None = None) -> dict[str, float]:
    """nll, brier and ece of pairs; not all weights may be 0."""
    return {
        "nll": negative_log_likelihood(gaps_P, weights_P),
        "brier": brier(gaps_P, weights_P),
        "ece": reliability(gaps_P, weights_P=weights_P).error,
    }
