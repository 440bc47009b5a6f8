"""Are a reward model's probabilities what they say? Plain functions of the gaps of judged pairs.

A pair's gap is r_better - r_worse; the model says P(better wins) = sigmoid(gap).
"""

from dataclasses import dataclass

import numpy as np

BINS = 10
"""Bins of equal mass, as most papers have."""


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow."""
    return np.exp(-np.logaddexp(0, -x))


def negative_log_likelihood(gaps_P: np.ndarray) -> float:
    """Mean of -log P(better wins)."""
    return float(np.logaddexp(0, -gaps_P).mean())


def brier(gaps_P: np.ndarray) -> float:
    """Mean of (1 - P(better wins))^2."""
    return float(np.square(1 - sigmoid(gaps_P)).mean())


@dataclass(frozen=True)
class Reliability:
    """Bins of pairs by how sure the model was: P(the response that it prefers is the better one).

    confidence_B    its mean in the bin
    accuracy_B      how often it was
    counts_B        pairs in the bin
    """

    confidence_B: np.ndarray
    accuracy_B: np.ndarray
    counts_B: np.ndarray

    @property
    def error(self) -> float:
        """|confidence - accuracy|, averaged over pairs."""
        apart_B = np.abs(self.confidence_B - self.accuracy_B)
        return float(apart_B @ self.counts_B / self.counts_B.sum())


def reliability(gaps_P: np.ndarray, bins: int = BINS) -> Reliability:
    """Bins of equal mass over confidence sigmoid(|gap|).

    Naeini, Cooper and Hauskrecht 2015; equal mass after Nixon et al. 2019, arXiv:1904.01685.
    """
    order = np.argsort(np.abs(gaps_P), kind="stable")
    confidence, right = sigmoid(np.abs(gaps_P[order])), (gaps_P[order] > 0).astype(np.float64)
    parts = [part for part in np.array_split(np.arange(len(order)), bins) if len(part)]
    return Reliability(
        confidence_B=np.array([confidence[part].mean() for part in parts]),
        accuracy_B=np.array([right[part].mean() for part in parts]),
        counts_B=np.array([len(part) for part in parts]),
    )


def expected_calibration_error(gaps_P: np.ndarray, bins: int = BINS) -> float:
    """See `Reliability.error`."""
    return reliability(gaps_P, bins).error


def pair_scores(gaps_P: np.ndarray) -> dict[str, float]:
    """nll, brier and ece of some pairs."""
    return {
        "nll": negative_log_likelihood(gaps_P),
        "brier": brier(gaps_P),
        "ece": expected_calibration_error(gaps_P),
    }
