"""An evaluation set: where its comparisons come from, and how they are scored."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Gt, Le

from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.core.errors import UserError
from rmexp.data.reader import Format, RowReport, check_bad_rows, read_comparisons
from rmexp.data.text_style import spoken, text_style
from rmexp.evaluation.benchmarks.base import ScoredList, Suite


@dataclass(frozen=True)
class EvaluationSet:
    """eval=NAME: the rows of a suite.

    Args:
        name: what its metrics begin with: `NAME/accuracy`.
        format: raw row -> Comparison; the publisher's rows, or ours.
        path: file, directory or hub id.
        suite: scored comparisons -> the publisher's scores.
        scores: a file of rewards (`id`, `response`, `reward`) to judge in place of a model's; None:
            the checkpoint scores the rows.
        limit: comparisons taken, from the start; None: all.
        on_bad_row: `raise` stops at bad rows, `skip` leaves them out, counted.
        max_bad_share: share of bad rows above which `skip` stops as well.
    """

    name: str
    format: Format
    path: str
    suite: Suite
    scores: str | None = None
    limit: Annotated[int, Gt(0)] | None = None
    on_bad_row: Literal["raise", "skip"] = "raise"
    max_bad_share: Annotated[float, Ge(0), Le(1)] = 0.01

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/ "):
            raise UserError(f"eval.name={self.name!r}: metrics begin with it; no blank and no /.")

    def read(self) -> tuple[list[Comparison], RowReport]:
        """All comparisons, without a tokenizer: for rewards that are there already.

        Raises:
            UserError: the source or too many of its rows cannot be used.
        """
        report = RowReport()
        found = list(read_comparisons({None: self.path}, self.format, report, self.limit))
        check_bad_rows(report, self.on_bad_row, self.max_bad_share, "eval")
        report.kept = len(found)
        return found, report


@dataclass(frozen=True)
class OwnRows:
    """eval=rows: what `data` says (the run's own test rows, or those of other data).

    Args:
        scores: a file of rewards to judge in place of a model's.
    """

    scores: str | None = None


@dataclass(frozen=True)
class SeveralSets:
    """eval=several: a set each under its own name, so that none overwrites another.

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
    """The suites of an `eval` option; none where the data's own rows are meant."""
    if isinstance(evaluation, OwnRows):
        return []
    if isinstance(evaluation, EvaluationSet):
        return [evaluation]
    return [dataclasses.replace(one, name=name) for name, one in evaluation.sets.items()]


def labels_of_row(comparison: Comparison, min_rating_gap: float | None = None) -> dict[str, Any]:
    """What people said of a comparison, in the columns of `tokenised.FEATURES`.

    `lengths` are in characters here: there is no tokenizer.
    """
    levels = [-1 if level is None else level for level in comparison.levels()]
    if min_rating_gap is not None:
        comparison = pairs_from_ratings(comparison, min_rating_gap)
    judged = [j if j.verdict >= 0 else j.flipped() for j in comparison.judgements]
    ratings = comparison.ratings or (None,) * len(comparison.responses)
    return {
        "id": comparison.id,
        "subset": comparison.subset,
        "prompt_key": comparison.prompt_key,
        "ratings": [np.nan if r is None else r for r in ratings],
        "pairs": [[j.i, j.j, j.verdict] for j in judged],
        "weights": [j.weight for j in judged],
        "weight": comparison.weight,
        "levels": levels,
        "lengths": [len(spoken(response)) for response in comparison.responses],
        "style": [text_style(response) for response in comparison.responses],
        "texts": [spoken(response) for response in comparison.responses],
    }


def scored_lists(
    rows: Iterable[Mapping[str, Any]], rewards: Sequence[Sequence[float]]
) -> list[ScoredList]:
    """Rows (tokenised ones, or `labels_of_row`s) with their rewards, as suites take them."""
    return [
        ScoredList(
            id=row["id"],
            prompt=row["prompt_key"],
            subset=row["subset"],
            rewards=np.asarray(values, dtype=np.float64),
            levels=np.asarray(row["levels"]),
        )
        for row, values in zip(rows, rewards, strict=True)
    ]


def suite_metrics(
    evaluation: EvaluationSet, lists: Sequence[ScoredList]
) -> tuple[dict[str, float], list[str]]:
    """The suite's scores as metrics (`NAME/score`, `_low`, `_high`), and its notes."""
    result = evaluation.suite(lists)
    metrics: dict[str, float] = {}
    for name, estimate in result.scores.items():
        metrics |= estimate.named(f"{evaluation.name}/{name}")
    return {k: v for k, v in metrics.items() if v == v}, result.notes
