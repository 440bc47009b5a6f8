"""Cluster bootstrap: whole clusters are resampled, and statistics recomputed from their sums.

Pairs of one prompt are not independent, so prompts are the clusters. Of n clusters, n - 1 are drawn
with replacement, which makes the bootstrap variance equal to the sample variance for any n
(McCarthy and Snowden 1985, "The Bootstrap and Finite Population Sampling"; Rao and Wu 1988,
"Resampling inference with complex survey data", JASA 83). Intervals are expanded percentile
intervals: percentiles keep to a metric's range and follow its skew, and are widened to match
Student's t with n - 1 degrees of freedom (Hesterberg 2015, "What Teachers Should Know About the
Bootstrap", The American Statistician 69, section 4.3). `python -m bench.coverage` measures their
coverage.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import scipy

RESAMPLES = 2000
LEVEL = 0.95

CLUSTERS_PER_CHUNK = 100_000
"""Clusters drawn at once, so that a chunk fits the processor's cache."""

SHARED_CLUSTERS = 1000
"""Most clusters of which draws are kept: 16 MB for `RESAMPLES`."""


class Estimate(Sequence[float]):
    """A value with its 95% interval, as the sequence (value, low, high).

    The bootstrap runs when a bound is first read, so that a value alone costs no resampling. Bounds
    are NaN where there are too few clusters.
    """

    def __init__(self, value: float, interval: Callable[[], tuple[float, float]]) -> None:
        self.value = value
        self._interval = interval

    @functools.cached_property
    def interval(self) -> tuple[float, float]:
        """The bounds of the 95% interval."""
        return self._interval()

    @property
    def low(self) -> float:
        """Lower bound of the interval."""
        return self.interval[0]

    @property
    def high(self) -> float:
        """Upper bound of the interval."""
        return self.interval[1]

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: Any) -> Any:
        return (self.value, *self.interval)[index]

    def __eq__(self, other: object) -> bool:
        return tuple(self) == tuple(other) if isinstance(other, Sequence) else NotImplemented

    def named(self, name: str) -> dict[str, float]:
        """The metrics `name`, `name_low` and `name_high`."""
        return {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}


Means = Mapping[str, np.ndarray]
"""Stratum -> the mean of each column: (C,), or (B, C) over resamples."""


def clustered(
    columns_U_C: np.ndarray,
    clusters_U: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    degree: int = 1,
    seed: int = 0,
    span: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate a statistic of C sums over units.

    For sums over pairs or triples of units (as in rank statistics), a unit's contribution is the
    derivative of the sum by the unit's weight, times the weight. The bootstrap is linear in how
    often a cluster is drawn: the first term of Hoeffding's decomposition (van der Vaart 1998,
    "Asymptotic Statistics", chapters 11, 12 and 23), which never compares a cluster with its own
    copy. Sums of a resample without a cluster of much of the mass may have no statistic; there the
    statistic is linear too.

    Args:
        columns_U_C: (U, C) contribution of each unit to each sum.
        clusters_U: (U,) the cluster of each unit, e.g. its prompt.
        statistic: sums (..., C) -> value (...); NaN where undefined.
        degree: 1 for plain sums, 2 for sums over pairs of units, 3 over triples.
        span: the least and the greatest value that the statistic can have. Where clusters do not
            differ, nothing varies in resamples: the interval then reaches to the values that the
            statistic would have if some other clusters, too few to be seen, were at its ends.
    """
    sums = _cluster_sums(columns_U_C, clusters_U)
    whole = sums.sum(0)
    value = float(statistic(whole / degree))

    def interval() -> tuple[float, float]:
        if len(sums) < 2:
            return float("nan"), float("nan")
        moved = (degree - 1) / degree * whole
        resampled = _totals(sums, _shared_draws(len(sums), seed)) - moved
        draws = statistic(resampled)
        lost = np.isnan(draws)
        if degree > 1 and lost.any() and not math.isnan(value):
            apart = resampled[lost] - whole / degree
            draws[lost] = value + apart @ _gradient(statistic, whole / degree)
            draws = draws if span is None else np.clip(draws, *span)
        low, high = _percentiles(draws, len(sums) - 1)
        if span is not None and high - low < 1e-12:
            unseen = 1 - ((1 - LEVEL) / 2) ** (1 / len(sums))
            low, high = (value + unseen * (end - value) for end in span)
        return low, high

    return Estimate(value, interval)


def _gradient(statistic: Callable[[np.ndarray], np.ndarray], sums: np.ndarray) -> np.ndarray:
    steps = 1e-6 * np.abs(sums).max() * np.eye(len(sums))
    return (statistic(sums + steps) - statistic(sums - steps)) / (2 * steps.max())


def stratified(
    values_U_C: np.ndarray,
    strata_U: np.ndarray,
    clusters_U: np.ndarray,
    combine: Callable[[Means], Mapping[str, np.ndarray]],
    weights_U: np.ndarray | None = None,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate scores that combine the means of strata.

    Clusters are drawn within each stratum (a benchmark's subset, whose size is fixed): Davison and
    Hinkley 1997, "Bootstrap Methods and their Application", section 3.2. Degrees of freedom are
    Satterthwaite's (1946), over the strata that enter a score.

    Args:
        values_U_C: (U, C) numbers of each unit; a NaN is left out of its column's mean.
        strata_U: (U,) the stratum of each unit.
        clusters_U: (U,) the cluster of each unit, e.g. its prompt.
        combine: means -> named scores; must accept (C,) and (B, C) arrays.
        weights_U: (U,) weight of each unit in its stratum's means; None: all 1.
    """
    values_U_C = np.asarray(values_U_C, dtype=np.float64)
    weights_U = np.ones(len(values_U_C)) if weights_U is None else weights_U
    weights_U_C = weights_U[:, None] * ~np.isnan(values_U_C)
    columns = np.concatenate([weights_U_C * np.nan_to_num(values_U_C), weights_U_C], axis=1)
    sums = {
        stratum: _cluster_sums(columns[strata_U == stratum], clusters_U[strata_U == stratum])
        for stratum in sorted(set(strata_U))
    }
    point = {stratum: _means(found.sum(0)) for stratum, found in sums.items()}

    @functools.cache
    def resampled() -> tuple[Mapping[str, np.ndarray], Mapping[str, float]]:
        rng = np.random.default_rng(seed)
        undefined = np.full((RESAMPLES, values_U_C.shape[1]), np.nan)  # a single cluster
        drawn = {
            stratum: _means(_totals(found, _draws(len(found), rng)))
            if len(found) > 1
            else undefined
            for stratum, found in sums.items()
        }
        counts = {stratum: len(found) for stratum, found in sums.items()}
        return combine(drawn), _freedom(point, drawn, counts, combine)

    def interval(name: str) -> tuple[float, float]:
        draws, freedom = resampled()
        return _percentiles(draws[name], freedom[name])

    return {
        name: Estimate(float(value), functools.partial(interval, name))
        for name, value in combine(point).items()
    }


