"""Rows with a list of good answers and a list of bad ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import common_fields, list_field
from rmexp.data.formats.messages import response_list


@dataclass(frozen=True)
class GoodBad:
    """`prompt`, `good` and `bad` (lists of answers): good ones are rated 1, bad ones 0."""

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        good, bad = (list_field(row, name, "answers") for name in ("good", "bad"))
        return Comparison(
            prompt=prompt_field(row),
            responses=(*response_list(good, "good"), *response_list(bad, "bad")),
            ratings=(1.0,) * len(good) + (0.0,) * len(bad),
            **common_fields(row),
        )
