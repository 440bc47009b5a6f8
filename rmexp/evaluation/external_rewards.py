"""Rewards from a file: rows `id response reward`, as task=score writes them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources import BadRow, read_rows

REWARD_COLUMNS = ("id", "response", "reward")

EXAMPLES_SHOWN = 3
"""Maximum number of ids in a message."""

ResponseKey = tuple[str, int]
"""A comparison's id, and the index of one of its responses."""


def read_rewards(path: str) -> dict[ResponseKey, float]:
    """Read the reward of each response; null is read as NaN.

    Raises:
        UserError: the file or a column is missing, a row cannot be read, or a response has two
            rewards.
    """
    check_rewards(path)
    found: dict[ResponseKey, float] = {}
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
    """Raise a UserError if the file does not exist."""
    if not Path(path).expanduser().is_file():
        raise UserError(f"{path}: there is no such file of rewards.")


def _entry(row: Any, place: str) -> tuple[ResponseKey, float]:
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
        *_counted(absent, "comparisons have no reward for some response: they are left out"),
        *_counted(unfinished, "comparisons have a reward that is NaN or infinite: left out"),
        *_counted(strangers, "ids of the rewards are not in the data"),
    ]
    return found, notes


def _counted(names: Sequence[str], what: str) -> Iterator[str]:
    if names:
        more = ", ..." if len(names) > EXAMPLES_SHOWN else ""
        yield f"{len(names)} {what} ({', '.join(names[:EXAMPLES_SHOWN])}{more})."
