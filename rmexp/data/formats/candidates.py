"""Rows with K answers to a prompt and optional ratings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import common_fields, decoded, list_field, rating_field
from rmexp.data.formats.messages import response_list
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Candidates:
    """`prompt`, `responses` (K texts or message lists), `ratings` (K numbers, booleans or null).

    Rows without ratings can be scored, but cannot train.

    Args:
        lower_is_better: ratings are errors or ranks; their sign is flipped.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")
    lower_is_better: bool = False

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        responses = list_field(row, "responses", "answers")
        return Comparison(
            prompt=prompt_field(row),
            responses=response_list(responses, "responses"),
            ratings=self._ratings(decoded(row.get("ratings")), len(responses)),
            **common_fields(row),
        )

    def _ratings(self, ratings: Any, count: int) -> tuple[float | None, ...] | None:
        if ratings is None or ratings == "":
            return None
        if not isinstance(ratings, list):
            raise BadRow("ratings must be a list")
        if len(ratings) != count:
            raise BadRow(f"{count} responses but {len(ratings)} ratings")
        sign = -1.0 if self.lower_is_better else 1.0
        return tuple(
            None if value is None else sign * rating_field(value, f"ratings[{k}]")
            for k, value in enumerate(ratings)
        )
