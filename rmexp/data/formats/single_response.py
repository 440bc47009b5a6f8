"""Rows with one answer and an optional rating."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.answers import prompt_and_answers
from rmexp.data.formats.attributes import attribute_ratings, mean_ratings
from rmexp.data.formats.dialogues import with_system
from rmexp.data.formats.fields import (
    column_of,
    common_fields,
    decoded,
    is_missing,
    is_unrated,
    optional_number,
    rating_field,
)
from rmexp.data.formats.messages import (
    Messages,
    chat_messages,
    prompt_messages,
    response_messages,
)
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class SingleResponse:
    """`prompt` and `response` (or `completion`), or `messages` that end with the answer.

    `rating` is optional: a number (higher is better), or true for a good answer and false for a bad
    one; `label` is another name for it. TRL's and KTO's good and bad rows are of this form. Or
    `ratings` is an object of attribute -> rating: the rating is their mean.

    Args:
        lower_is_better: ratings are errors or ranks; their sign is flipped.
        attributes: the rating is the sum of these columns, each times its weight here; they are the
            attributes too.
        turn_mark: opens the turns of a dialogue that is one text, before `User` or `Assistant`.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings",)
    lower_is_better: bool = False
    attributes: Mapping[str, float] | None = None
    turn_mark: str | None = None

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, response = self._texts(row)
        sign = -1.0 if self.lower_is_better else 1.0
        attributes = attribute_ratings(row, 1, sign)
        if self.attributes and (values := _columns(row, self.attributes)):
            value: float | None = sum(w * values[name] for name, w in self.attributes.items())
            attributes |= {name: (sign * found,) for name, found in values.items()}
        else:
            value = None if self.attributes else _rating(row)
        return Comparison(
            prompt=prompt,
            responses=(response,),
            ratings=mean_ratings(attributes) if value is None else (sign * value,),
            attributes=attributes,
            **common_fields(row),
        )

    def _texts(self, row: Mapping[str, Any]) -> tuple[Messages, Messages]:
        if is_missing(row.get("messages")):
            name = "response" if is_missing(row.get("completion")) else "completion"
            prompt, sides = prompt_and_answers(row, name, turn_mark=self.turn_mark)
            if len(sides[0]) > 1:
                raise BadRow(f"{column_of(row, name)} has {len(sides[0])} answers, not one")
            return prompt, sides[0][0]
        name = column_of(row, "messages")
        messages = chat_messages(decoded(row["messages"]), name)
        if not isinstance(messages, list) or len(messages) < 2:
            raise BadRow(f"{name} must be a list: a prompt and an answer at least")
        prompt = with_system(prompt_messages(messages[:-1], name), row)
        return prompt, response_messages(messages[-1:], name)


def _columns(row: Mapping[str, Any], names: Iterable[str]) -> dict[str, float]:
    """The numbers in these columns; empty where all are missing."""
    values = {name: optional_number(row, name) for name in names}
    there = {name: value for name, value in values.items() if value is not None}
    if there and (missing := values.keys() - there.keys()):
        first = next(name for name in values if name in missing)
        raise BadRow(f"field {first!r} is missing, which the rating is made of")
    return there


def _rating(row: Mapping[str, Any]) -> float | None:
    name = "label" if is_unrated(row.get("rating")) else "rating"
    value = row.get(name)
    return None if is_unrated(value) else rating_field(value, column_of(row, name))
