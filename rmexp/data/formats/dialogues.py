"""Prompts of rows, and dialogues that are written as one text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.data.formats.fields import field, text_field, without_nulls
from rmexp.data.formats.messages import (
    Messages,
    from_text,
    prompt_messages,
    response_messages,
)
from rmexp.data.sources import BadRow

SPEAKERS = {"Human": "user", "User": "user", "Assistant": "assistant"}


def prompt_field(
    row: Mapping[str, Any], name: str = "prompt", turn_mark: str | None = None
) -> Messages:
    """The prompt of a row, after its `system_prompt`.

    `turn_mark` opens the turns inside a prompt that is one text (see `marked_dialogue`).
    """
    (value,) = from_text(field(row, name))
    if turn_mark and isinstance(value, str) and turn_mark in value:
        value = marked_dialogue(value, turn_mark)
    return with_system(prompt_messages(value, name), row)


def with_system(prompt: Messages, row: Mapping[str, Any]) -> Messages:
    """The prompt after the row's `system_prompt`, if it has one."""
    system = text_field(row, "system_prompt", "")
    if not system:
        return prompt
    if prompt[0]["role"] in ("system", "developer"):
        raise BadRow("there is a system_prompt, and the prompt has a system message of its own")
    return ({"role": "system", "content": system}, *prompt)


def shared_dialogue(
    one: Any, other: Any, names: tuple[str, str]
) -> tuple[Messages, Messages, Messages]:
    """The prompt that two dialogues share, and the rest of each.

    The prompt ends with a user (or tool) turn, so that no answer is split.
    """
    one, other = without_nulls(one), without_nulls(other)
    if not (isinstance(one, list) and isinstance(other, list)):
        raise BadRow(f"{' and '.join(names)} must both be text or both be lists of messages")
    shared = 0
    while shared < min(len(one), len(other)) and one[shared] == other[shared]:
        shared += 1
    while shared and _role(one[shared - 1]) not in ("user", "tool"):
        shared -= 1
    if shared == 0:
        raise BadRow(
            "there is no prompt: field 'prompt' is missing and the dialogues share no beginning"
        )
    return (
        prompt_messages(one[:shared], "the shared prompt"),
        response_messages(one[shared:], names[0]),
        response_messages(other[shared:], names[1]),
    )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def marked_dialogue(text: str, mark: str) -> list[dict[str, str]]:
    """A text whose later turns begin with a line of `mark` and `User` or `Assistant`."""
    first, *rest = re.split(rf"\n?{re.escape(mark)}(User|Assistant)\n", text)
    opening = [("User", first)] if first.strip() else []
    return _turns([*opening, *zip(rest[::2], rest[1::2], strict=True)])


def human_dialogue(text: Any, name: str) -> list[dict[str, str]]:
    """A text of `\\n\\nHuman: ...\\n\\nAssistant: ...` turns."""
    if not isinstance(text, str):
        raise BadRow(f"{name} is not text")
    opening, *rest = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    if not rest or opening.strip():
        raise BadRow(f"{name} is no dialogue of Human: and Assistant: turns")
    return _turns([(who, said.strip()) for who, said in zip(rest[::2], rest[1::2], strict=True)])


def _turns(turns: Sequence[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"role": SPEAKERS[who], "content": said} for who, said in turns]
