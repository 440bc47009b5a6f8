"""Rows with K answers to one prompt, and a rating each where people gave one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparisons import Comparison
from rmexp.formats.parts import field, number, prompt_messages, response_messages, text_field
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Candidates:
    """`prompt`, `responses` (K texts or message lists), `ratings` (K numbers, higher is better).

    Rows without ratings can be scored; they teach nothing.
    """

    prompt: str = "prompt"
    responses: str = "responses"
    ratings: str = "ratings"
    subset: str = "subset"

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        responses = field(row, self.responses)
        if not isinstance(responses, list) or not responses:
            raise BadRow(f"{self.responses} must be a list of answers")
        ratings = row.get(self.ratings)
        if ratings is None:
            ratings = [None] * len(responses)
        if not isinstance(ratings, list):
            raise BadRow(f"{self.ratings} must be a list")
        if len(responses) != len(ratings):
            raise BadRow(f"{len(responses)} {self.responses} but {len(ratings)} {self.ratings}")
        return Comparison(
            id=text_field(row, "id", ""),
            prompt=prompt_messages(field(row, self.prompt), self.prompt),
            responses=tuple(
                response_messages(text, f"{self.responses}[{k}]")
                for k, text in enumerate(responses)
            ),
            ratings=None
            if row.get(self.ratings) is None
            else tuple(
                None if value is None else number(value, f"{self.ratings}[{k}]")
                for k, value in enumerate(ratings)
            ),
            subset=text_field(row, self.subset, "all"),
            split=row.get("split"),
        )
