"""Rows with one answer and an optional rating."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import prompt_field, with_system
from rmexp.data.formats.fields import (
    common_fields,
    decoded,
    field,
    optional_number,
    rating_field,
)
from rmexp.data.formats.messages import (
    Messages,
    from_text,
    prompt_messages,
    response_messages,
)
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class SingleResponse:
    """`prompt` and `response` (or `completion`), or `messages` that end with the answer.

    `rating` is optional: a number (higher is better), or true for a good answer and false for a bad
    one; `label` is another name for it. TRL's and KTO's good and bad rows are of this form.

    Args:
        lower_is_better: ratings are errors or ranks; their sign is flipped.
        attributes: the rating is the sum of these columns, each times its weight here.
        turn_mark: opens the turns of a dialogue that is one text, before `User` or `Assistant`.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings",)
    lower_is_better: bool = False
    attributes: Mapping[str, float] | None = None
    turn_mark: str | None = None

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, response = self._texts(row)
        value = self._weighted(row, self.attributes) if self.attributes else _rating(row)
        sign = -1.0 if self.lower_is_better else 1.0
        return Comparison(
            prompt=prompt,
            responses=(response,),
            ratings=None if value is None else (sign * value,),
            **common_fields(row),
        )

    def _texts(self, row: Mapping[str, Any]) -> tuple[Messages, Messages]:
        if row.get("messages") is not None:
            messages = decoded(row["messages"])
            if not isinstance(messages, list) or len(messages) < 2:
                raise BadRow("messages must be a list: a prompt and an answer at least")
            prompt = with_system(prompt_messages(messages[:-1], "messages"), row)
            return prompt, response_messages(messages[-1:], "messages")
        name = "completion" if row.get("completion") is not None else "response"
        prompt = prompt_field(row, turn_mark=self.turn_mark)
        return prompt, response_messages(*from_text(field(row, name)), name)

    def _weighted(self, row: Mapping[str, Any], attributes: Mapping[str, float]) -> float | None:
        values = {name: optional_number(row, name) for name in attributes}
        missing = [name for name, value in values.items() if value is None]
        if missing and len(missing) < len(values):
            raise BadRow(f"field {missing[0]!r} is missing, which the rating is made of")
        return None if missing else sum(w * (values[name] or 0) for name, w in attributes.items())


def _rating(row: Mapping[str, Any]) -> float | None:
    name = "rating" if row.get("rating") is not None else "label"
    return None if row.get(name) in (None, "") else rating_field(row[name], name)
