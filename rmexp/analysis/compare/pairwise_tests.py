"""Paired tests of two groups of runs, and their results in words."""

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
MAX_PERMUTATIONS = 99_999


@dataclass(frozen=True)
class PairVerdict:
    """Result of a test of A against B, where A has the better value.

    difference   mean of A minus mean of B
    p            Holm-corrected
    over_seeds   whether it holds for the configurations, over seeds, or only for these checkpoints
    """

    a: RunGroup
    b: RunGroup
    metric: str
    difference: Difference
    p: float
    over_seeds: bool

    @property
    def significant(self) -> bool:
        """Whether the corrected p is at most `ALPHA`."""
        return self.p <= ALPHA

    def sentence(self) -> str:
        """The result as a sentence."""
        d, a, b = self.difference, self._subject(self.a), self._subject(self.b)
        points = self.metric == "accuracy"
        scale, digits = (100, 1) if points else (1, 3)
        bounds = ("?" if math.isnan(x) else f"{scale * x:.{digits}f}" for x in (d.low, d.high))
        value = f"{scale * d.value:+.{digits}f}" + " points" * points
        figures = f"{value} [{', '.join(bounds)}], p={p_value(self.p)}"
        if self.significant:
            where = self._seeds() if self.over_seeds else " on these rows"
            test = f"n={d.items:,}, {d.method}"
            return f"{a} is better than {b}{where}: {self.metric} {figures} ({test})"
        return f"no detectable difference between {a} and {b} ({self._needed()}): {figures}"

    def _subject(self, group: RunGroup) -> str:
        if self.over_seeds:
            return group.name
        if len(group.runs) == 1:
            return f"checkpoint {group.name}"
        return f"the mean checkpoint of {group.name} ({len(group.runs)} seeds)"

    def _seeds(self) -> str:
        one, other = len(self.a.runs), len(self.b.runs)
        return f" over {one} seeds each" if one == other else f" over {one} and {other} seeds"

    def _needed(self) -> str:
        d = self.difference
        effect = (
            "1 point" if self.metric == "accuracy" else f"a difference of 0.01 in {self.metric}"
        )
        if d.prompts < MIN_CLUSTERS:
            return f"n={d.items:,} of {d.prompts} prompts, too few for any test"
        items, more = needed_items(d)
        if items is None:
            return f"n={d.items:,}, no pair tells them apart"
        if more == 1 and items <= d.items:
            return f"n={d.items:,}, enough to see {effect}"
        seeds = math.ceil(max(len(self.a.runs), len(self.b.runs)) * more)
        also = f" and {seeds} seeds each" if more > 1 else ""
        rounded = int(float(f"{items:.1e}"))  # two digits: it is a rough estimate
        return f"n={d.items:,}, you would need about n={rounded:,}{also} to see {effect}"


def p_value(p: float) -> str:
    """A p-value in two digits; very small ones as a bound."""
    if math.isnan(p):
        return "?"
    return f"{p:.2g}" if p >= 0.0001 else "<0.0001"


def test_pairs(
    ranked: Sequence[RunGroup], shared: Judgements, metric: str, which: RunPairs
) -> list[PairVerdict]:
    """Test each pair of interest.

    The best group is chosen on the rows that it is tested on, and whichever were best, its pairs
    would be tested: with `best`, Holm's family is therefore all pairs, of which these are shown.

    Args:
        ranked: the groups, best first.
        shared: the labelled pairs.
        metric: an itemwise metric.
        which: the best group against each other one; pairs that differ in one key (neighbours);
            or all pairs.
    """
    every = list(itertools.combinations(ranked, 2))
    pairs = {
        "best": [pair for pair in every if pair[0] is ranked[0]],
        "neighbours": [pair for pair in every if _count_differences(*pair) == 1],
        "all": every,
    }[which]
    family = len(pairs) if which == "neighbours" else len(every)
    draws = min(MAX_PERMUTATIONS, max(N_PERMUTATIONS, 100 * family - 1))
    found = [_difference(a, b, shared, metric, draws) for a, b in pairs]
    corrected = holm_correction([d.p for d, _ in found], family)
    return [
        PairVerdict(a, b, metric, d, p, over_seeds)
        for (a, b), (d, over_seeds), p in zip(pairs, found, corrected, strict=True)
    ]


def _difference(
    a: RunGroup, b: RunGroup, shared: Judgements, metric: str, draws: int
) -> tuple[Difference, bool]:
    """A minus B, and whether it covers seeds: with two or more of each."""
    one, other = a.items(metric), b.items(metric)
    of_P = (shared.prompts_P, shared.weights_P)
    if min(len(one), len(other)) > 1:
        return contrast([one, other], [1, -1], *of_P), True
    return paired_difference(one.mean(0), other.mean(0), *of_P, draws), False


def _count_differences(a: RunGroup, b: RunGroup) -> int:
    return sum(a.values[key] != b.values.get(key) for key in a.values)
