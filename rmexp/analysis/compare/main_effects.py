"""What a swept key does on average over the others: its main effects, seeds as replicates."""

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

    cells         combinations of the other keys
    of_settings   seeds are in its interval; else it is of these checkpoints
    """

    key: str
    base: Any
    level: Any
    difference: Difference
    cells: int
    of_settings: bool


def main_effects(
    settings: Sequence[RunGroup], keys: Sequence[str], shared: Judgements, metric: str
) -> list[Effect]:
    """Each key's levels against its first one.

    Args:
        keys: those that differ between the settings.
        shared: the judged pairs.
        metric: one of `judged.ITEMWISE`.
    """
    return [effect for key in keys for effect in _effects_of(key, settings, keys, shared, metric)]


def confounded(effects: Sequence[Effect], keys: Sequence[str]) -> list[str]:
    """Keys in which no two settings differ alone: their effect cannot be told from others'."""
    told = {effect.key for effect in effects}
    return [key for key in keys if key not in told]


def _effects_of(
    key: str,
    settings: Sequence[RunGroup],
    keys: Sequence[str],
    shared: Judgements,
    metric: str,
) -> Iterator[Effect]:
    others = [k for k in keys if k != key]
    cells: dict[str, dict[str, RunGroup]] = {}
    for setting in settings:
        cell = repr([setting.values[k] for k in others])
        cells.setdefault(cell, {})[repr(setting.values[key])] = setting
    values = {repr(s.values[key]): s.values[key] for s in settings}
    base, *levels = sorted(values, key=lambda name: _order(values[name]))
    for level in levels:
        pairs = [(by[level], by[base]) for by in cells.values() if {level, base} <= set(by)]
        if pairs:
            difference, of_settings = _mean_difference(pairs, shared, metric)
            found = (values[base], values[level], difference, len(pairs), of_settings)
            yield Effect(key, *found)


def _mean_difference(
    pairs: Sequence[tuple[RunGroup, RunGroup]], shared: Judgements, metric: str
) -> tuple[Difference, bool]:
    """The mean of (level - base) over cells, and whether it holds of settings."""
    high, low = zip(*pairs, strict=True)
    of_P = (shared.prompts_P, shared.weights_P)
    items = [setting.items(metric) for setting in (*high, *low)]
    if min(map(len, items)) > 1:
        share = 1 / len(pairs)
        return contrast(items, [share] * len(high) + [-share] * len(low), *of_P), True
    one, other = (
        np.mean([x.mean(0) for x in side], axis=0)
        for side in (items[: len(high)], items[len(high) :])
    )
    return paired_difference(one, other, *of_P), False


def _order(value: Any) -> tuple[int, float, str]:
    """Absent ones first, then numbers by size, then names."""
    if value is None:
        return 0, 0.0, ""
    if isinstance(value, int | float) and not math.isnan(value):
        return 1, float(value), ""
    return 2, 0.0, str(value)
