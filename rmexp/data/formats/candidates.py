"""Rows with K answers to a prompt and optional ratings."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.answers import prompt_and_answers
from rmexp.data.formats.attributes import attribute_ratings, mean_ratings
from rmexp.data.formats.fields import (
    column_of,
    common_fields,
    decoded,
    is_unrated,
    optional_number,
    rating_field,
)
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Candidates:
    """`prompt`, `responses` (K texts or message lists), `ratings` (K numbers, booleans or null).

    `ratings` may be an object of attribute -> K such ratings: the rating is their mean. Rows
    without ratings can be scored, but cannot train.

    Args:
        lower_is_better: ratings are errors or ranks; their sign is flipped.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")
    lower_is_better: bool = False

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, (responses,) = prompt_and_answers(row, "responses", plural=True)
        sign = -1.0 if self.lower_is_better else 1.0
        attributes = attribute_ratings(row, len(responses), sign)
        return Comparison(
            prompt=prompt,
            responses=responses,
            ratings=mean_ratings(attributes) or self._ratings(row, len(responses), sign),
            attributes=attributes,
            **common_fields(row),
        )

    def _ratings(
        self, row: Mapping[str, Any], count: int, sign: float
    ) -> tuple[float | None, ...] | None:
        name, ratings = column_of(row, "ratings"), decoded(row.get("ratings"))
        if not isinstance(ratings, list) and is_unrated(ratings):
            return None
        if not isinstance(ratings, list):
            raise BadRow(f"{name} must be a list")
        if len(ratings) != count:
            raise BadRow(f"{count} {column_of(row, 'responses')} but {len(ratings)} {name}")
        return tuple(
            None if is_unrated(value) else sign * rating_field(value, f"{name}[{k}]")
            for k, value in enumerate(ratings)
        )


@dataclass(frozen=True)
class TwoRated:
    """`prompt`, `response_a`, `response_b` and their ratings `rating_a` and `rating_b`."""

    label_kinds: ClassVar[tuple[str, ...]] = Candidates.label_kinds

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, (one, other) = prompt_and_answers(row, "response_a", "response_b")
        return Comparison(
            prompt=prompt,
            responses=(*one, *other),
            ratings=tuple(optional_number(row, name) for name in ("rating_a", "rating_b")),
            attributes=attribute_ratings(row, 2),
            **common_fields(row),
        )
