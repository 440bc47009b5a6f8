"""Nectar: seven answers to a prompt, ranked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparisons import Comparison
from rmexp.formats.dialogues import human_dialogue, with_system
from rmexp.formats.parts import prompt_messages, response_messages
from rmexp.formats.values import common, field, list_field, number
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Nectar:
    """`prompt` (a text of Human: and Assistant: turns) and `answers` with `answer` and `rank`.

    Rank 1 is the best; ranks become ratings below 0.
    Source: https://huggingface.co/datasets/berkeley-nest/Nectar.
    """

    has: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        turns = human_dialogue(field(row, "prompt"), "prompt")
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()
        answers = list_field(row, "answers", "objects with answer and rank")
        if not all(isinstance(each, Mapping) for each in answers):
            raise BadRow("answers must be a list of objects with answer and rank")
        return Comparison(
            prompt=with_system(prompt_messages(turns), row),
            responses=tuple(
                response_messages(each.get("answer"), f"answers[{k}].answer")
                for k, each in enumerate(answers)
            ),
            ratings=tuple(
                -number(each.get("rank"), f"answers[{k}].rank") for k, each in enumerate(answers)
            ),
            **common(row),
        )
