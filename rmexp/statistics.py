"""Doubt in numbers: intervals that respect that pairs of one prompt are not independent."""

import numpy as np

RESAMPLES = 2000


def clustered_interval(
    values: np.ndarray, clusters: np.ndarray, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """A percentile bootstrap interval of mean(values), resampling whole clusters.

    Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit, e.g. its prompt.
        level: coverage, 0..1.

    Returns:
        Lower and upper bound; NaN, NaN where there are fewer than two clusters.
    """
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < 2:
        return float("nan"), float("nan")
    sums = np.bincount(member, weights=values, minlength=count)
    sizes = np.bincount(member, minlength=count)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for b in range(RESAMPLES):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        means[b] = drawn @ sums / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
