"""Sets to evaluate: rows and their rewards, whether a model scores them or a file brings them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rmexp.core.errors import note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.verdict_file import is_verdict_file, read_verdicts
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.eval_sets import (
    EvaluationSet,
    OwnRows,
    SeveralSets,
    benchmark_data,
    expand_sets,
    named_scores,
)
from rmexp.evaluation.external_rewards import (
    ReadRewards,
    join_rewards,
    read_all_rewards,
    read_file,
)
from rmexp.evaluation.external_verdicts import Verdicts, join_verdicts, with_verdicts
from rmexp.evaluation.metric_values import slow_metrics
from rmexp.evaluation.scored_set import HeadOutputs, ScoredSet, eval_labels


@dataclass
class EvalCase:
    """A set to evaluate.

    Args:
        name: prefix of its metrics, and its split in `data`.
        data: the rows.
        scores: where their rewards or verdicts come from, several of which are an ensemble; none:
            the model scores them.
        how: of an ensemble.
        benchmark: None for rows of `data`.
        rewards: index of a row -> the reward of each response.
        outputs: of the head that gave them.
        verdicts: in place of rewards, of the rows `joined`.
    """

    name: str
    data: ComparisonData
    scores: Sequence[str]
    how: Aggregation
    benchmark: EvaluationSet | None = None
    rewards: Mapping[int, list[float]] = field(default_factory=dict)
    outputs: HeadOutputs | None = None
    verdicts: Verdicts | None = None
    joined: frozenset[int] = frozenset()

    @property
    def indices(self) -> np.ndarray:
        """The rows of the split that have rewards or verdicts."""
        rows, known = self.data.splits[self.name], self.rewards.keys() | self.joined
        return rows[[row in known for row in rows.tolist()]]

    def join(self, read: ReadRewards = read_file) -> None:
        """Read the rewards or verdicts; what does not join is noted.

        Raises:
            UserError: they cannot be read, or nothing joins.
        """
        first, rows = self.scores[0], self.data.splits[self.name]
        found = self.data.rows.select_columns(["id", "lengths", "pairs"]).select(rows)
        ids, counts = found["id"][:], [len(lengths) for lengths in found["lengths"]]
        if len(self.scores) == 1 and Path(first).expanduser().is_file() and is_verdict_file(first):
            self.verdicts = read_verdicts(first)
            kept, notes = join_verdicts(ids, counts, found["pairs"], self.verdicts)
            self.joined = frozenset(int(rows[n]) for n in kept)
        else:
            known = read_all_rewards(self.scores, self.how, read)
            joined, notes = join_rewards(ids, counts, known)
            self.rewards = {int(rows[n]): rewards for n, rewards in joined.items()}
        for note in notes:
            note_fallback(f"{self.name}: {note}")

    def scored(self) -> ScoredSet:
        """Labels with the rewards or verdicts."""
        labels = eval_labels(self.data.rows, self.indices)
        if self.verdicts is None:
            return labels.with_rewards(self.rewards, self.outputs)
        ids = self.data.rows.select_columns(["id"]).select(self.indices)["id"][:]
        return with_verdicts(labels, ids, self.verdicts)

    def slow_metrics(self, scored: ScoredSet) -> dict[str, float]:
        """Slow metrics and the benchmark's own scores, by their full names."""
        values = {f"{self.name}/{k}": v for k, v in slow_metrics(scored).items()}
        if self.benchmark is not None:
            columns = ["id", "prompt_key", "subset", "rank_levels", "ratings"]
            rows = self.data.rows.select_columns(columns)
            if self.verdicts is None:
                rewards = [self.rewards[row] for row in self.indices.tolist()]
            else:  # no row is dropped
                ends = np.searchsorted(scored.rows_N, np.arange(1, len(scored.items_C)))
                rewards = [part.tolist() for part in np.split(scored.rewards_N, ends)]
            values |= self.benchmark.metrics(rows.select(self.indices), rewards)
        return values


def eval_cases(
    data: ComparisonData, evaluation: EvaluationSet | SeveralSets | OwnRows, how: Aggregation
) -> list[EvalCase]:
    """The cases of an `eval` option; the split of `eval=rows` is chosen later.

    Args:
        how: several sources of rewards become one.
    """
    if isinstance(evaluation, OwnRows):
        return [EvalCase("", data, named_scores(evaluation), how)]
    several = isinstance(evaluation, SeveralSets)
    return [
        EvalCase(
            one.name,
            benchmark_data(one, data, f"eval.sets.{one.name}" if several else "eval"),
            named_scores(one),
            how,
            one,
        )
        for one in expand_sets(evaluation)
    ]
