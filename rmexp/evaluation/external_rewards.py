"""Comparisons joined with rewards from files."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from rmexp.core.errors import UserError
from rmexp.data.reward_file import ResponseKey, read_rewards
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.calibration import Calibration, own_scale

EXAMPLES_SHOWN = 3
"""Maximum number of ids in a message."""


ReadRewards = Callable[[str], tuple[Mapping[ResponseKey, float], Calibration | None]]
"""The rewards that a name of `eval.scores` stands for, and the scale that they have on val."""


def read_file(path: str) -> tuple[Mapping[ResponseKey, float], None]:
    """The rewards of a file, which knows no scale; see `ReadRewards` and `read_rewards`."""
    return read_rewards(path), None


def read_all_rewards(
    scores: Sequence[str], how: Aggregation, read: ReadRewards = read_file
) -> Mapping[ResponseKey, float]:
    """The rewards of one source, or of several as an ensemble.

    A member is standardised by its scale on val, or by itself where it has none. A response that
    some member lacks has no reward.

    Raises:
        UserError: see `read`; or there is no response that all members have.
    """
    members = [read(one) for one in scores]
    if len(members) == 1:
        return members[0][0]
    keys = [key for key in members[0][0] if all(key in known for known, _ in members[1:])]
    if not keys:
        raise UserError(f"eval.scores: {' and '.join(scores)} have no response in common.")
    scaled = [_scaled([known[key] for key in keys], scale) for known, scale in members]
    return dict(zip(keys, how(np.stack(scaled)).tolist(), strict=True))


def _scaled(rewards: Sequence[float], scale: Calibration | None) -> np.ndarray:
    rewards_N = np.array(rewards, dtype=np.float64)
    return (scale or own_scale(rewards_N)).normalised(rewards_N)


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
