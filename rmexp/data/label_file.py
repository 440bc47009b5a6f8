"""Files of suspected labels: rows `id pair wrong`, as task=inspect writes them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.source_keys import path_named
from rmexp.data.sources import BadRow, read_rows


@dataclass(frozen=True)
class SuspectedLabel:
    """A label that may be wrong.

    Attributes:
        id: of the comparison.
        pair: indices of the two responses, in any order; None: every pair of the comparison.
        wrong: probability that the label is wrong, 0..1; None: not known.
        content: see `pair_content`; None: the texts are not compared.
    """

    id: str
    pair: tuple[int, int] | None = None
    wrong: float | None = None
    content: str | None = None


def pair_content(prompt: str, better: str, worse: str) -> str:
    """What identifies a labelled pair, whatever its id.

    Args:
        prompt: `Comparison.prompt_key`.
        better, worse: of `Comparison.response_keys`.
    """
    return f"{prompt[:16]}/{better}/{worse}"


def check_labels(path: str, key: str) -> None:
    """Raise a UserError if the file, which the user named as `key`, does not exist."""
    if not Path(path).expanduser().is_file():
        raise UserError(f"{key}={path}: there is no such file of labels.")


def read_labels(path: str, key: str) -> list[SuspectedLabel]:
    """Read a file of suspected labels.

    Args:
        key: the key of the file, for messages.

    Raises:
        UserError: the file is missing or empty, or a row cannot be read.
    """
    check_labels(path, key)
    with path_named(key):
        found = [_entry(raw.row, f"{key}={path}: {raw.place}") for raw in read_rows(path)]
    if not found:
        raise UserError(f"{key}={path} has no rows.")
    return found


def _entry(row: Any, place: str) -> SuspectedLabel:
    if isinstance(row, BadRow):
        raise UserError(f"{place}: {row}.")
    if row.get("id") in (None, ""):
        example = json.dumps({"id": "row-1", "pair": [0, 1], "wrong": 0.9})
        raise UserError(f"{place} has no id: rows of labels are {example} (id alone is enough).")
    try:
        return SuspectedLabel(str(row["id"]), _pair(row), _wrong(row), row.get("content") or None)
    except (TypeError, ValueError):
        raise UserError(
            f"{place}: pair is {row.get('pair')!r} and wrong {row.get('wrong')!r}; they should be "
            "the indices of two responses, and a probability from 0 to 1."
        ) from None


def _pair(row: Mapping[str, Any]) -> tuple[int, int] | None:
    pair = row.get("pair")
    if pair is None or pair == "":
        return None
    i, j = json.loads(pair) if isinstance(pair, str) else pair
    return int(i), int(j)


def _wrong(row: Mapping[str, Any]) -> float | None:
    if row.get("wrong") in (None, ""):
        return None
    if not 0 <= (wrong := float(row["wrong"])) <= 1:
        raise ValueError
    return wrong
