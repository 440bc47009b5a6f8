"""Rows with one answer: to be scored, or (with a rating) to learn ratings from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparisons import Comparison
from rmexp.formats.parts import common, field, prompt_messages, rating, response_messages
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Single:
    """`prompt` and `response`, as text or messages; or `messages` that end with the answer.

    `rating` is optional: a number (higher is better), or true for a good answer and false for a bad
    one; `label` is another name for it.

    Args:
        lower_is_better: ratings are errors or ranks: they are turned around.
    """

    has: ClassVar[tuple[str, ...]] = ("ratings",)
    lower_is_better: bool = False

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        if row.get("messages") is not None:
            messages = row["messages"]
            if not isinstance(messages, list) or len(messages) < 2:
                raise BadRow("messages must be a list: a prompt and an answer at least")
            prompt = prompt_messages(messages[:-1], "messages")
            response = response_messages(messages[-1:], "messages")
        else:
            prompt = prompt_messages(field(row, "prompt"))
            response = response_messages(field(row, "response"), "response")
        name = "rating" if row.get("rating") is not None else "label"
        value = row.get(name)
        sign = -1.0 if self.lower_is_better else 1.0
        return Comparison(
            prompt=prompt,
            responses=(response,),
            ratings=None if value in (None, "") else (sign * rating(value, name),),
            **common(row),
        )
