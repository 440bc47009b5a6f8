"""Rows with a list of good answers and a list of bad ones."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparisons import Comparison
from rmexp.formats.dialogues import prompt_field
from rmexp.formats.parts import response_messages
from rmexp.formats.values import common, list_field


@dataclass(frozen=True)
class GoodBad:
    """`prompt`, `good` and `bad` (lists of answers): good ones are rated 1, bad ones 0."""

    has: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        sides = [(name, list_field(row, name, "answers")) for name in ("good", "bad")]
        return Comparison(
            prompt=prompt_field(row),
            responses=tuple(
                response_messages(text, f"{name}[{k}]")
                for name, texts in sides
                for k, text in enumerate(texts)
            ),
            ratings=tuple(float(name == "good") for name, texts in sides for _ in texts),
            **common(row),
        )
