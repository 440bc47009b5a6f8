"""Columns with other names than the fields of a format."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rmexp.data.formats.fields import FieldRow, decoded
from rmexp.data.formats.wrapper import FormatWrapper, Read, read_row

LABELS = ("id", "subset", "language", "split", "weight")


@dataclass(frozen=True)
class ColumnMap(FormatWrapper):
    """Renames columns to the fields of a format.

    Args:
        format: raw row -> Comparison.
        fields: field -> column; other fields are columns of that name; None: the field is not
            read. A column may be nested: `question.full_text`.
    """

    fields: Mapping[str, str | None] = field(default_factory=dict)

    @property
    def mapped(self) -> Mapping[str, str]:
        """Field -> the column that the user named."""
        return {name: column for name, column in self.fields.items() if column is not None}

    @property
    def grouped_by(self) -> str | None:
        """The column whose equal neighbours are one row."""
        name = super().grouped_by
        return None if name is None else self.mapped.get(name, name)

    def read(self, row: Mapping[str, Any]) -> Read:
        columns = self.mapped
        within = {name: value_at(row, column) for name, column in columns.items()}
        found = {name: value for name, value in within.items() if value is not None}
        # A mapped column is not also read under its own name, except by labels.
        hidden = {column for name, column in columns.items() if name not in LABELS}
        hidden |= set(self.fields)
        fields = {k: v for k, v in row.items() if k not in hidden} | found
        return read_row(self.format, FieldRow(fields, columns, row))


def has_column(row: Mapping[str, Any], column: str) -> bool:
    """Whether a row has a column, which may be nested and null."""
    if column in row:
        return True
    outer, dot, inner = column.partition(".")
    within = decoded(row.get(outer)) if dot else None
    return isinstance(within, Mapping) and has_column(within, inner)


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """The value of a column, which may be nested; None if the row has no such column."""
    if (value := row.get(column)) is not None:
        return value
    outer, dot, inner = column.partition(".")
    within = decoded(row.get(outer)) if dot else None
    return value_at(within, inner) if isinstance(within, Mapping) else None
