"""Nectar: seven answers to a prompt, ranked."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import human_dialogue, with_system
from rmexp.data.formats.fields import common_fields, field, list_field, number_field
from rmexp.data.formats.messages import prompt_messages, response_list
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Nectar:
    """`prompt` (a text of Human: and Assistant: turns) and `answers` with `answer` and `rank`.

    Rank 1 is the best; ratings are negative ranks.
    Source: https://huggingface.co/datasets/berkeley-nest/Nectar.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        turns = human_dialogue(field(row, "prompt"), "prompt")
        if turns[-1] == {"role": "assistant", "content": ""}:
            turns.pop()
        answers = list_field(row, "answers", "objects with answer and rank")
        if not all(isinstance(each, Mapping) for each in answers):
            raise BadRow("answers must be a list of objects with answer and rank")
        return Comparison(
            prompt=with_system(prompt_messages(turns), row),
            responses=response_list((each.get("answer") for each in answers), "answers", ".answer"),
            ratings=tuple(
                -number_field(each.get("rank"), f"answers[{k}].rank")
                for k, each in enumerate(answers)
            ),
            **common_fields(row),
        )
