"""The base of formats that wrap another one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison

Read = tuple[Any, Comparison | Sequence[Comparison]]


@dataclass(frozen=True)
class FormatWrapper:
    """A format over another one.

    Args:
        format: raw row -> Comparison.
    """

    format: Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]

    @property
    def label_kinds(self) -> tuple[str, ...] | None:
        """The label kinds of the wrapped format; None: only the rows tell."""
        return getattr(self.format, "label_kinds", None)

    @property
    def attributes(self) -> Any:
        """The attributes that the wrapped format names, with weights if it merges their ratings."""
        return getattr(self.format, "attributes", None)

    @property
    def grouped_by(self) -> str | None:
        """The column whose equal neighbours are one row, see `grouped_rows`; None: each row is."""
        return getattr(self.format, "grouped_by", None)

    def read(self, row: Mapping[str, Any]) -> Read:
        """The wrapper's output for a row, see `read_row`."""
        raise NotImplementedError

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        return self.read(row)[1]

    @property
    def mapped(self) -> Mapping[str, str]:
        """Field -> the column that the user named."""
        return getattr(self.format, "mapped", {})


def read_row(
    format: Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]],
    row: Mapping[str, Any],
) -> Read:
    """How a format reads a row (an `auto.Reading`; None if not by its columns), and the result."""
    read = getattr(format, "read", None)
    return (None, format(row)) if read is None else read(row)
