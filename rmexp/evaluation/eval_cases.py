"""Sets to evaluate: rows and their rewards, whether a model scores them or a file brings them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from rmexp.core.errors import note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reward_file import read_rewards
from rmexp.evaluation.eval_sets import (
    EvaluationSet,
    OwnRows,
    SeveralSets,
    benchmark_data,
    expand_sets,
)
from rmexp.evaluation.external_rewards import join_rewards
from rmexp.evaluation.metric_values import slow_metrics
from rmexp.evaluation.scored_set import ScoredSet


@dataclass
class EvalCase:
    """A set to evaluate.

    Args:
        name: prefix of its metrics, and its split in `data`.
        data: the rows.
        scores: the file with their rewards; None: the model scores them.
        benchmark: None for rows of `data`.
        rewards: index of a row -> the reward of each response.
    """

    name: str
    data: ComparisonData
    scores: str | None
    benchmark: EvaluationSet | None = None
    rewards: Mapping[int, list[float]] = field(default_factory=dict)

    @property
    def indices(self) -> np.ndarray:
        """The rows of the split that have rewards."""
        rows = self.data.splits[self.name]
        return rows[[row in self.rewards for row in rows.tolist()]]

    def join(self) -> None:
        """Read the rewards from the file; what does not join is noted.

        Raises:
            UserError: the file cannot be read, or nothing joins.
        """
        assert self.scores is not None
        rows = self.data.splits[self.name]
        found = self.data.rows.select_columns(["id", "lengths"]).select(rows)
        counts = [len(lengths) for lengths in found["lengths"]]
        joined, notes = join_rewards(found["id"][:], counts, read_rewards(self.scores))
        for note in notes:
            note_fallback(f"{self.name}: {note}")
        self.rewards = {int(rows[n]): rewards for n, rewards in joined.items()}

    def slow_metrics(self, scored: ScoredSet) -> dict[str, float]:
        """Slow metrics and the benchmark's own scores, by their full names."""
        values = {f"{self.name}/{k}": v for k, v in slow_metrics(scored).items()}
        if self.benchmark is not None:
            rows = self.data.rows.select_columns(["id", "prompt_key", "subset", "rank_levels"])
            rewards = [self.rewards[row] for row in self.indices.tolist()]
            values |= self.benchmark.metrics(rows.select(self.indices), rewards)
        return values


def eval_cases(
    data: ComparisonData, evaluation: EvaluationSet | SeveralSets | OwnRows
) -> list[EvalCase]:
    """The cases of an `eval` option; the split of `eval=rows` is chosen later."""
    if isinstance(evaluation, OwnRows):
        return [EvalCase("", data, evaluation.scores)]
    several = isinstance(evaluation, SeveralSets)
    return [
        EvalCase(
            one.name,
            benchmark_data(one, data, f"eval.sets.{one.name}" if several else "eval"),
            one.scores,
            one,
        )
        for one in expand_sets(evaluation)
    ]
