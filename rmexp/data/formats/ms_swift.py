"""ms-swift's rows: a dialogue that ends with the chosen answer, and a rejected answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import shared_dialogue, with_system
from rmexp.data.formats.fields import common_fields, list_field, optional_number, unique_texts
from rmexp.data.formats.messages import chat_messages
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class MsSwift:
    """`messages`, and `rejected_response` (a text) or `rejected_messages` (a whole dialogue).

    Optional: `margin`, `tools`. The roles `tool_call` and `tool_response` become an assistant's
    `tool_calls` and a `tool` message, which is what chat templates read.
    Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "margins", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        messages = _dialogue(row, "messages")
        if row.get("rejected_messages") is not None:
            name, other = "rejected_messages", _dialogue(row, "rejected_messages")
        else:
            name, text = "rejected_response", row.get("rejected_response")
            if not isinstance(text, str) or not text.strip():
                raise BadRow("rejected_response must be text, or rejected_messages a list")
            other = [*messages[:-1], {"role": "assistant", "content": text}]
        unique_texts(messages, other, f"messages and {name}")
        prompt, (chosen, rejected) = shared_dialogue((messages, other), ("messages", name))
        return Comparison(
            prompt=with_system(prompt, row),
            responses=(chosen, rejected),
            judgements=(PreferenceLabel(0, 1, margin=optional_number(row, "margin")),),
            **common_fields(row),
        )


def _dialogue(row: Mapping[str, Any], name: str) -> list[Any]:
    return list(chat_messages(list_field(row, name, "messages"), name))
