"""The base of formats that wrap another one."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison


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
    def mapped(self) -> Mapping[str, str]:
        """Field -> the column that the user named."""
        return getattr(self.format, "mapped", {})

    def reading(self, row: Mapping[str, Any]) -> Any:
        """How a row is recognised, see `auto.Auto.reading`; None if it is not by its columns."""
        reading = getattr(self.format, "reading", None)
        return None if reading is None else reading(row)
