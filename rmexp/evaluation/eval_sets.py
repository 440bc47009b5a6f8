"""Evaluation sets: where their comparisons come from, and how a benchmark scores them."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from rmexp.core.errors import UserError, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.reader import Format
from rmexp.data.row_source import RowSource
from rmexp.data.settings import SamplingSettings
from rmexp.data.splits import SingleSplit
from rmexp.data.tokenize_spec import TokenizeSpec
from rmexp.evaluation.benchmarks.base import ScoredList, Suite


@dataclass(frozen=True)
class EvaluationSet:
    """eval=NAME: the rows of a benchmark.

    Args:
        name: prefix of its metrics: `NAME/accuracy`.
        format: raw row -> Comparison; reads the publisher's rows or ours.
        path: file, directory or hub id.
        suite: scored comparisons -> the publisher's scores.
        scores: where the rewards come from in place of a model: a file of rewards or pairwise
            verdicts, a run, a sweep or a Hugging Face directory, or a list of these, which is an
            ensemble; None: the model scores the rows.
        limit: number of comparisons to take from the start; None takes all.
        on_bad_row: `raise` stops at bad rows, `skip` drops and counts them.
        max_bad_share: share of bad rows above which `skip` stops as well.
    """

    name: str
    format: Format
    path: str
    suite: Suite
    scores: str | list[str] | None = None
    limit: Annotated[int, Gt(0)] | None = None
    on_bad_row: Literal["raise", "skip"] = "raise"
    max_bad_share: Annotated[float, Ge(0), Le(1)] = 0.01

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/ "):
            raise UserError(f"eval.name={self.name!r}: metrics begin with it; no blank and no /.")

    def metrics(
        self, rows: Iterable[Mapping[str, Any]], rewards: Sequence[Sequence[float]]
    ) -> dict[str, float]:
        """The benchmark's own scores (`NAME/score`, `_low`, `_high`); what they lack is noted."""
        result = self.suite(scored_lists(rows, rewards))
        for note in result.notes:
            note_fallback(f"{self.name}: {note}")
        found: dict[str, float] = {}
        for name, estimate in result.scores.items():
            found |= estimate.named(f"{self.name}/{name}")
        return {name: value for name, value in found.items() if value == value}


def benchmark_data(evaluation: EvaluationSet, like: ComparisonData, key: str) -> ComparisonData:
    """An evaluation set as data: one split with the set's name, nothing to train on.

    Args:
        evaluation: where the rows come from.
        like: takes the longest row, the batch sizes and the cache from this data.
        key: what the user types before the keys of the set.
    """
    spec = TokenizeSpec(
        {"test": evaluation.path},  # whatever a column split of the publisher means
        evaluation.format,
        evaluation.limit,
        evaluation.on_bad_row,
        evaluation.max_bad_share,
        min_rating_gap=None,
        max_length=like.source.max_length,
    )
    source = RowSource(spec, (), like.cache, key)
    return ComparisonData(source, SingleSplit(evaluation.name), SamplingSettings(), like.batching)


@dataclass(frozen=True)
class OwnRows:
    """eval=rows: the rows of `data` (the run's own test rows, or those of other data).

    Args:
        scores: see `EvaluationSet`.
    """

    scores: str | list[str] | None = None


@dataclass(frozen=True)
class SeveralSets:
    """eval=several: several evaluation sets, each under its own name.

    Args:
        sets: name -> evaluation set.
    """

    sets: Mapping[str, EvaluationSet]

    def __post_init__(self) -> None:
        if not self.sets:
            raise UserError(
                "eval=several has no sets: add each as +eval@eval.sets.NAME=OPTION with "
                "eval.sets.NAME.path=FILE, or write them into a YAML."
            )


def expand_sets(evaluation: EvaluationSet | SeveralSets | OwnRows) -> list[EvaluationSet]:
    """The benchmarks of an `eval` option; none for `eval=rows`."""
    if isinstance(evaluation, OwnRows):
        return []
    if isinstance(evaluation, EvaluationSet):
        return [evaluation]
    return [dataclasses.replace(one, name=name) for name, one in evaluation.sets.items()]


def named_scores(one: EvaluationSet | OwnRows) -> list[str]:
    """The sources of rewards that `eval.scores` names; none: the model scores the rows."""
    return [one.scores] if isinstance(one.scores, str) else list(one.scores or [])


def scored_lists(
    rows: Iterable[Mapping[str, Any]], rewards: Sequence[Sequence[float]]
) -> list[ScoredList]:
    """Rows of a `TokenTable` with their rewards, as benchmarks take them."""
    return [
        ScoredList(
            id=row["id"],
            prompt=row["prompt_key"],
            subset=row["subset"],
            rewards=np.asarray(values, dtype=np.float64),
            levels=np.asarray(row["rank_levels"]),
            ratings=np.asarray(row["ratings"], dtype=np.float64),
        )
        for row, values in zip(rows, rewards, strict=True)
    ]
