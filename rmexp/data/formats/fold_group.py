"""The group of a row in cross-validation."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.data.formats.column_map import value_at
from rmexp.data.formats.wrapper import FormatWrapper, Read, read_row

FIELDS = ("subset", "language")
"""Fields of a comparison, whatever their columns are called."""


@dataclass(frozen=True)
class FoldGroup(FormatWrapper):
    """The comparisons of a format, each with the value of a column as its group.

    Args:
        format: raw row -> Comparison.
        by: `subset`, `language`, or any column of the rows; `a.b` is nested.
    """

    by: str

    def read(self, row: Mapping[str, Any]) -> Read:
        """The comparison or comparisons of a row, with their group.

        Raises:
            UserError: the row has no such column, or its value is no text or number.
        """
        reading, found = read_row(self.format, row)
        if isinstance(found, Comparison):
            return reading, self._with_group(found, row)
        return reading, [self._with_group(one, row) for one in found]

    def _with_group(self, one: Comparison, row: Mapping[str, Any]) -> Comparison:
        value = getattr(one, self.by) if self.by in FIELDS else value_at(row, self.by)
        if value is None or value == "":
            columns = [name for name in row if name is not None]
            hint = suggest(self.by, columns)
            raise UserError(
                f"data.fold_by={self.by}: the row has nothing there{hint}; "
                f"its columns are {', '.join(columns)}."
            )
        if not isinstance(value, str | int | float):
            raise UserError(
                f"data.fold_by={self.by}: the row has a {type(value).__name__} there; "
                "folds go by a text or a number."
            )
        return dataclasses.replace(one, group=str(value))
