"""A selection of the rows of a format."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.data.formats.wrapper import FormatWrapper, Read, read_row
from rmexp.data.sources import LeftOut


@dataclass(frozen=True)
class RowFilter(FormatWrapper):
    """Keeps rows whose columns have the given values; other rows are dropped and counted.

    Args:
        format: raw row -> Comparison.
        where: column -> value, compared as text: `true`, `True` and `"true"` are equal.
    """

    where: Mapping[str, Any]

    def read(self, row: Mapping[str, Any]) -> Read:
        for column, wanted in self.where.items():
            if str(row.get(column)).lower() != str(wanted).lower():
                raise LeftOut(f"{column} is not {wanted}")
        return read_row(self.format, row)
