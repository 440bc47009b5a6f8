"""Seeds as replicates: what holds of a setting, and not only of the checkpoints that came of it.

Seeds within a setting and prompts that all share are two sources of chance at once. That is the
multi-reader multi-case problem of radiology, with seeds as readers, prompts as cases, and each
reader using one modality: Obuchowski and Rockette 1995, "Hypothesis testing of diagnostic accuracy
for multiple readers and multiple tests", with degrees of freedom as by Hillis 2014, "A
marginal-mean ANOVA approach for analyzing multireader multicase radiological imaging data".

Each setting's variance between seeds is its own (Welch). A variance that all settings share would
show twice as much with two or three seeds, but takes chance for a difference in 20 of 100 cases
where the one setting is unstable and the others are not: in sweeps that happens.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import stdtr, stdtrit

from rmexp.evaluation.stats.bootstrap import clustered_variance
from rmexp.evaluation.stats.significance import ALPHA, Difference


def contrast(
    settings: Sequence[np.ndarray],
    coefficients: Sequence[float],
    prompts: np.ndarray,
    weights: np.ndarray | None = None,
) -> Difference:
    """A weighted sum of settings' means, over seeds and prompts both.

    With coefficients 1, -1 it is the difference of two settings; with 1 a setting's own mean.

    Args:
        settings: for each, (S, P) a number a seed and item; two seeds or more.
        coefficients: one a setting.
        prompts: (P,) the prompt of each item.
        weights: (P,) of each item, above 0; None: all 1.
    """
    weights = np.ones(len(prompts)) if weights is None else weights
    shares = [c**2 / len(x) for c, x in zip(coefficients, settings, strict=True)]
    between = [
        share * float(np.average(x, axis=1, weights=weights).var(ddof=1))
        for share, x in zip(shares, settings, strict=True)
    ]
    items = np.sum([c * x.mean(0) for c, x in zip(coefficients, settings, strict=True)], axis=0)
    # What seeds do to single prompts is in both, and would be counted twice.
    both = sum(
        share * _residual_variance(x, prompts, weights)
        for share, x in zip(shares, settings, strict=True)
    )
    count, sampled = len(np.unique(prompts)), clustered_variance(items, prompts, weights)
    parts = [*between, max(0.0, sampled - both) if count > 1 else math.nan]
    freedom = [*(len(x) - 1 for x in settings), count - 1]
    value = float(np.average(items, weights=weights))
    low, high, p = _student(value, sum(parts), _satterthwaite(parts, freedom))
    return Difference(
        value,
        low,
        high,
        p,
        "Student's t over seeds and prompts",
        len(items),
        count,
        sampled,
        max(0.0, sum(between) - both),
    )


def _residual_variance(x: np.ndarray, prompts: np.ndarray, weights: np.ndarray) -> float:
    """The variance of one seed's mean that is its own doing on these prompts; x is (S, P)."""
    residuals = x - x.mean(0)
    return sum(clustered_variance(r, prompts, weights) for r in residuals) / (len(x) - 1)


def _satterthwaite(parts: Sequence[float], freedom: Sequence[int]) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    below = sum(part**2 / f for part, f in zip(parts, freedom, strict=True) if f)
    return sum(parts) ** 2 / below if below > 0 else math.inf


def _student(value: float, variance: float, freedom: float) -> tuple[float, float, float]:
    """The 95% interval and the two-sided p of value = 0, by Student's t."""
    if variance == 0:
        return value, value, float(value == 0)
    error = math.sqrt(variance)
    half = float(stdtrit(freedom, 1 - ALPHA / 2)) * error
    return value - half, value + half, float(2 * stdtr(freedom, -abs(value) / error))
