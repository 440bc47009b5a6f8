"""Two settings against each other: a paired test, and a verdict that says no more than it may."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from rmexp.analysis.compare.run_groups import RunGroup
from rmexp.evaluation.stats.seed_replicates import contrast
from rmexp.evaluation.stats.significance import (
    ALPHA,
    MIN_CLUSTERS,
    N_PERMUTATIONS,
    Difference,
    holm_correction,
    needed_items,
    paired_difference,
)
from rmexp.tracking.predictions import Judgements

RunPairs = Literal["best", "neighbours", "all"]


LARGEST_DRAWS = 99_999


@dataclass(frozen=True)
class PairVerdict:
    """A against B, of whom A has the better value.

    difference    mean of A minus mean of B
    p             Holm's, over the pairs of interest
    of_settings   it holds of settings, whatever the seed; else of these checkpoints
    """

    a: RunGroup
    b: RunGroup
    metric: str
    difference: Difference
    p: float
    of_settings: bool

    @property
    def real(self) -> bool:
        """Is it more than chance?"""
        return self.p <= ALPHA

    def sentence(self) -> str:
        """The verdict in plain words."""
        d, a, b = self.difference, self._subject(self.a), self._subject(self.b)
        figures = f"{self._amount(d.value)} [{self._ends()}], p={p_value(self.p)}"
        if self.real:
            where = self._seeds() if self.of_settings else " on these rows"
            test = f"n={d.items:,}, {d.method}"
            return f"{a} is better than {b}{where}: {self.metric} {figures} ({test})"
        return f"no detectable difference between {a} and {b} ({self._needed()}): {figures}"

    def _subject(self, setting: RunGroup) -> str:
        if self.of_settings:
            return setting.name
        seeds = len(setting.entries)
        if seeds == 1:
            return f"checkpoint {setting.name}"
        return f"the mean checkpoint of {setting.name} ({seeds} seeds)"

    def _seeds(self) -> str:
        one, other = len(self.a.entries), len(self.b.entries)
        return f" over {one} seeds each" if one == other else f" over {one} and {other} seeds"

    def _needed(self) -> str:
        d, unit = self.difference, _unit(self.metric)
        if d.prompts < MIN_CLUSTERS:
            return f"n={d.items:,} of {d.prompts} prompts, too few for any test"
        items, more = needed_items(d)
        if items is None:
            return f"n={d.items:,}, no pair tells them apart"
        if more == 1 and items <= d.items:
            return f"n={d.items:,}, enough to see {unit}"
        seeds = math.ceil(max(len(self.a.entries), len(self.b.entries)) * more)
        also = f" and {seeds} seeds each" if more > 1 else ""
        return f"n={d.items:,}, you would need about n={_round(items):,}{also} to see {unit}"

    def _amount(self, value: float) -> str:
        points = self.metric == "accuracy"
        return f"{100 * value:+.1f} points" if points else f"{value:+.3f}"

    def _ends(self) -> str:
        scale, digits = (100, 1) if self.metric == "accuracy" else (1, 3)
        ends = (self.difference.low, self.difference.high)
        return ", ".join("?" if math.isnan(e) else f"{scale * e:.{digits}f}" for e in ends)


def _unit(metric: str) -> str:
    return "1 point" if metric == "accuracy" else f"a difference of 0.01 in {metric}"


def _round(number: int) -> int:
    """To two digits: it is a guess."""
    return int(float(f"{number:.1e}"))


def p_value(p: float) -> str:
    """A p in two digits; a very small one as a bound."""
    if math.isnan(p):
        return "?"
    return f"{p:.2g}" if p >= 0.0001 else "<0.0001"


def test_pairs(
    ranked: Sequence[RunGroup], shared: Judgements, metric: str, which: RunPairs
) -> list[PairVerdict]:
    """A verdict on each pair of interest.

    The best is chosen by the very rows that it is tested on. Whoever was best, its pairs would have
    been tested: Holm's family is all pairs then, of which these are shown.

    Args:
        ranked: the settings, best first.
        shared: the judged pairs.
        metric: one of `judged.ITEMWISE`.
        which: the pairs of interest: the best against each other one; those that differ in one key;
            all.
    """
    every = list(itertools.combinations(ranked, 2))
    pairs = {
        "best": [pair for pair in every if pair[0] is ranked[0]],
        "neighbours": [pair for pair in every if _apart(*pair) == 1],
        "all": every,
    }[which]
    family = len(pairs) if which == "neighbours" else len(every)
    draws = min(LARGEST_DRAWS, max(N_PERMUTATIONS, 100 * family - 1))
    found = [difference_of(a, b, shared, metric, draws) for a, b in pairs]
    corrected = holm_correction([d.p for d, _ in found], family)
    return [
        PairVerdict(a, b, metric, d, p, of_settings)
        for (a, b), (d, of_settings), p in zip(pairs, found, corrected, strict=True)
    ]


def difference_of(
    a: RunGroup, b: RunGroup, shared: Judgements, metric: str, draws: int = N_PERMUTATIONS
) -> tuple[Difference, bool]:
    """A minus B, and whether it holds of the settings, which takes two seeds of each."""
    one, other = a.items(metric), b.items(metric)
    of_P = (shared.prompts_P, shared.weights_P)
    if min(len(one), len(other)) > 1:
        return contrast([one, other], [1, -1], *of_P), True
    return paired_difference(one.mean(0), other.mean(0), *of_P, draws), False


def _apart(a: RunGroup, b: RunGroup) -> int:
    """In how many keys two settings differ."""
    return sum(a.values[key] != b.values.get(key) for key in a.values)
