"""RMB: pairs, and best-of-N lists in which the best answer must beat every other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.benchmarks.base import BenchmarkResult, ScoredList, mean, usable, wins
from rmexp.evaluation.stats.bootstrap import Means, stratified

GOALS = ("Helpfulness", "Harmlessness")
"""What subsets begin with."""


RMB_KINDS = ("best_of_n", "pairwise")


@dataclass(frozen=True)
class RMBBenchmark:
    """`best_of_n`: the share of lists whose best answer beats every loser; `pairwise`: accuracy.

    A list is of three answers or more. `GOAL/best_of_n` and `GOAL/pairwise` for each goal, and
    `score`, the plain mean of these four where all are there. Source: Zhou et al. 2024,
    arXiv:2410.09893, https://github.com/Zhou-Zoey/RMB-Reward-Model-Benchmark.
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """The scores; subsets of no goal count for the totals only."""
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
                of = [
                    (means[n][..., 0], c) for n, c in zip(names, counts, strict=True) if kind in n
                ]
                if of:
                    parts, weights = zip(*of, strict=True)
                    scores[kind] = np.average(np.stack(parts), axis=0, weights=weights)
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
