"""Rows with two answers and votes for the better one or a tie."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.answers import prompt_and_answers
from rmexp.data.formats.attributes import attribute_ratings
from rmexp.data.formats.fields import (
    column_of,
    common_fields,
    decoded,
    is_unrated,
    label_field,
    optional_number,
)
from rmexp.data.formats.value_kinds import normalised_name
from rmexp.data.sources import BadRow

ANSWERS = ("response_a", "response_b")

TIE_WORDS = (
    *("both", "neither", "equal", "same", "draw", "none", "both_good", "both_bad"),
    *("the_same", "about_the_same", "equally_good", "no_preference"),
)
"""Labels of a tie, beside those that begin with `tie`."""

ORDINALS = ({"a", "first", "left"}, {"b", "second", "right"})
"""Labels of the first and of the second answer, whatever their columns are called."""


@dataclass(frozen=True)
class Votes:
    """`prompt`, `response_a`, `response_b` and `votes`.

    `votes` is one label, a list with a label per annotator, or an object of label -> count; or the
    counts are in `votes_a`, `votes_b` and `votes_tie`. Without a `prompt`, the answers are whole
    dialogues, and the prompt is what they share. `ratings` (optional) is an object of attribute ->
    ratings of both answers.

    Args:
        a, b, tie: labels of a vote for the first answer, for the second, and for a tie.
        attributes: fields that are as `votes`, for one attribute each: the rating of an answer is
            its share of the votes, half of those for a tie included.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "votes", "ties", "lists")
    a: Sequence[Any] = ("a",)
    b: Sequence[Any] = ("b",)
    tie: Sequence[Any] = ("tie",)
    attributes: Sequence[str] = ()

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, (one, other) = prompt_and_answers(row, *ANSWERS)
        votes_a, votes_b, votes_tie = self._votes(row)
        return Comparison(
            prompt=prompt,
            responses=(*one, *other),
            judgements=(PreferenceLabel(0, 1, votes_a, votes_b, votes_tie),),
            attributes=self._attributes(row) | attribute_ratings(row, 2),
            **common_fields(row),
        )

    def _votes(self, row: Mapping[str, Any]) -> tuple[float, float, float]:
        names = ("votes_a", "votes_b", "votes_tie")
        columns = [optional_number(row, name) for name in names]
        if columns[0] is None or columns[1] is None:
            counts = self._counted(decoded(label_field(row, "votes")), row, "votes")
        else:
            counts = tuple(count or 0.0 for count in columns)
        return _checked(counts, "votes")

    def _attributes(self, row: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        found = {}
        for name in self.attributes:
            if is_unrated(row.get(name)):
                continue
            counts = self._counted(decoded(row[name]), row, name)
            votes_a, votes_b, votes_tie = _checked(counts, column_of(row, name))
            share = (votes_a + votes_tie / 2) / (votes_a + votes_b + votes_tie)
            found[name] = (share, 1 - share)
        return found

    def _counted(self, votes: Any, row: Mapping[str, Any], name: str) -> tuple[float, ...]:
        if isinstance(votes, Mapping):
            given = {name: optional_number(votes, name) or 0.0 for name in votes}
        else:
            given = dict(Counter(map(str, votes if isinstance(votes, list) else [votes])))
        counts = [0.0, 0.0, 0.0]
        for label, count in given.items():
            counts[self._side(str(label), row, name)] += count
        return tuple(counts)

    def _side(self, label: str, row: Mapping[str, Any], name: str) -> int:
        """0: a vote for the first answer, 1: for the second, 2: for a tie."""
        sides = [{str(label) for label in side} for side in (self.a, self.b, self.tie)]
        for number, labels in enumerate(sides):
            if label in labels:
                return number
        known = ", ".join(sorted(set.union(*sides)))
        raise BadRow(f"{column_of(row, name)} has the label {label!r:.60} (known: {known})")


def _checked(counts: Sequence[float], name: str) -> tuple[float, float, float]:
    if min(counts) < 0 or sum(counts) == 0:
        raise BadRow(f"{name} are {counts}: they should be 0 or more, and not all 0")
    return counts[0], counts[1], counts[2]


@dataclass(frozen=True)
class Winner(Votes):
    """As `Votes`, with labels that name the column of the better answer or how it ends.

    For `response_a` and `response_b` these are a, A, model_a, response_a, A>B, "A is better", ...
    Where the answers are numbered 1 and 2, a number between is the share of votes for the second
    (AlpacaEval's preference 1.5 is a tie).
    """

    def _counted(self, votes: Any, row: Mapping[str, Any], name: str) -> tuple[float, ...]:
        ends = [normalised_name(column_of(row, name))[-2:] for name in ANSWERS]
        share = _share(votes) if ends == ["_1", "_2"] else None
        if share is None:
            return super()._counted(votes, row, name)
        return (0.0, 0.0, 1.0) if share == 0.5 else (1 - share, share, 0.0)

    def _side(self, label: str, row: Mapping[str, Any], name: str) -> int:
        columns = [column_of(row, name) for name in ANSWERS]
        names = [normalised_name(name) for name in columns]
        said = (
            normalised_name(label).removesuffix("_0")
            if label.endswith(".0")
            else normalised_name(label)
        )
        if said in TIE_WORDS or said.startswith("tie"):
            return 2
        marks = [_mark(one, other) for one, other in (names, names[::-1])]
        if found := re.fullmatch(r"([a-z0-9]+)\W*([<>=~]+)\W*([a-z0-9]+)", said.replace("_", " ")):
            first, sign, second = found.groups()
            if {first, second} == set(marks) and sign[0] in "<>":
                return marks.index(first if sign[0] == ">" else second)
            if {first, second} == set(marks):
                return 2
        first, _, judged = said.partition("_is_")
        if judged.endswith("better"):  # "A is much better"
            said = first
        last = said.rpartition("_")[2]
        for number in (0, 1):
            if said == names[number] or last == marks[number] or last in ORDINALS[number]:
                return number
        raise BadRow(
            f"{column_of(row, name)} has the label {label!r:.40}, and the answers are "
            f"{' and '.join(columns)}: say what it means with data.format=votes_1_2 (1 is the "
            "first answer, 2 the second), votes_0_1 (0 the first, 1 the second) or votes_1_0 (1 "
            "the first, 0 the second)"
        )


def _share(label: Any) -> float | None:
    """How far a number is on the way from 1 to 2; None: it is not between."""
    try:
        number = float(label)
    except (TypeError, ValueError, OverflowError):
        return None
    return number - 1 if 1 < number < 2 else None


def _mark(name: str, other: str) -> str:
    """The part of a column's name that the other answer's has not: a of response_a."""
    parts, others = name.split("_"), other.split("_")
    return next((part for part in reversed(parts) if part not in others), name)
