"""Common parts of benchmarks: scored comparisons, and scores that combine subsets' means."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmexp.evaluation.stats.bootstrap import Estimate, Means, stratified


@dataclass(frozen=True)
class ScoredList:
    """A comparison with the rewards of its K responses.

    Args:
        id: of the comparison.
        prompt: comparisons with equal prompts form a cluster.
        subset: of the benchmark.
        rewards: (K,) finite.
        levels: (K,) rank level, 0 the worst; -1 unranked.
        ratings: (K,) NaN where unrated.
    """

    id: str
    prompt: str
    subset: str
    rewards: np.ndarray
    levels: np.ndarray
    ratings: np.ndarray

    @property
    def good(self) -> np.ndarray:
        """Rewards of the best responses."""
        return self.rewards[self.levels == self.levels.max()].astype(np.float64)

    @property
    def bad(self) -> np.ndarray:
        """Rewards of all worse ones."""
        worse = (self.levels >= 0) & (self.levels < self.levels.max())
        return self.rewards[worse].astype(np.float64)


@dataclass
class BenchmarkResult:
    """Scores by name, and sentences on rows that they leave out."""

    scores: dict[str, Estimate] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


Suite = Callable[[Sequence[ScoredList]], BenchmarkResult]


def usable(lists: Sequence[ScoredList]) -> tuple[list[ScoredList], list[str]]:
    """The comparisons with finite rewards and with good and bad responses; notes on the others."""
    finite = [one for one in lists if np.isfinite(one.rewards).all()]
    labelled = [one for one in finite if len(one.bad)]
    lost = {
        "have a reward that is no finite number": len(lists) - len(finite),
        "have no better and worse response": len(finite) - len(labelled),
    }
    return labelled, [f"{n} comparisons {why}: they are left out." for why, n in lost.items() if n]


def estimate_scores(
    lists: Sequence[ScoredList],
    columns: Callable[[ScoredList], Any],
    combine: Callable[[Means], dict[str, np.ndarray]],
) -> dict[str, Estimate]:
    """Estimate scores from the subsets' means of each comparison's values, clustered by prompt."""
    values = [np.atleast_1d(np.asarray(columns(one), dtype=np.float64)) for one in lists]
    return stratified(
        np.stack(values),
        np.array([one.subset for one in lists]),
        np.array([one.prompt for one in lists]),
        combine,
    )


def as_metric_names(scores: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Spell names as metrics do: `Chat Hard/score` becomes `chat_hard/score`."""
    return {name.lower().replace(" ", "_"): value for name, value in scores.items()}


def missing_rows(wanted: Sequence[str], there: Sequence[str], what: str, score: str) -> list[str]:
    """A note if rows that a score needs are missing."""
    missing = [name for name in wanted if name not in there]
    return [f"No rows of the {what} {', '.join(missing)}: {score} is left out."] if missing else []


def mean(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Unweighted mean of scores."""
    return np.mean(np.stack(parts), axis=0)


def wins(one: ScoredList) -> float:
    """Share of (good, bad) pairs whose good response has the higher reward; ties do not count."""
    return float((one.good[:, None] > one.bad).mean())


def ties(one: ScoredList) -> float:
    """Share of (good, bad) pairs with equal rewards."""
    return float((one.good[:, None] == one.bad).mean())


@dataclass(frozen=True)
class PairBenchmark:
    """Pair accuracy: `accuracy` and `tie_rate` over all comparisons, `SUBSET/accuracy` of each.

    Scores JudgeBench (Tan et al. 2024, arXiv:2410.12784; a scalar model sees one order), LLMBar
    (Zeng et al. 2023, arXiv:2310.07641), PPE's preferences (Frick et al. 2024, arXiv:2410.14872)
    and M-RewardBench (Gureja et al. 2024, arXiv:2410.15522; accuracy by language).
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score; a comparison counts once, regardless of its number of pairs."""
        kept, notes = usable(lists)
        if not kept:
            return BenchmarkResult({}, notes)
        names, counts = np.unique([one.subset for one in kept], return_counts=True)

        def combine(means: Means) -> dict[str, np.ndarray]:
            parts = np.stack([means[name] for name in names])
            whole = np.average(parts, axis=0, weights=counts)
            scores = {"accuracy": whole[..., 0], "tie_rate": whole[..., 1]}
            if len(names) > 1:
                scores |= {f"{name}/accuracy": means[name][..., 0] for name in names}
            return scores

        return BenchmarkResult(
            estimate_scores(kept, lambda one: [wins(one), ties(one)], combine), notes
        )
