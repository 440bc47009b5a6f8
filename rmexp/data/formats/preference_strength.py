"""Rows with two answers and the strength of the preference."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.answers import prompt_and_answers
from rmexp.data.formats.attributes import attribute_ratings
from rmexp.data.formats.fields import (
    column_of,
    common_fields,
    is_unrated,
    label_field,
    list_field,
    number_field,
)
from rmexp.data.formats.votes import ANSWERS
from rmexp.data.sources import LeftOut


@dataclass(frozen=True)
class PreferenceStrength:
    """`prompt`, `response_a`, `response_b` and `strength`: its sign names the better; 0 is a tie.

    The margin is the absolute strength. `strengths` (optional) has one strength per annotator (a
    number, or an object with `score` or `strength`): their signs are the votes. `ratings`
    (optional) is an object of attribute -> ratings of both answers.

    Args:
        positive: the better answer if the strength is above 0.
        turn_mark: opens the turns of a dialogue that is one text, before `User` or `Assistant`.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "votes", "ties", "margins", "lists")
    positive: Literal["a", "b"] = "b"
    turn_mark: str | None = None

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, (one, other) = prompt_and_answers(row, *ANSWERS, turn_mark=self.turn_mark)
        sign = 1.0 if self.positive == "a" else -1.0
        name = column_of(row, "strength")
        if is_unrated(given := label_field(row, "strength")):
            raise LeftOut(f"{name} is empty")
        strength = sign * number_field(given, name)
        votes = [sign * vote for vote in _annotators(row)] or [strength]
        judgement = PreferenceLabel(
            0,
            1,
            votes_i=float(sum(vote > 0 for vote in votes)),
            votes_j=float(sum(vote < 0 for vote in votes)),
            votes_tie=float(sum(vote == 0 for vote in votes)),
            margin=abs(strength),
        )
        return Comparison(
            prompt=prompt,
            responses=(*one, *other),
            judgements=(judgement,),
            attributes=attribute_ratings(row, 2),
            **common_fields(row),
        )


def _annotators(row: Mapping[str, Any]) -> list[float]:
    if row.get("strengths") is None:
        return []
    found = []
    for k, vote in enumerate(list_field(row, "strengths", "strengths")):
        if isinstance(vote, Mapping):
            vote = vote["score"] if "score" in vote else vote.get("strength")
        if not is_unrated(vote):
            found.append(number_field(vote, f"{column_of(row, 'strengths')}[{k}]"))
    return found
