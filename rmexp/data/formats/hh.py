"""Anthropic HH-RLHF: two dialogues as text, which differ in the last answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import human_dialogue, with_system
from rmexp.data.formats.fields import common_fields, field, unique_texts
from rmexp.data.formats.messages import Messages, prompt_messages, response_messages
from rmexp.data.formats.preference import Preference
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class HH:
    """`chosen` and `rejected` are dialogues of `\\n\\nHuman: ...\\n\\nAssistant: ...` turns.

    Rows with `prompt`, `chosen` and `rejected` are read too.

    Source: Bai et al. 2022, arXiv:2204.05862, https://github.com/anthropics/hh-rlhf.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        if row.get("prompt") is not None:
            return Preference()(row)
        prompt, chosen = _dialogue(field(row, "chosen"), "chosen")
        other, rejected = _dialogue(field(row, "rejected"), "rejected")
        if prompt != other:
            raise BadRow("the two dialogues differ before their last answer")
        unique_texts(chosen, rejected)
        return Comparison(
            prompt=with_system(prompt_messages(prompt), row),
            responses=(chosen, rejected),
            judgements=(PreferenceLabel(0, 1),),
            **common_fields(row),
        )


def _dialogue(text: Any, name: str) -> tuple[list[dict[str, str]], Messages]:
    turns = human_dialogue(text, name)
    if len(turns) < 2:
        raise BadRow(f"{name} is no dialogue of Human: and Assistant: turns")
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"roles out of order: {name} ends with the human")
    return turns[:-1], response_messages(turns[-1]["content"], name)
