"""Doubt in numbers: intervals that respect that pairs of one prompt are not independent."""

import numpy as np

RESAMPLES = 2000


def clustered_interval(
    values: np.ndarray,
    clusters: np.ndarray,
    level: float = 0.95,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> tuple[float, float]:
    """A percentile bootstrap interval of mean(values), resampling whole clusters.

    Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.8.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit, e.g. its prompt.
        level: coverage, 0..1.
        weights: (U,) of each unit in the mean; None: all 1.

    Returns:
        Lower and upper bound; NaN, NaN where there are fewer than two clusters.
    """
    weights = np.ones(len(values)) if weights is None else weights
    values, clusters, weights = (x[weights > 0] for x in (values, clusters, weights))
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < 2:
        return float("nan"), float("nan")
    sums = np.bincount(member, weights=values * weights, minlength=count)
    sizes = np.bincount(member, weights=weights, minlength=count)
    rng = np.random.default_rng(seed)
    means = np.empty(RESAMPLES)
    for b in range(RESAMPLES):
        drawn = np.bincount(rng.integers(count, size=count), minlength=count)
        means[b] = drawn @ sums / (drawn @ sizes)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def clustered_variance(values: np.ndarray, clusters: np.ndarray) -> float:
    """The variance of mean(values) where units of one cluster are not independent.

    The linearised (sandwich) variance of a ratio of cluster sums; Cochran 1977, "Sampling
    Techniques", section 9A.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit.

    Returns:
        The variance; NaN where there are fewer than two clusters.
    """
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < 2:
        return float("nan")
    residuals = np.bincount(member, weights=values - values.mean(), minlength=count)
    return float(count / (count - 1) * (residuals @ residuals) / len(values) ** 2)


def clustered_correlation(
    x: np.ndarray,
    y: np.ndarray,
    clusters: np.ndarray,
    level: float = 0.95,
    seed: int = 0,
    weights: np.ndarray | None = None,
) -> tuple[float, float, float]:
    """Pearson's correlation, and its percentile bootstrap interval, resampling whole clusters.

    Of ranks it is Spearman's; the interval then takes the ranks of the whole sample.

    Args:
        x, y: (U,) two numbers a unit.
        clusters: (U,) the cluster of each unit.
        level: coverage, 0..1.
        weights: (U,) of each unit; None: all 1.

    Returns:
        The correlation, lower and upper bound; NaN where something does not vary.
    """
    weights = np.ones(len(x)) if weights is None else weights
    x, y, clusters, weights = (values[weights > 0] for values in (x, y, clusters, weights))
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1
    x, y = x - x.mean(), y - y.mean()
    moments = weights * np.stack([np.ones_like(x), x, y, x * x, y * y, x * y])
    sums = np.stack([np.bincount(member, weights=m, minlength=count) for m in moments])
    rng = np.random.default_rng(seed)
    drawn = (
        np.bincount(rng.integers(count, size=count), minlength=count) for _ in range(RESAMPLES)
    )
    found = np.array([_correlation(sums @ times) for times in drawn])
    whole = _correlation(sums.sum(1))
    if count < 2 or np.isnan(found).all():
        return whole, float("nan"), float("nan")
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2])
    return whole, float(low), float(high)


def _correlation(sums: np.ndarray) -> float:
    """From the sums of 1, x, y, x^2, y^2 and xy."""
    n, x, y, xx, yy, xy = sums
    spread = (xx - x * x / n) * (yy - y * y / n)
    return float((xy - x * y / n) / np.sqrt(spread)) if spread > 1e-12 * xx * yy else float("nan")
