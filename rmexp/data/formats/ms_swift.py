"""ms-swift's rows: a dialogue that ends with the chosen answer, and a rejected answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import shared_dialogue, with_system
from rmexp.data.formats.fields import (
    common_fields,
    decoded,
    is_missing,
    list_field,
    optional_number,
    unique_texts,
)
from rmexp.data.formats.messages import chat_messages
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class MsSwift:
    """`messages`, and `rejected_response` (texts) or `rejected_messages` (a whole dialogue).

    Optional: `margin`, `tools`. The roles `tool_call` and `tool_response` become an assistant's
    `tool_calls` and a `tool` message, which is what chat templates read.
    Source: https://swift.readthedocs.io/en/latest/Customization/Custom-dataset.html
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "margins", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        messages = _dialogue(row, "messages")
        if not is_missing(row.get("rejected_messages")):
            name, others = "rejected_messages", [_dialogue(row, "rejected_messages")]
        else:
            name, texts = "rejected_response", decoded(row.get("rejected_response"))
            texts = texts if isinstance(texts, list) else [texts]
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise BadRow("rejected_response must be text, or rejected_messages a list")
            others = [[*messages[:-1], {"role": "assistant", "content": text}] for text in texts]
        for other in others:
            unique_texts(messages, other, f"messages and {name}")
        names = ["messages", *[name] * len(others)]
        prompt, responses = shared_dialogue([messages, *others], names)
        margin = optional_number(row, "margin")
        return Comparison(
            prompt=with_system(prompt, row),
            responses=responses,
            judgements=tuple(
                PreferenceLabel(0, k, margin=margin) for k in range(1, len(responses))
            ),
            **common_fields(row),
        )


def _dialogue(row: Mapping[str, Any], name: str) -> list[Any]:
    return list(chat_messages(list_field(row, name, "messages"), name))
