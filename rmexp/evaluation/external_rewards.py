"""Comparisons joined with rewards from files."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from rmexp.core.errors import UserError
from rmexp.data.reward_file import ResponseKey, read_rewards
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.calibration import own_scale

EXAMPLES_SHOWN = 3
"""Maximum number of ids in a message."""


def read_all_rewards(scores: str | Sequence[str], how: Aggregation) -> dict[ResponseKey, float]:
    """The rewards of a file, or of several as an ensemble: each is standardised by itself.

    A response that some file lacks has none.

    Raises:
        UserError: see `read_rewards`; or there is no response that all files have.
    """
    if isinstance(scores, str):
        return read_rewards(scores)
    members = [read_rewards(file) for file in scores]
    keys = [key for key in members[0] if all(key in other for other in members[1:])]
    if not keys:
        raise UserError(f"eval.scores: {' and '.join(scores)} have no response in common.")
    values_M_N = [np.array([known[key] for key in keys], dtype=np.float64) for known in members]
    scaled_M_N = np.stack([own_scale(one).normalised(one) for one in values_M_N])
    return dict(zip(keys, how(scaled_M_N).tolist(), strict=True))


def join_rewards(
    ids: Sequence[str], counts: Sequence[int], rewards: Mapping[ResponseKey, float]
) -> tuple[dict[int, list[float]], list[str]]:
    """Join comparisons with their rewards; keep those whose responses all have a finite reward.

    Args:
        ids: ids of the comparisons.
        counts: number of responses of each comparison.
        rewards: see `read_rewards`.

    Returns:
        Index of the comparison -> its rewards, and sentences on what does not join.

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
    notes = [
        *counted(absent, "comparisons have no reward for some response: they are left out"),
        *counted(unfinished, "comparisons have a reward that is NaN or infinite: left out"),
        *counted(strangers, "ids of the rewards are not in the data"),
    ]
    return found, notes


def counted(names: Sequence[str], what: str) -> Iterator[str]:
    """A sentence with the number of names and the first of them, if there are any."""
    if names:
        more = ", ..." if len(names) > EXAMPLES_SHOWN else ""
        yield f"{len(names)} {what} ({', '.join(names[:EXAMPLES_SHOWN])}{more})."
