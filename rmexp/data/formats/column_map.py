"""A format over rows whose columns have other names."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.comparison import Comparison

LABELS = ("id", "subset", "language", "split", "weight")


@dataclass(frozen=True)
class ColumnMap:
    """Gives a format the fields that it knows, out of the columns that the rows have.

    Args:
        format: raw row -> Comparison.
        fields: field -> column; a field without a column is read under its own name. A column may
            lie within another one: `question.full_text`.
    """

    format: Callable[[Mapping[str, Any]], Comparison | Sequence[Comparison]]
    fields: Mapping[str, str] = field(default_factory=dict)

    @property
    def label_kinds(self) -> tuple[str, ...] | None:
        """What the format's rows may say; None where only the rows tell."""
        return getattr(self.format, "label_kinds", None)

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        within = {name: value_at(row, column) for name, column in self.fields.items()}
        found = {name: value for name, value in within.items() if value is not None}
        # A column that has its place hides no other meaning of its name, but for labels.
        hidden = {column for name, column in self.fields.items() if name not in LABELS}
        hidden |= set(self.fields)
        return self.format({k: v for k, v in row.items() if k not in hidden} | found)


def value_at(row: Mapping[str, Any], column: str) -> Any:
    """What a row has at a column, which may lie within another one; None where it is not there."""
    value = row.get(column)
    outer, dot, inner = column.partition(".")
    if value is None and dot and isinstance(row.get(outer), Mapping):
        return value_at(row[outer], inner)
    return value