def _means(totals: np.ndarray) -> np.ndarray:
    """Weighted means, from totals (..., 2C) of the columns and then of their weights."""
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


def _draws(count: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """How often each of `count` clusters is among `count` - 1 drawn with replacement.

    Yields:
        (B, G) numbers of a part of the resamples, all of which are B = `RESAMPLES`.
    """
    rows = max(1, CLUSTERS_PER_CHUNK // count)
    for start in range(0, RESAMPLES, rows):
        number = min(rows, RESAMPLES - start)
        drawn = rng.integers(count, size=(number, count - 1), dtype=np.int32)
        drawn += count * np.arange(number, dtype=np.int32)[:, None]
        times = np.bincount(drawn.ravel(), minlength=number * count).reshape(number, count)
        yield times.astype(np.float64)


def _shared_draws(count: int, seed: int) -> Iterable[np.ndarray]:
    """`_draws` of a seed; kept where they are small, as all metrics of a set use the same."""
    if count > SHARED_CLUSTERS:
        return _draws(count, np.random.default_rng(seed))
    return _kept_draws(count, seed)


@functools.lru_cache(4)
def _kept_draws(count: int, seed: int) -> tuple[np.ndarray, ...]:
    return tuple(_draws(count, np.random.default_rng(seed)))


def _totals(sums_G_C: np.ndarray, draws: Iterable[np.ndarray]) -> np.ndarray:
    """(B, C) totals of the drawn clusters, scaled to G clusters."""
    count = len(sums_G_C)
    parts = [times_B_G @ sums_G_C for times_B_G in draws]
    return np.concatenate(parts) * (count / (count - 1))


def _percentiles(draws_B: np.ndarray, freedom: float) -> tuple[float, float]:
    """The expanded percentile interval of resampled values; NaN where there are too few."""
    draws_B = draws_B[np.isfinite(draws_B)]
    if len(draws_B) < 2:
        return float("nan"), float("nan")
    share = float(scipy.special.ndtr(scipy.special.stdtrit(freedom, (1 - LEVEL) / 2)))
    low, high = np.quantile(draws_B, [share, 1 - share])
    return float(low), float(high)


def clustered_mean(
    values: np.ndarray,
    clusters: np.ndarray,
    weights: np.ndarray | None = None,
    span: tuple[float, float] | None = None,
) -> Estimate:
    """Estimate a weighted mean; NaN where all weights are 0.

    Args:
        values: (U,) one number a unit.
        clusters: (U,) the cluster of each unit, e.g. its prompt.
        weights: (U,) of each unit in the mean; None: all 1.
        span: the range of the values, see `clustered`.
    """
    weights = np.ones(len(values)) if weights is None else weights
    values, clusters, weights = (x[weights > 0] for x in (values, clusters, weights))
    columns = np.stack([values * weights, weights], axis=1)
    return clustered(columns, clusters, lambda sums: ratio(sums[..., 0], sums[..., 1]), span=span)


def clustered_variance(
    values: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> float:
    """Variance of a weighted mean of clustered units.

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
