"""Neighbouring rows of a source that are one row of its format."""

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Any

from rmexp.data.sources import BadRow, RawRow


def grouped_rows(rows: Iterable[RawRow], column: str | None) -> Iterator[RawRow]:
    """Merge neighbours with an equal value of a column into one row with lists in all columns.

    Args:
        column: None leaves the rows as they are. Bad rows, and rows that have nothing there, are
            groups of their own.
    """
    if column is None:
        yield from rows
        return
    for _, group in groupby(enumerate(rows), lambda found: _key(found[0], found[1], column)):
        members = [raw for _, raw in group]
        parts = [raw.row for raw in members if not isinstance(raw.row, BadRow)]
        if not parts:
            yield members[0]
            continue
        names = dict.fromkeys(name for part in parts for name in part)
        merged = {name: [part.get(name) for part in parts] for name in names}
        yield RawRow(members[0].place, merged, members[0].split)


def _key(number: int, raw: RawRow, column: str) -> Any:
    value = None if isinstance(raw.row, BadRow) else raw.row.get(column)
    return ("row", number) if value is None else ("group", str(value))
