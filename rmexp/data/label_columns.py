"""The columns of `token_dataset.TOKEN_SCHEMA` that hold the labels of a comparison."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rmexp.comparison import PreferenceLabel

LABEL_COLUMNS = (
    *("pairs", "margins", "votes", "weights", "rank_levels", "judged", "tied", "voted", "ranked"),
    *("without_margin", "without_ratings", "longer_wins", "shorter_wins"),
)


def label_columns(
    judgements: Sequence[PreferenceLabel],
    levels: Sequence[int | None],
    ratings: Sequence[float],
    lengths: Sequence[int],
) -> dict[str, Any]:
    """The values of `LABEL_COLUMNS`.

    Args:
        levels: rank level of each response, see `Comparison.rank_levels`.
        ratings: of each response, NaN where unrated.
        lengths: tokens of each response with its prompt.
    """
    judged = [j if j.label >= 0 else j.flipped() for j in judgements]
    labels, shares = [j.label for j in judged], [j.shares for j in judged]
    strict = [j for j, label in zip(judged, labels, strict=True) if label]
    levels = [-1 if level is None else level for level in levels]
    return {
        "pairs": [[j.i, j.j, label] for j, label in zip(judged, labels, strict=True)],
        "margins": [np.nan if j.margin is None else j.margin for j in judged],
        "votes": shares,
        "weights": [j.weight for j in judged],
        "rank_levels": levels,
        "judged": len(strict),
        "tied": len(judged) - len(strict),
        "voted": sum(max(votes) < 1 for votes in shares),
        "ranked": len(set(levels) - {-1}),
        "without_margin": sum(j.margin is None for j in strict),
        "without_ratings": sum(not ratings[j.i] - ratings[j.j] > 0 for j in strict),
        "longer_wins": sum(lengths[j.i] > lengths[j.j] for j in strict),
        "shorter_wins": sum(lengths[j.i] < lengths[j.j] for j in strict),
    }


def stored_judgements(row: Mapping[str, Any]) -> list[PreferenceLabel]:
    """The judgements of a row with `LABEL_COLUMNS`; votes are shares."""
    margins = [None if margin != margin else margin for margin in row["margins"]]
    each = zip(row["pairs"], row["votes"], margins, row["weights"], strict=True)
    return [
        PreferenceLabel(i, j, votes[0], votes[1], votes[2], margin, weight)
        for (i, j, _), votes, margin, weight in each
    ]
