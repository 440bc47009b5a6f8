"""Some of the rows of a format."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison
from rmexp.data.sources import LeftOut


@dataclass(frozen=True)
class RowFilter:
    """The rows whose columns have the wanted values; the others are left out, counted.

    Args:
        format: raw row -> Comparison.
        where: column -> the value that it must have (as text: true is True is "true").
    """

    format: Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
    where: Mapping[str, Any]

    @property
    def label_kinds(self) -> tuple[str, ...] | None:
        """What the format's rows may say; None where only the rows tell."""
        return getattr(self.format, "label_kinds", None)

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        """The comparison of a row; a row that is not wanted raises `LeftOut`."""
        for column, wanted in self.where.items():
            if str(row.get(column)).lower() != str(wanted).lower():
                raise LeftOut(f"{column} is not {wanted}")
        return self.format(row)
