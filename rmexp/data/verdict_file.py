"""Files of pairwise verdicts: rows `id first second winner`, as a judge model or a person gives."""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.reward_file import check_rewards
from rmexp.data.source_keys import path_named
from rmexp.data.sources import BadRow, read_rows

SHOWN_COLUMNS = ("id", "first", "second")

WINNERS = {"first": 1.0, "tie": 0.5, "second": 0.0, None: math.nan, "": math.nan}
"""Probability that the response that was shown first is better; NaN abstains."""

PairKey = tuple[str, int, int]
"""A comparison's id, and the indices of two of its responses, the lower one first."""


@dataclass(frozen=True)
class PairVerdicts:
    """The verdicts on a pair: each the probability that its lower index is better, NaN abstains.

    as_is     those that were shown the lower index first
    swapped   those that were shown it second
    """

    as_is: tuple[float, ...]
    swapped: tuple[float, ...]

    @property
    def probability(self) -> float:
        """That the lower index is better: the mean of both orders, NaN if all verdicts abstain."""
        known = [p for p in self.by_order if not math.isnan(p)]
        return sum(known) / len(known) if known else math.nan

    @property
    def by_order(self) -> tuple[float, float]:
        """Mean of the verdicts of each order, NaN where there is none."""
        return _mean(self.as_is), _mean(self.swapped)


def _mean(probabilities: tuple[float, ...]) -> float:
    known = [p for p in probabilities if not math.isnan(p)]
    return sum(known) / len(known) if known else math.nan


def is_verdict_file(path: str) -> bool:
    """Whether the rows of a file are verdicts; a UserError if it does not exist."""
    check_rewards(path)
    with path_named(None):
        row = next((raw.row for raw in itertools.islice(read_rows(path), 1)), None)
    return isinstance(row, Mapping) and {"first", "second"} <= set(row)


def read_verdicts(path: str) -> dict[PairKey, PairVerdicts]:
    """Read the verdicts on each pair of responses.

    A row has `id`, the indices `first` and `second` of the responses in the order in which the
    judge was shown them, and `winner` (first, second, tie, or null where the judge abstained) or
    `probability`, that of the first being better. A pair may have several rows.

    Raises:
        UserError: the file or a column is missing, or a row cannot be read.
    """
    check_rewards(path)
    found: dict[PairKey, tuple[list[float], list[float]]] = {}
    with path_named(None):
        for raw in read_rows(path):
            name, first, second, wins = _verdict(raw.row, raw.place)
            key = name, min(first, second), max(first, second)
            orders = found.setdefault(key, ([], []))
            orders[first > second].append(wins if first < second else 1 - wins)
    if not found:
        raise UserError(f"{path} has no rows.")
    return {key: PairVerdicts(*map(tuple, orders)) for key, orders in found.items()}


def _verdict(row: Any, place: str) -> tuple[str, int, int, float]:
    if isinstance(row, BadRow):
        raise UserError(f"{place}: {row}.")
    missing = [name for name in SHOWN_COLUMNS if name not in row]
    if not missing and not {"winner", "probability"} & set(row):
        missing = ["winner"]
    if missing:
        example = {"id": "...", "first": 0, "second": 1, "winner": "first"}
        raise UserError(
            f"{place} has no {' and no '.join(missing)}: rows of verdicts are "
            f"{json.dumps(example)}, or have a probability that the first is better."
        )
    try:
        first, second = int(row["first"]), int(row["second"])
    except (TypeError, ValueError):
        first = second = -1
    if first == second or min(first, second) < 0:
        raise UserError(
            f"{place}: first is {row['first']!r} and second {row['second']!r}; they should be the "
            "indices of two responses of the comparison, from 0."
        )
    return str(row["id"]), first, second, _probability(row, place)


def _probability(row: Mapping[str, Any], place: str) -> float:
    given = row.get("probability")
    if given not in (None, ""):
        try:
            value = float(given)
        except (TypeError, ValueError):
            value = -1.0
        if math.isnan(value) or 0 <= value <= 1:
            return value
        raise UserError(f"{place}: probability is {given!r}; it should be a number from 0 to 1.")
    winner = row.get("winner")
    if isinstance(winner, float) and math.isnan(winner):  # an empty cell
        winner = None
    if winner in WINNERS:
        return WINNERS[winner]
    raise UserError(
        f"{place}: winner is {winner!r}; it should be first, second, tie, or null where the judge "
        "abstained."
    )
