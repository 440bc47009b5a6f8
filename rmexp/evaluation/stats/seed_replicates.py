"""Seeds as replicates: inference about a configuration rather than about its checkpoints.

Seeds and prompts are two crossed random factors: the multi-reader multi-case problem, with seeds as
readers and prompts as cases, where each reader uses one modality. Obuchowski and Rockette 1995,
"Hypothesis testing of diagnostic accuracy for multiple readers and multiple tests"; degrees of
freedom as in Hillis 2014, "A marginal-mean ANOVA approach for analyzing multireader multicase
radiological imaging data".

Each configuration has its own variance between seeds (Welch). A pooled variance would detect twice
as much with two or three seeds, but has 20% false positives where only one of the configurations
is unstable, which happens in sweeps.
"""

import math
from collections.abc import Sequence

import numpy as np
import scipy

from rmexp.evaluation.stats.bootstrap import clustered_variance
from rmexp.evaluation.stats.significance import ALPHA, Difference, sign_flip_floor


def contrast(
    settings: Sequence[np.ndarray],
    coefficients: Sequence[float],
    prompts: np.ndarray,
    weights: np.ndarray | None = None,
) -> Difference:
    """Test a weighted sum of the configurations' means, over seeds and prompts.

    Coefficients 1, -1 give the difference of two configurations; 1 gives a configuration's mean.
    Student's t takes variances at their word, 0 where few items agree by chance: p is no smaller
    than sign flips of as many prompts could make it.

    Args:
        settings: for each configuration (S, P) values of S >= 2 seeds and P items.
        coefficients: one for each configuration.
        prompts: (P,) the prompt of each item.
        weights: (P,) weight of each item, above 0; None: all 1.
    """
    weights = np.ones(len(prompts)) if weights is None else weights
    shares = [c**2 / len(x) for c, x in zip(coefficients, settings, strict=True)]
    between = [
        share * float(np.average(x, axis=1, weights=weights).var(ddof=1))
        for share, x in zip(shares, settings, strict=True)
    ]
    items = np.sum([c * x.mean(0) for c, x in zip(coefficients, settings, strict=True)], axis=0)
    # The seed-by-prompt interaction is in both variances and must be counted once.
    both = sum(
        share * _residual_variance(x, prompts, weights)
        for share, x in zip(shares, settings, strict=True)
    )
    count, sampled = len(np.unique(prompts)), clustered_variance(items, prompts, weights)
    alone = max(0.0, sampled - both) if count > 1 else math.nan
    if alone == sum(between) == 0:  # seeds differ item by item, but not in their means
        alone = sampled
    parts, freedom = [*between, alone], [*(len(x) - 1 for x in settings), count - 1]
    value = float(np.average(items, weights=weights))
    low, high, p = _student(value, sum(parts), _satterthwaite(parts, freedom))
    return Difference(
        value,
        low,
        high,
        max(p, sign_flip_floor(count)),
        "Student's t over seeds and prompts",
        len(items),
        count,
        sampled,
        max(0.0, sum(between) - both),
    )


def interval_over_seeds(
    values: Sequence[float], intervals: Sequence[tuple[float, float]], prompts: int
) -> tuple[float, float]:
    """95% interval of the mean over S >= 2 seeds of a statistic that is no mean over items.

    The variance is that between seeds plus the mean of each seed's own, due to the prompts that all
    share. The seed-by-prompt interaction is in both: the interval is conservative.

    Args:
        values: of each seed.
        intervals: the 95% interval of each.
        prompts: number of prompts.
    """
    halves = np.array([high - low for low, high in intervals]) / 2
    sampled = float(np.square(halves / scipy.special.stdtrit(prompts - 1, 1 - ALPHA / 2)).mean())
    parts = [float(np.var(values, ddof=1)) / len(values), sampled]
    freedom = _satterthwaite(parts, [len(values) - 1, prompts - 1])
    low, high, _ = _student(float(np.mean(values)), sum(parts), freedom)
    return low, high


def _residual_variance(x: np.ndarray, prompts: np.ndarray, weights: np.ndarray) -> float:
    """Variance of a seed's mean due to the seed-by-prompt interaction; x is (S, P)."""
    residuals = x - x.mean(0)
    return sum(clustered_variance(r, prompts, weights) for r in residuals) / (len(x) - 1)


def _satterthwaite(parts: Sequence[float], freedom: Sequence[int]) -> float:
    """Degrees of freedom of a sum of variances (Satterthwaite 1946)."""
    below = sum(part**2 / f for part, f in zip(parts, freedom, strict=True) if f)
    return sum(parts) ** 2 / below if below > 0 else math.inf


def _student(value: float, variance: float, freedom: float) -> tuple[float, float, float]:
    """95% interval and two-sided p of value = 0, by Student's t."""
    if variance == 0:
        return value, value, float(value == 0)
    error = math.sqrt(variance)
    half = float(scipy.special.stdtrit(freedom, 1 - ALPHA / 2)) * error
    return value - half, value + half, float(2 * scipy.special.stdtr(freedom, -abs(value) / error))
