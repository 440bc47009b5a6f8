"""Doubt by resampling: whole clusters are drawn anew, and what is made of their sums computed anew.

Pairs of one prompt are not independent, so that prompts are drawn and never pairs. Of n clusters
n - 1 are drawn, which makes the resampled variance that of the sample, whatever n (McCarthy and
Snowden 1985, "The Bootstrap and Finite Population Sampling"; Rao and Wu 1988, "Resampling inference
with complex survey data", JASA 83). Intervals are percentiles, so that they stay within a metric's
range and lean as it does; the percentiles lie as far out as Student's t with n - 1 degrees of
freedom has it (Hesterberg 2015, "What Teachers Should Know About the Bootstrap", The American
Statistician 69, section 4.3: the expanded percentile interval). How often they cover: `python -m
bench.coverage`.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, stdtrit

RESAMPLES = 2000


LEVEL = 0.95


RESAMPLES_PER_CHUNK = 100_000
"""Clusters drawn at once: as many as stay in a processor's cache."""


class Estimate(NamedTuple):
    """A number with its 95% interval; NaN bounds where there is too little to tell."""

    value: float
    low: float
    high: float


Means = Mapping[str, np.ndarray]
"""Stratum -> the mean of each column: (C,), or (B, C) over resamples."""


def clustered(
    columns_U_C: np.ndarray,
    clusters_U: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    degree: int = 1,
    seed: int = 0,
) -> Estimate:
    """A statistic of C sums over units, with its interval.

    Sums over pairs or triples of units (as in rank statistics) are given by what each unit adds to
    them: the derivative by the unit's weight, times the weight. They are taken to be linear in how
    often a cluster is drawn. That is the first term of Hoeffding's decomposition (van der Vaart
    1998, "Asymptotic Statistics", chapters 11, 12 and 23), and never compares a cluster that is
    drawn twice with itself.

    Args:
        columns_U_C: what each unit adds to each sum.
        clusters_U: the cluster of each unit, e.g. its prompt.
        statistic: sums (..., C) -> its value (...); NaN where it has none.
        degree: 1 for plain sums, 2 for sums over pairs of units, 3 over triples.
    """
    sums = _cluster_sums(columns_U_C, clusters_U)
    whole = sums.sum(0)
    value = float(statistic(whole / degree))
    if len(sums) < 2:
        return Estimate(value, float("nan"), float("nan"))
    moved = (degree - 1) / degree * whole
    draws = statistic(_resampled(sums, np.random.default_rng(seed)) - moved)
    return _with_interval(value, draws, len(sums) - 1)


def stratified(
    values_U_C: np.ndarray,
    strata_U: np.ndarray,
    clusters_U: np.ndarray,
    combine: Callable[[Means], Mapping[str, np.ndarray]],
    weights_U: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Scores made of the means of strata, with their intervals.

    Clusters are drawn within each stratum (a subset of a suite, whose size its publishers fixed):
    Davison and Hinkley 1997, "Bootstrap Methods and their Application", section 3.2. Degrees of
    freedom are Satterthwaite's (1946), over the strata that a score is made of.

    Args:
        values_U_C: C numbers a unit; NaN is left out of its column's mean.
        strata_U: the stratum of each unit.
        clusters_U: the cluster of each unit, e.g. its prompt.
        combine: means -> named scores; it is given (C,) and (B, C) arrays and must take both.
        weights_U: of each unit in its stratum's means; None: all 1.
    """
    values_U_C = np.asarray(values_U_C, dtype=np.float64)
    weights_U = np.ones(len(values_U_C)) if weights_U is None else weights_U
    weights_U_C = weights_U[:, None] * ~np.isnan(values_U_C)
    columns = np.concatenate([weights_U_C * np.nan_to_num(values_U_C), weights_U_C], axis=1)
    rng = np.random.default_rng(seed)
    point, drawn, counts = {}, {}, {}
    for stratum in sorted(set(strata_U)):
        here = strata_U == stratum
        sums = _cluster_sums(columns[here], clusters_U[here])
        point[stratum] = _means(sums.sum(0))
        counts[stratum] = len(sums)
        if len(sums) > 1:
            drawn[stratum] = _means(_resampled(sums, rng))
        else:  # one cluster says nothing of others
            drawn[stratum] = np.full((RESAMPLES, values_U_C.shape[1]), np.nan)
    found, spread = combine(point), combine(drawn)
    freedom = _freedom(point, drawn, counts, combine)
    return {n: _with_interval(float(v), spread[n], freedom[n]) for n, v in found.items()}


def _means(totals: np.ndarray) -> np.ndarray:
    """The means of columns, of totals with the columns' sums and then their weights."""
    sums, sizes = np.split(totals, 2, axis=-1)
    return ratio(sums, sizes)


def ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """above / below; NaN where below is not positive."""
    return np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)


def _freedom(
    point: Means,
    drawn: Means,
    counts: Mapping[str, int],
    combine: Callable[[Means], Mapping[str, np.ndarray]],
) -> dict[str, float]:
    """Satterthwaite's degrees of freedom of each score, of the variances of its strata."""
    still = {stratum: np.broadcast_to(point[stratum], drawn[stratum].shape) for stratum in drawn}
    total: dict[str, float] = {}
    below: dict[str, float] = {}
    for stratum, count in counts.items():
        for name, draws in combine({**still, stratum: drawn[stratum]}).items():
            finite = draws[np.isfinite(draws)]
            part = float(finite.var()) if len(finite) else 0.0
            total[name] = total.get(name, 0.0) + part
            below[name] = below.get(name, 0.0) + part**2 / max(1, count - 1)
    return {name: total[name] ** 2 / part if part > 0 else 1.0 for name, part in below.items()}


def _cluster_sums(columns_U_C: np.ndarray, clusters_U: np.ndarray) -> np.ndarray:
    """(G, C) the sums of each cluster."""
    names, member = np.unique(clusters_U, return_inverse=True)
    sums = [np.bincount(member, column, minlength=len(names)) for column in columns_U_C.T]
    return np.stack(sums, axis=1)


def _resampled(sums_G_C: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(B, C) totals of G - 1 clusters drawn with replacement, on the scale of all G."""
    count = len(sums_G_C)
    rows = max(1, RESAMPLES_PER_CHUNK // count)
    parts = []
    for start in range(0, RESAMPLES, rows):
        number = min(rows, RESAMPLES - start)
        drawn = rng.integers(count, size=(number, count - 1), dtype=np.int32)
        drawn += count * np.arange(number, dtype=np.int32)[:, None]
        times = np.bincount(drawn.ravel(), minlength=number * count).reshape(number, count)
        parts.append(times.astype(np.float64) @ sums_G_C)
    return np.concatenate(parts) * (count / (count - 1))


def _with_interval(value: float, draws_B: np.ndarray, freedom: float) -> Estimate:
    """The expanded percentile interval of resampled values; none where there are too few."""
    draws_B = draws_B[np.isfinite(draws_B)]
    if len(draws_B) < 2:
        return Estimate(value, float("nan"), float("nan"))
    share = float(ndtr(stdtrit(freedom, (1 - LEVEL) / 2)))
    low, high = np.quantile(draws_B, [share, 1 - share])
    return Estimate(value, float(low), float(high))


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
