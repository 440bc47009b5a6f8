"""Doubt in numbers: of means and differences, where pairs of one prompt are not independent."""

import numpy as np

from rmexp.bootstrap import Estimate, clustered, ratio


def clustered_mean(
    values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> Estimate:
    """The weighted mean and its 95% interval, see `bootstrap`; NaN where nothing weighs.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit, e.g. its prompt.
        weights: (U,) of each unit in the mean; None: all 1.
    """
    weights = np.ones(len(values)) if weights is None else weights
    values, clusters, weights = (x[weights > 0] for x in (values, clusters, weights))
    columns = np.stack([values * weights, weights], axis=1)
    return clustered(columns, clusters, lambda sums: ratio(sums[..., 0], sums[..., 1]))


def clustered_interval(
    values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """The bounds of `clustered_mean`; NaN, NaN where there are fewer than two clusters."""
    return clustered_mean(values, clusters, weights)[1:]


def clustered_variance(
    values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """The variance of the weighted mean where units of one cluster are not independent.

    The linearised (sandwich) variance of a ratio of cluster sums; Cochran 1977, "Sampling
    Techniques", section 9A.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit.
        weights: (U,) of each unit in the mean; None: all 1.

    Returns:
        The variance; NaN where there are fewer than two clusters.
    """
    weights = np.ones(len(values)) if weights is None else weights
    values, clusters, weights = (x[weights > 0] for x in (values, clusters, weights))
    _, member = np.unique(clusters, return_inverse=True)
    count = int(member.max()) + 1 if len(member) else 0
    if count < 2:
        return float("nan")
    centred = weights * (values - np.average(values, weights=weights))
    residuals = np.bincount(member, weights=centred, minlength=count)
    return float(count / (count - 1) * (residuals @ residuals) / weights.sum() ** 2)
