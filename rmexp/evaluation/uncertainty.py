"""Whether the disagreement of an ensemble's members tells where the reward model is wrong.

The uncertainty of a pair is the standard deviation of its gap r_better - r_worse over the members.
A member's level cancels in a gap, and preferences leave it open.
"""

from collections.abc import Mapping

import numpy as np

from rmexp.evaluation.rank_correlation import area
from rmexp.evaluation.stats.bootstrap import Estimate

UNCERTAINTY = "uncertainty"
"""Metric: the mean uncertainty of pairs."""


def error_area(
    doubts_P: np.ndarray, wrong_P: np.ndarray, prompts_P: np.ndarray, weights_P: np.ndarray
) -> Estimate | None:
    """P(a wrong pair is more doubtful than a right one), ties half; None without one of them.

    Source: Hendrycks and Gimpel 2017, "A baseline for detecting misclassified and
    out-of-distribution examples", arXiv:1610.02136.
    """
    sides = [(doubts_P[which], prompts_P[which], weights_P[which]) for which in (wrong_P, ~wrong_P)]
    return area(*sides) if all(weights.any() for _, _, weights in sides) else None


def most_certain(doubts_P: np.ndarray, weights_P: np.ndarray, share: float) -> np.ndarray:
    """(P,) which pairs are kept if the least doubtful `share` of the weight is.

    Pairs of equal doubt are kept or left out together; those at the limit are kept.
    """
    order = np.argsort(doubts_P, kind="stable")
    mass = np.cumsum(weights_P[order])
    limit = doubts_P[order][np.searchsorted(mass, share * mass[-1] * (1 - 1e-9))]
    return doubts_P <= limit


def risk_curve(
    doubts_P: np.ndarray, right_P: np.ndarray, weights_P: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Share of the weight that is kept, from the least doubtful pair on, and the accuracy there."""
    order = np.argsort(doubts_P, kind="stable")
    kept = np.cumsum(weights_P[order])
    return kept / kept[-1], np.cumsum((weights_P * right_P)[order]) / np.maximum(kept, 1e-12)


def uncertainty_ratio(
    name: str, metrics: Mapping[str, float], trained: Mapping[str, float]
) -> dict[str, float]:
    """The mean uncertainty of a set relative to that of the test rows of the model's own run.

    Above 1 it rises off the training distribution. Empty where either is not known.

    Args:
        metrics: of the set `name`.
        trained: of the run.
    """
    here, there = metrics.get(f"{name}/{UNCERTAINTY}"), trained.get(f"test/{UNCERTAINTY}")
    return {f"{name}/uncertainty_ratio": here / there} if here is not None and there else {}
