"""Rows with K answers as objects, each with its own rating or rank."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.candidates import Candidates
from rmexp.data.formats.fields import FieldRow, column_of, is_missing, list_field
from rmexp.data.sources import BadRow

TEXT_KEYS = ("text", "response", "answer", "completion", "content", "output", "generation", "reply")
GRADE_KEYS = (
    *("rating", "score", "reward", "grade", "overall_score", "label", "pm_score", "pass_rate"),
)
RANK_KEYS = ("rank", "ranking")


@dataclass(frozen=True)
class ScoredObjects:
    """`prompt` and `responses`: objects with a text, and a rating (higher is better) or a rank.

    The text is `text`, `response`, `answer`, ...; the rating `rating`, `score`, `reward`, ...
    """

    label_kinds: ClassVar[tuple[str, ...]] = Candidates.label_kinds

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        name = column_of(row, "responses")
        objects = list_field(row, "responses", "objects")
        if not all(isinstance(one, Mapping) for one in objects):
            raise BadRow(f"{name} must be a list of objects, each with a text and a rating")
        text, grade = _shared(objects, TEXT_KEYS), _shared(objects, (*GRADE_KEYS, *RANK_KEYS))
        if text is None:
            raise BadRow(f"{name} has objects without a text ({', '.join(objects[0])})")
        fields = {
            **row,
            "responses": [one.get(text) for one in objects],
            "ratings": None if grade is None else [one.get(grade) for one in objects],
        }
        inner = Candidates(lower_is_better=grade in RANK_KEYS)
        return inner(FieldRow(fields, getattr(row, "columns", {}), row))


def _shared(objects: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str | None:
    """The first of the names under which an object has a value."""
    return next((n for n in names if any(not is_missing(one.get(n)) for one in objects)), None)
