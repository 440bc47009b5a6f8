"""Files of rewards: rows `id response reward`, as task=score writes them."""

import json
import math
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.source_keys import path_named
from rmexp.data.sources import BadRow, read_rows

REWARD_COLUMNS = ("id", "response", "reward")

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
    with path_named(None):
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
    """Check that a file exists.

    Raises:
        UserError: it does not, or is a directory.
    """
    if Path(path).expanduser().is_dir():
        raise UserError(
            f"{path} is a directory, not a file of rewards: those of a run, or of several as an "
            "ensemble, are written by task=score (checkpoint=RUN or checkpoint=[RUN,RUN])."
        )
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
