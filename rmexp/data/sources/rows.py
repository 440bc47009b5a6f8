"""Raw rows, how they are read, and the limits that hold for every container."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rmexp.core.errors import UserError

MAX_ROW_BYTES = 2**26
"""A larger row is bad: a file of a few kilobytes may hold a row of gigabytes."""

MAX_NESTING = 100
"""Lists and objects within each other; deeper rows are bad."""

Note = Callable[[str], None]
"""Takes a sentence on how a source was read."""


class BadRow(Exception):
    """A row that cannot be used; the message is the reason."""


class LeftOut(Exception):
    """A valid row that is not wanted or has no labels; the message is the cause."""


@dataclass(frozen=True)
class RawRow:
    """A row as in the source, and its place: `file:line` or `name[split]:index`."""

    place: str
    row: dict[str, Any] | BadRow
    split: str | None = None


@dataclass(frozen=True)
class ReadOptions:
    """What the user says about a source.

    Args:
        encoding: of text files; None: UTF-8, or UTF-16 and UTF-32 where they show.
        split_names: split name of the source -> train, val, test, or None to leave its rows out.
    """

    encoding: str | None = None
    split_names: Mapping[str, str | None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, UnicodeError):
            raise UserError(
                f"data.encoding={self.encoding}: Python knows no such encoding of text; "
                "e.g. utf-8, gb18030, big5, shift_jis, cp1252."
            ) from None


def find_flaw(row: Mapping[str, Any]) -> BadRow | None:
    """What makes a row unusable in any format: deep nesting, or text that is not Unicode."""
    for name in row:
        if not _is_unicode(name):
            return BadRow(f"the name of a column is not valid Unicode ({name!a:.60})")
    values = [(name, value, 1) for name, value in row.items()]
    while values:
        name, value, depth = values.pop()
        if depth > MAX_NESTING:
            return BadRow(f"{name} is nested more than {MAX_NESTING} deep")
        if isinstance(value, str) and not _is_unicode(value):
            start = next(n for n, char in enumerate(value) if 0xD800 <= ord(char) < 0xE000)
            return BadRow(f"{name} is not valid Unicode (at character {start})")
        if isinstance(value, Mapping):
            values += [(name, part, depth + 1) for pair in value.items() for part in pair]
        elif isinstance(value, list | tuple):
            values += [(name, part, depth + 1) for part in value]
    return None


def too_large(size: int) -> BadRow:
    """The error for a row above `MAX_ROW_BYTES`."""
    limit = MAX_ROW_BYTES >> 20
    return BadRow(f"larger than {limit} MiB ({size / 2**20:.0f} MiB or more)")


def _is_unicode(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
