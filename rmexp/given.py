"""Rewards that are given: comparisons joined with a file of rewards, without model or tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import datasets
import numpy as np

from rmexp.comparisons import Comparison
from rmexp.errors import fallback
from rmexp.evaluation import EvaluationSet, judged_row, scored_lists, suite_metrics
from rmexp.metrics import evaluate, thorough
from rmexp.reward_files import join, read_rewards
from rmexp.scored import COLUMNS, Scored, judged
from rmexp.style import spoken
from rmexp.tokenised import FEATURES


class Listed(list[dict[str, Any]]):
    """Rows in memory, as `predictions.write_set` takes them."""

    def select(self, indices: Any) -> list[dict[str, Any]]:
        """Some of the rows."""
        return [self[int(index)] for index in indices]


@dataclass(frozen=True)
class Given:
    """An evaluation set with rewards that were given.

    rows       see `evaluation.judged_row`, and `prompt`; lengths are in characters
    rewards    row -> a reward for each of its responses
    source     the file that they are from
    suite      whose scores are told as well; None: the set is no suite
    """

    name: str
    rows: Listed
    rewards: dict[int, list[float]]
    source: str
    suite: EvaluationSet | None = None

    @cached_property
    def scored(self) -> Scored:
        """The set as arrays; lengths are in characters."""
        features = datasets.Features({name: FEATURES[name] for name in COLUMNS})
        columns = {name: [row[name] for row in self.rows] for name in COLUMNS}
        rows = datasets.Dataset.from_dict(columns, features=features)
        return judged(rows, np.arange(len(self.rows))).with_rewards(self.rewards)

    def metrics(self) -> dict[str, float]:
        """Every metric that needs no model, by its full name."""
        values = evaluate(self.scored) | thorough(self.scored)
        found = {f"{self.name}/{k}": value for k, value in values.items() if value == value}
        if self.suite is not None:
            found |= of_suite(self.suite, self.rows, list(self.rewards.values()))
        return found


def given(
    name: str,
    comparisons: Sequence[tuple[Comparison, float | None]],
    file: str,
    suite: EvaluationSet | None = None,
) -> Given:
    """Join comparisons with the rewards in a file; what does not join is said, and left out.

    Beside each comparison stands the gap between ratings that makes a pair of it.

    Raises:
        UserError: the file cannot be read, or nothing joins.
    """
    ids, counts = zip(*((one.id, len(one.responses)) for one, _ in comparisons), strict=True)
    joined, notes = join(ids, counts, read_rewards(file))
    for note in notes:
        fallback(f"{name}: {note}")
    rows = Listed(judged_row(*comparisons[place]) for place in joined)
    for row, place in zip(rows, joined, strict=True):
        row["prompt"] = spoken(comparisons[place][0].prompt)
    return Given(name, rows, dict(enumerate(joined.values())), file, suite)


def of_suite(suite: EvaluationSet, rows: Any, rewards: Sequence[list[float]]) -> dict[str, float]:
    """The publisher's scores; what they lack is said."""
    metrics, notes = suite_metrics(suite, scored_lists(rows, rewards))
    for note in notes:
        fallback(f"{suite.name}: {note}")
    return metrics
