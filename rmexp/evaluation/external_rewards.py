"""Rewards that somebody else computed: `id response reward` rows, as task=score writes them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError, note_fallback
from rmexp.data.sources import BadRow, read_rows
from rmexp.data.text_style import spoken
from rmexp.data.token_dataset import TOKEN_SCHEMA
from rmexp.evaluation.eval_sets import EvaluationSet, labels_of_row, scored_lists, suite_metrics
from rmexp.evaluation.metric_values import compute_metrics, slow_metrics
from rmexp.evaluation.scored_set import EVAL_COLUMNS, ScoredSet, eval_labels

REWARD_COLUMNS = ("id", "response", "reward")


EXAMPLES_SHOWN = 3
"""Ids named in a message; the rest is counted."""


Key = tuple[str, int]
"""A comparison's id, and which of its responses, from 0."""


def read_rewards(path: str) -> dict[Key, float]:
    """The reward of each response; null and NaN come as NaN.

    Raises:
        UserError: no such file, another column is missing, a row cannot be read, or one response
            has two rewards.
    """
    check_rewards(path)
    found: dict[Key, float] = {}
    for raw in read_rows(path):
        key, reward = _entry(raw.row, raw.place)
        if key in found and not _same(found[key], reward):
            raise UserError(
                f"{path}: response {key[1]} of {key[0]} has two rewards, "
                f"{found[key]} and {reward} ({raw.place})."
            )
        found[key] = reward
    if not found:
        raise UserError(f"{path} has no rows.")
    return found


def check_rewards(path: str) -> None:
    """Refuse a file that is not there.

    Raises:
        UserError: names it.
    """
    if not Path(path).expanduser().is_file():
        raise UserError(f"{path}: there is no such file of rewards.")


def _entry(row: Any, place: str) -> tuple[Key, float]:
    if isinstance(row, BadRow):
        raise UserError(f"{place}: {row}.")
    if missing := [name for name in REWARD_COLUMNS if name not in row]:
        raise UserError(
            f"{place} has no {' and no '.join(missing)}: rows of rewards are "
            + json.dumps({"id": "...", "response": 0, "reward": 1.5})
            + "."
        )
    try:
        reward = float("nan") if row["reward"] in (None, "") else float(row["reward"])
        return (str(row["id"]), int(row["response"])), reward
    except (TypeError, ValueError):
        raise UserError(
            f"{place}: response is {row['response']!r} and reward {row['reward']!r}; "
            "they should be a whole number and a number."
        ) from None


def _same(one: float, other: float) -> bool:
    return one == other or (math.isnan(one) and math.isnan(other))


def join_rewards(
    ids: Sequence[str], counts: Sequence[int], rewards: Mapping[Key, float]
) -> tuple[dict[int, list[float]], list[str]]:
    """The rewards of each comparison whose responses all have a finite one.

    Args:
        ids: of the comparisons, in their order.
        counts: how many responses each has.

    Returns:
        Place of the comparison -> its rewards, and sentences on what does not join.

    Raises:
        UserError: nothing joins.
    """
    found: dict[int, list[float]] = {}
    absent, unfinished = [], []
    for place, (name, count) in enumerate(zip(ids, counts, strict=True)):
        values = [rewards.get((name, k)) for k in range(count)]
        if any(value is None for value in values):
            absent.append(name)
        elif all(math.isfinite(value) for value in values if value is not None):
            found[place] = [value for value in values if value is not None]
        else:
            unfinished.append(name)
    if not found:
        theirs = sorted({name for name, _ in rewards})
        raise UserError(
            "No comparison has a reward for each of its responses. The data's ids are like "
            f"{', '.join(ids[:EXAMPLES_SHOWN])}; those of the rewards like "
            f"{', '.join(theirs[:EXAMPLES_SHOWN])}."
        )
    strangers = sorted({name for name, _ in rewards} - set(ids))
    said = [
        *_counted(absent, "comparisons have no reward for some response: they are left out"),
        *_counted(unfinished, "comparisons have a reward that is NaN or infinite: left out"),
        *_counted(strangers, "ids of the rewards are not in the data"),
    ]
    return found, said


def _counted(names: Sequence[str], what: str) -> Iterator[str]:
    if names:
        more = ", ..." if len(names) > EXAMPLES_SHOWN else ""
        yield f"{len(names)} {what} ({', '.join(names[:EXAMPLES_SHOWN])}{more})."


class ListedRewards(list[dict[str, Any]]):
    """Rows in memory, as `predictions.write_set` takes them."""

    def select(self, indices: Any) -> list[dict[str, Any]]:
        """Some of the rows."""
        return [self[int(index)] for index in indices]


@dataclass(frozen=True)
class ExternalRewards:
    """An evaluation set with rewards that were given.

    rows       see `evaluation.judged_row`, and `prompt`; lengths are in characters
    rewards    row -> a reward for each of its responses
    source     the file that they are from
    suite      whose scores are told as well; None: the set is no suite
    """

    name: str
    rows: ListedRewards
    rewards: dict[int, list[float]]
    source: str
    suite: EvaluationSet | None = None

    @cached_property
    def scored(self) -> ScoredSet:
        """The set as arrays; lengths are in characters."""
        features = datasets.Features({name: TOKEN_SCHEMA[name] for name in EVAL_COLUMNS})
        columns = {name: [row[name] for row in self.rows] for name in EVAL_COLUMNS}
        rows = datasets.Dataset.from_dict(columns, features=features)
        return eval_labels(rows, np.arange(len(self.rows))).with_rewards(self.rewards)

    def metrics(self) -> dict[str, float]:
        """Every metric that needs no model, by its full name."""
        values = compute_metrics(self.scored) | slow_metrics(self.scored)
        found = {f"{self.name}/{k}": value for k, value in values.items() if value == value}
        if self.suite is not None:
            found |= benchmark_rewards(self.suite, self.rows, list(self.rewards.values()))
        return found


def read_external_rewards(
    name: str,
    comparisons: Sequence[tuple[Comparison, float | None]],
    file: str,
    suite: EvaluationSet | None = None,
) -> ExternalRewards:
    """Join comparisons with the rewards in a file; what does not join is said, and left out.

    Beside each comparison stands the gap between ratings that makes a pair of it.

    Raises:
        UserError: the file cannot be read, or nothing joins.
    """
    ids, counts = zip(*((one.id, len(one.responses)) for one, _ in comparisons), strict=True)
    joined, notes = join_rewards(ids, counts, read_rewards(file))
    for note in notes:
        note_fallback(f"{name}: {note}")
    rows = ListedRewards(labels_of_row(*comparisons[place]) for place in joined)
    for row, place in zip(rows, joined, strict=True):
        row["prompt"] = spoken(comparisons[place][0].prompt)
    return ExternalRewards(name, rows, dict(enumerate(joined.values())), file, suite)


def benchmark_rewards(
    suite: EvaluationSet, rows: Any, rewards: Sequence[list[float]]
) -> dict[str, float]:
    """The publisher's scores; what they lack is said."""
    metrics, notes = suite_metrics(suite, scored_lists(rows, rewards))
    for note in notes:
        note_fallback(f"{suite.name}: {note}")
    return metrics
