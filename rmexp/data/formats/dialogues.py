"""Prompts of rows, and dialogues that are written as one text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.data.formats.fields import column_of, field, text_field
from rmexp.data.formats.messages import (
    Messages,
    chat_messages,
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
    name = column_of(row, name)
    if turn_mark and isinstance(value, str) and turn_mark in value:
        value = marked_dialogue(value, turn_mark)
    return with_system(prompt_messages(value, name), row)


def with_system(prompt: Messages, row: Mapping[str, Any]) -> Messages:
    """The prompt after the row's `system_prompt`, if it has one."""
    system = text_field(row, "system_prompt", "")
    if not system.strip():
        return prompt
    if prompt[0]["role"] in ("system", "developer"):
        name = column_of(row, "system_prompt")
        raise BadRow(f"there is a {name}, and the prompt has a system message of its own")
    return ({"role": "system", "content": system}, *prompt)


def shared_dialogue(
    dialogues: Sequence[Any], names: Sequence[str]
) -> tuple[Messages, tuple[Messages, ...]]:
    """The prompt that dialogues share, and the rest of each.

    The prompt ends with a user (or tool) turn, so that no answer is split.
    """
    sides = [chat_messages(one, name) for one, name in zip(dialogues, names, strict=True)]
    if not all(isinstance(side, list) for side in sides):
        raise BadRow(f"{' and '.join(names)} must both be text or both be lists of messages")
    shared = 0
    while shared < min(map(len, sides)) and all(s[shared] == sides[0][shared] for s in sides):
        shared += 1
    while shared and _role(sides[0][shared - 1]) not in ("user", "tool"):
        shared -= 1
    if shared == 0:
        raise BadRow(
            "there is no prompt: field 'prompt' is missing and the dialogues share no beginning"
        )
    return prompt_messages(sides[0][:shared], "the shared prompt"), tuple(
        response_messages(side[shared:], name) for side, name in zip(sides, names, strict=True)
    )


def _role(message: Any) -> Any:
    return message.get("role") if isinstance(message, Mapping) else None


def marked_dialogue(text: str, mark: str) -> list[dict[str, str]]:
    """A text whose later turns begin with a line of `mark` and `User` or `Assistant`."""
    first, *rest = re.split(rf"\n?{re.escape(mark)}(User|Assistant)\n", text)
    opening = [("User", first)] if first.strip() else []
    return _turns([*opening, *zip(rest[::2], rest[1::2], strict=True)])


def is_human_dialogue(value: Any) -> bool:
    """Whether a value is a text of HH's `Human:` and `Assistant:` turns."""
    return (
        isinstance(value, str) and value.lstrip().startswith("Human:") and "\n\nAssistant:" in value
    )


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
