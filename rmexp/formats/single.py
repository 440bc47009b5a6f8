"""Rows with one answer: to be scored, or (with a rating) to learn ratings from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparisons import Comparison
from rmexp.formats.parts import (
    field,
    optional_number,
    prompt_messages,
    response_messages,
    text_field,
)
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Single:
    """`prompt` and `response`, as text or messages; or `messages` that end with the answer.

    Optional fields: `rating` (higher is better), `id`, `subset`, `split`.
    """

    prompt: str = "prompt"
    response: str = "response"
    messages: str = "messages"
    rating: str = "rating"
    subset: str = "subset"

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        if row.get(self.messages) is not None:
            messages = row[self.messages]
            if not isinstance(messages, list) or len(messages) < 2:
                raise BadRow(f"{self.messages} must be a list: a prompt and an answer at least")
            prompt = prompt_messages(messages[:-1], self.messages)
            response = response_messages(messages[-1:], self.messages)
        else:
            prompt = prompt_messages(field(row, self.prompt), self.prompt)
            response = response_messages(field(row, self.response), self.response)
        rating = optional_number(row, self.rating)
        return Comparison(
            id=text_field(row, "id", ""),
            prompt=prompt,
            responses=(response,),
            ratings=None if rating is None else (rating,),
            subset=text_field(row, self.subset, "all"),
            split=row.get("split"),
        )
