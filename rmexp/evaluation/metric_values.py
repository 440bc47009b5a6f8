"""Values of the registered metrics: computed for a scored set, and formatted."""

import math
from collections.abc import Mapping, Sequence

from rmexp.evaluation import metrics as registry
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.external_verdicts import VerdictSet
from rmexp.evaluation.metrics import Metric, find_metric
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.stats.bootstrap import Estimate


def compute_metrics(
    scored: ScoredSet, calibration: Calibration | None = None, *, intervals: bool = True
) -> dict[str, float]:
    """Every metric that the set defines, under its name without the set's, but the slow ones.

    Args:
        scored: labels and rewards.
        calibration: fitted on val; None: no calibrated metrics.
        intervals: add `NAME_low` and `NAME_high` of those with an interval. Without them nothing
            is resampled.
    """
    statistics = SetStatistics(scored, calibration)
    out = _values(statistics, [m for m in _defined(scored) if not m.slow], intervals)
    if statistics.quantiles is not None:
        for k, name in enumerate(scored.names):
            share = statistics.quantiles.share_below(k)
            key = f"quantile_{name}/share_below"
            out |= share.named(key) if intervals else {key: share.value}
    names = sorted(set(scored.subsets_P))
    for metric in _defined(scored) if len(names) > 1 else ():
        if metric.per_subset == "always" and metric.itemwise is not None:
            items_P = metric.itemwise(statistics.gaps_P, statistics.reward_std)
            found = {n: statistics.mean(items_P, scored.subsets_P == n) for n in names}
            out |= {f"{n}/{metric.name}": x.value for n, x in found.items() if x is not None}
    return out


def slow_metrics(scored: ScoredSet) -> dict[str, float]:
    """The slow metrics, and those of each subset, all with their intervals."""
    out = _values(SetStatistics(scored), [m for m in _defined(scored) if m.slow], True)
    per_subset = [m for m in _defined(scored) if m.per_subset != "never"]
    names = sorted(set(scored.subsets_C))
    for name in names if len(names) > 1 else ():
        found = _values(SetStatistics(scored.subset(name)), per_subset, True)
        out |= {f"{name}/{metric}": value for metric, value in found.items()}
    return out


def _defined(scored: ScoredSet) -> list[Metric]:
    """The metrics that the set may have: verdicts have no scale."""
    return [m for m in registry.METRICS if m.verdicts or not isinstance(scored, VerdictSet)]


def _values(
    statistics: SetStatistics, metrics: Sequence[Metric], intervals: bool
) -> dict[str, float]:
    out: dict[str, float] = {}
    for metric in metrics:
        value = metric.compute(statistics) if metric.compute else None
        if isinstance(value, Estimate):
            out |= value.named(metric.name) if intervals else {metric.name: value.value}
        elif value is not None:
            out[metric.name] = float(value)
    return {name: value for name, value in out.items() if value == value}


def format_metric(metrics: Mapping[str, float], name: str) -> str:
    """A logged metric with its 95% interval, counts without decimals; empty where not logged."""
    metric, value = find_metric(name), metrics.get(name)
    if metric is not None and metric.count and value is not None:
        return f"{value:.0f}"
    return format_interval(value, metrics.get(f"{name}_low"), metrics.get(f"{name}_high"))


def format_interval(
    value: float | None, low: float | None = None, high: float | None = None, digits: int = 4
) -> str:
    """`0.7720 [0.741, 0.803]`; without bounds where they are None or NaN, empty without a value."""
    if value is None or math.isnan(value):
        return ""
    known = low is not None and high is not None and not math.isnan(low)
    return f"{value:.{digits}f}" + (f" [{low:.3f}, {high:.3f}]" if known else "")
