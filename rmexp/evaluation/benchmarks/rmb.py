"""RMB: pairs, and best-of-N lists in which the best answer must beat every other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.benchmarks.base import BenchmarkResult, ScoredList, mean, usable, wins
from rmexp.evaluation.stats.bootstrap import Means, stratified

GOALS = ("Helpfulness", "Harmlessness")
"""Prefixes of subsets."""

RMB_KINDS = ("best_of_n", "pairwise")


@dataclass(frozen=True)
class RMBBenchmark:
    """`best_of_n`: share of lists whose best answer beats every other one; `pairwise`: accuracy.

    Lists have three answers or more. Also `GOAL/best_of_n` and `GOAL/pairwise` for each goal, and
    `score`, the mean of these four if all are present. Source: Zhou et al. 2024, arXiv:2410.09893,
    https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark.
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score; subsets without a goal count for the totals only."""
        kept, notes = usable(lists)
        if not kept:
            return BenchmarkResult({}, notes)
        strata = np.array([f"{_goal(one)}/{_kind(one)}" for one in kept])
        names, counts = np.unique(strata, return_counts=True)
        wanted = [f"{goal.lower()}/{kind}" for goal in GOALS for kind in RMB_KINDS]
        if missing := [name for name in wanted if name not in names]:
            notes.append(f"No rows for {', '.join(missing)}: score is left out.")

        def combine(means: Means) -> dict[str, np.ndarray]:
            scores = {name: means[name][..., 0] for name in names if name in wanted}
            for kind in RMB_KINDS:
                here = [kind in name for name in names]
                if any(here):
                    parts = np.stack([means[name][..., 0] for name in names[here]])
                    scores[kind] = np.average(parts, axis=0, weights=counts[here])
            if not missing:
                scores["score"] = mean([scores[name] for name in wanted])
            return scores

        passed = np.array([[float(wins(one) == 1)] for one in kept])
        prompts = np.array([one.prompt for one in kept])
        return BenchmarkResult(stratified(passed, strata, prompts, combine), notes)


def _kind(one: ScoredList) -> str:
    return RMB_KINDS[0] if (one.levels >= 0).sum() > 2 else RMB_KINDS[1]


def _goal(one: ScoredList) -> str:
    goal = one.subset.split(".")[0]
    return goal.lower() if goal in GOALS else "other"
