"""RM-Bench: each answer in three styles; does style outweigh substance?"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.benchmarks.base import (
    BenchmarkResult,
    ScoredList,
    estimate_scores,
    mean,
    missing_rows,
    usable,
)
from rmexp.evaluation.stats.bootstrap import Means

RM_BENCH_DOMAINS = {
    "chat": ("chat",),
    "code": ("code",),
    "math": ("math",),
    "safety": ("safety-refuse", "safety-response"),
}
"""Domain -> the publishers' subsets. Safety is the unweighted mean of its two."""

STYLES = 3
"""Concise, detailed in plain text, detailed in markdown, in this order on both sides."""


@dataclass(frozen=True)
class RMBench:
    """`DOMAIN/easy`, `/normal`, `/hard` and `/score`, and the same over the four domains.

    `A[i][j]` = P(chosen in style i outscores rejected in style j). Hard is the mean above the
    diagonal (the rejected answer has the fancier style), normal the diagonal, easy below it; a
    domain's score is the mean of the three. Source: Liu et al. 2024, arXiv:2410.16184,
    https://github.com/THU-KEG/RM-Bench.
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score comparisons with three chosen and three rejected answers, in that order."""
        kept, notes = usable(lists)
        whole = [one for one in kept if one.levels.tolist() == [1] * STYLES + [0] * STYLES]
        if len(whole) < len(kept):
            notes.append(
                f"{len(kept) - len(whole)} comparisons do not have three chosen and three rejected "
                "answers: they have no styles, and are left out of easy, normal and hard."
            )
        there = {one.subset for one in whole}
        for domain, subsets in RM_BENCH_DOMAINS.items():
            notes += missing_rows(subsets, tuple(there), f"{domain} domain:", f"{domain}/score")
        known = [one for one in whole if one.subset in sum(RM_BENCH_DOMAINS.values(), ())]
        return BenchmarkResult(estimate_scores(known, _wins, _combine) if known else {}, notes)


def _wins(one: ScoredList) -> np.ndarray:
    """Easy, normal and hard of one comparison."""
    wins = (one.good[:, None] > one.bad).astype(np.float64)
    apart = STYLES * (STYLES - 1) / 2
    return np.array(
        [np.tril(wins, -1).sum() / apart, np.trace(wins) / STYLES, np.triu(wins, 1).sum() / apart]
    )


def _combine(means: Means) -> dict[str, np.ndarray]:
    domains = {
        domain: mean([means[name] for name in subsets])
        for domain, subsets in RM_BENCH_DOMAINS.items()
        if all(name in means for name in subsets)
    }
    groups = {f"{domain}/": values for domain, values in domains.items()}
    if len(domains) == len(RM_BENCH_DOMAINS):
        groups[""] = mean(list(domains.values()))
    scores = {}
    for prefix, values in groups.items():
        for column, name in enumerate(("easy", "normal", "hard")):
            scores[prefix + name] = values[..., column]
        scores[f"{prefix}score"] = values.mean(-1)
    return scores
