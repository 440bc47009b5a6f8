"""ms-swift's rows: a dialogue that ends with the chosen answer, and a rejected answer."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import shared_dialogue, with_system
from rmexp.data.formats.fields import common_fields, list_field, optional_number, unique_texts
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
        messages = _messages(row, "messages")
        if row.get("rejected_messages") is not None:
            name, other = "rejected_messages", _messages(row, "rejected_messages")
        else:
            name, text = "rejected_response", row.get("rejected_response")
            if not isinstance(text, str) or not text.strip():
                raise BadRow("rejected_response must be text, or rejected_messages a list")
            other = [*messages[:-1], {"role": "assistant", "content": text}]
        unique_texts(messages, other, f"messages and {name}")
        prompt, chosen, rejected = shared_dialogue(messages, other, ("messages", name))
        return Comparison(
            prompt=with_system(prompt, row),
            responses=(chosen, rejected),
            judgements=(PreferenceLabel(0, 1, margin=optional_number(row, "margin")),),
            **common_fields(row),
        )


def _messages(row: Mapping[str, Any], name: str) -> list[Any]:
    """The messages of a field, with tools as chat templates read them."""
    plain: list[Any] = []
    for message in list_field(row, name, "messages"):
        role = message.get("role") if isinstance(message, Mapping) else None
        if role == "tool_response":
            plain.append({**message, "role": "tool"})
        elif role == "tool_call":
            if not plain or plain[-1].get("role") != "assistant":
                plain.append({"role": "assistant", "content": ""})
            calls = plain[-1].get("tool_calls") or []
            plain[-1] = {**plain[-1], "tool_calls": [*calls, _call(message, name)]}
        else:
            plain.append(message)
    return plain


def _call(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    called = message.get("content")
    if isinstance(called, str):
        try:
            called = json.loads(called)
        except ValueError:
            raise BadRow(f"{name} has a tool_call that is not JSON") from None
    if not isinstance(called, Mapping) or "name" not in called:
        raise BadRow(f"{name} has a tool_call without a name")
    return {"type": "function", "function": dict(called)}
