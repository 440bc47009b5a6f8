"""Main effects: what a swept key changes on average over the other keys, seeds as replicates."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmexp.analysis.compare.run_groups import RunGroup
from rmexp.evaluation.stats.seed_replicates import contrast
from rmexp.evaluation.stats.significance import Difference, paired_difference
from rmexp.tracking.predictions import Judgements


@dataclass(frozen=True)
class Effect:
    """Mean of a metric at key=level minus that at key=base, over the cells that have both.

    cells        combinations of the other keys
    over_seeds   whether the interval covers seeds, or only these checkpoints
    """

    key: str
    base: Any
    level: Any
    difference: Difference
    cells: int
    over_seeds: bool


def main_effects(
    groups: Sequence[RunGroup], keys: Sequence[str], shared: Judgements, metric: str
) -> list[Effect]:
    """Compare each level of each key with the key's first level.

    Args:
        groups: the compared groups.
        keys: those that differ between the groups.
        shared: the labelled pairs.
        metric: an itemwise metric.
    """
    return [effect for key in keys for effect in _effects_of(key, groups, keys, shared, metric)]


def confounded(effects: Sequence[Effect], keys: Sequence[str]) -> list[str]:
    """Keys without an effect, as no two groups differ in them alone."""
    known = {effect.key for effect in effects}
    return [key for key in keys if key not in known]


def _effects_of(
    key: str, groups: Sequence[RunGroup], keys: Sequence[str], shared: Judgements, metric: str
) -> Iterator[Effect]:
    cells: dict[str, dict[str, RunGroup]] = {}
    for group in groups:
        cell = repr([group.values[k] for k in keys if k != key])
        cells.setdefault(cell, {})[repr(group.values[key])] = group
    values = {repr(group.values[key]): group.values[key] for group in groups}
    base, *levels = sorted(values, key=lambda name: _order(values[name]))
    for level in levels:
        pairs = [(by[level], by[base]) for by in cells.values() if {level, base} <= set(by)]
        if pairs:
            difference, over_seeds = _mean_difference(pairs, shared, metric)
            yield Effect(key, values[base], values[level], difference, len(pairs), over_seeds)


def _mean_difference(
    pairs: Sequence[tuple[RunGroup, RunGroup]], shared: Judgements, metric: str
) -> tuple[Difference, bool]:
    """Mean of (level - base) over cells, and whether it covers seeds."""
    of_P = (shared.prompts_P, shared.weights_P)
    high, low = ([group.items(metric) for group in side] for side in zip(*pairs, strict=True))
    if min(map(len, [*high, *low])) > 1:
        share = 1 / len(pairs)
        return contrast([*high, *low], [share] * len(high) + [-share] * len(low), *of_P), True
    one, other = (np.mean([x.mean(0) for x in side], axis=0) for side in (high, low))
    return paired_difference(one, other, *of_P), False


def _order(value: Any) -> tuple[int, float, str]:
    """Sort key: absent values first, then numbers, then names."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float) and not math.isnan(value):
        return 1, float(value), ""
    return 2, 0.0, str(value)
