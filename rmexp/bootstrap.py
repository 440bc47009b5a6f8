"""Intervals of composite scores: whole clusters are drawn anew, and the score computed anew."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from rmexp.statistics import RESAMPLES

CHUNK = 250
"""Resamples held in memory at once."""

FEW = 500
"""Resamples of a statistic that is no mean and costs time each time."""


class Estimate(NamedTuple):
    """A number with its 95% interval; NaN bounds where there is too little to tell."""

    value: float
    low: float
    high: float


Means = Mapping[str, np.ndarray]
"""Stratum -> the mean of each column: (C,), or (B, C) over resamples."""


def stratified(
    values_U_C: np.ndarray,
    strata_U: np.ndarray,
    clusters_U: np.ndarray,
    combine: Callable[[Means], Mapping[str, np.ndarray]],
    weights_U: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Scores made of the means of strata, with percentile bootstrap intervals.

    Within each stratum (a subset of a suite, whose size its publishers fixed) whole clusters are
    drawn with replacement; `combine` then makes the scores of the resampled means. Davison and
    Hinkley 1997, "Bootstrap Methods and their Application", sections 3.2 and 3.8.

    Args:
        values_U_C: C numbers a unit; NaN is left out of its column's mean.
        strata_U: the stratum of each unit.
        clusters_U: the cluster of each unit, e.g. its prompt.
        combine: means -> named scores; it is given (C,) and (B, C) arrays and must take both.
        weights_U: of each unit in its stratum's means; None: all 1.
    """
    values_U_C = np.asarray(values_U_C, dtype=np.float64)
    weights_U = np.ones(len(values_U_C)) if weights_U is None else weights_U
    rng = np.random.default_rng(seed)
    point, drawn = {}, {}
    for stratum in sorted(set(strata_U)):
        here = strata_U == stratum
        sums, sizes = _cluster_sums(values_U_C[here], weights_U[here], clusters_U[here])
        point[stratum] = _ratio(sums.sum(0), sizes.sum(0))
        drawn[stratum] = _resampled(sums, sizes, rng)
    found, spread = combine(point), combine(drawn)
    return {name: with_interval(float(value), spread[name]) for name, value in found.items()}


def with_interval(value: float, draws_B: np.ndarray, level: float = 0.95) -> Estimate:
    """The percentile interval of resampled values; a statistic that never varies has none."""
    draws_B = draws_B[np.isfinite(draws_B)]
    if len(draws_B) < 2:
        return Estimate(value, float("nan"), float("nan"))
    low, high = np.quantile(draws_B, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))


def recomputed(
    statistic: Callable[[np.ndarray], float],
    clusters_U: np.ndarray,
    bounds: tuple[float, float],
    resamples: int = FEW,
    seed: int = 0,
) -> Estimate:
    """A statistic of pairs of units (tau, AUC), computed anew on whole clusters drawn anew.

    A cluster that is drawn twice is compared with itself, which happens to no cluster of the
    sample: the resampled values are moved by the bias that this brings (Davison and Hinkley 1997,
    section 2.1.2).

    Args:
        statistic: indices of units (with repeats) -> its value.
        clusters_U: the cluster of each unit.
        bounds: the least and the greatest value that it can have.
    """
    whole = statistic(np.arange(len(clusters_U)))
    members, starts, counts = _members(clusters_U)
    if len(counts) < 2:
        return Estimate(whole, float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for b in range(resamples):
        picked = rng.integers(len(counts), size=len(counts))
        draws[b] = statistic(_gather(members, starts[picked], counts[picked]))
    draws = draws[np.isfinite(draws)]
    moved = np.clip(draws + (whole - draws.mean()), *bounds) if len(draws) else draws
    return with_interval(whole, moved)


def _members(clusters_U: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Units in the order of their clusters; where each cluster starts, and how many it has."""
    _, member, counts = np.unique(clusters_U, return_inverse=True, return_counts=True)
    return np.argsort(member, kind="stable"), np.cumsum(counts) - counts, counts


def _gather(members: np.ndarray, starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The units of some clusters, one after the other."""
    ends = np.cumsum(counts)
    within = np.arange(ends[-1]) - np.repeat(ends - counts, counts)
    return members[np.repeat(starts, counts) + within]


def _cluster_sums(
    values_U_C: np.ndarray, weights_U: np.ndarray, clusters_U: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sums and weights of each cluster, (G, C) each."""
    there = ~np.isnan(values_U_C)
    members, starts, _ = _members(clusters_U)
    weights = weights_U[:, None] * there
    products = weights * np.where(there, values_U_C, 0.0)
    return (
        np.add.reduceat(products[members], starts, axis=0),
        np.add.reduceat(weights[members], starts, axis=0),
    )


def _resampled(sums: np.ndarray, sizes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, C) means; NaN all through where there is one cluster only, which says nothing."""
    count = len(sums)
    if count < 2:
        return np.full((RESAMPLES, sums.shape[1]), np.nan)
    parts = []
    for _ in range(RESAMPLES // CHUNK):
        times = rng.multinomial(count, np.full(count, 1 / count), size=CHUNK).astype(np.float64)
        parts.append(_ratio(times @ sums, times @ sizes))
    return np.concatenate(parts)


def _ratio(sums: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    return np.divide(sums, sizes, out=np.full_like(sums, np.nan), where=sizes > 0)
