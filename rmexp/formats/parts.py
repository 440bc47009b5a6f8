"""What the formats share: reading prompts, responses and numbers out of a row, strictly."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from rmexp.comparisons import Message
from rmexp.sources import BadRow

ROLES = ("system", "developer", "user", "assistant", "tool")
Messages = tuple[Message, ...]


def field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a field that must be there."""
    if row.get(name) is None:
        have = ", ".join(map(str, row)) or "nothing"
        raise BadRow(f"field {name!r} is missing (the row has {have})")
    return row[name]


def prompt_messages(value: Any, name: str = "prompt") -> Messages:
    """A string is one user message; a list is a dialogue that must not end with the assistant."""
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"{name} is empty")
        check_unicode(value, name)
        return ({"role": "user", "content": value},)
    messages = _messages(value, name)
    if not messages:
        raise BadRow(f"{name} is empty")
    if messages[-1]["role"] not in ("user", "tool"):
        raise BadRow(
            f"roles out of order: {name} ends with {messages[-1]['role']!r}, not with the user"
        )
    _check_order(messages, name)
    return messages


def response_messages(value: Any, name: str) -> Messages:
    """A string is one assistant message; a list begins with the assistant."""
    if isinstance(value, str):
        if not value.strip():
            raise BadRow(f"{name} is empty")
        check_unicode(value, name)
        return ({"role": "assistant", "content": value},)
    messages = _messages([value] if isinstance(value, Mapping) else value, name)
    if not messages or all(_is_blank(message) for message in messages):
        raise BadRow(f"{name} is empty")
    if messages[0]["role"] != "assistant":
        raise BadRow(
            f"roles out of order: {name} begins with {messages[0]['role']!r}, not the assistant"
        )
    return messages


def number(value: Any, name: str) -> float:
    """A finite number, also where it is written as text (CSV)."""
    try:
        read = float(value)
    except (TypeError, ValueError):
        raise BadRow(f"{name} is {value!r}, not a number") from None
    if not math.isfinite(read) or isinstance(value, bool):
        raise BadRow(f"{name} is {value!r}, not a finite number")
    return read


def rating(value: Any, name: str) -> float:
    """A number; good and bad (true and false) are 1 and 0."""
    return float(value) if isinstance(value, bool) else number(value, name)


def distinct(chosen: Any, rejected: Any) -> None:
    """Refuse a pair whose two sides are the same."""
    if chosen == rejected:
        raise BadRow("chosen and rejected are the same")


def optional_number(row: Mapping[str, Any], name: str) -> float | None:
    """A number where the field is there; an empty CSV cell is a field that is not there."""
    value = row.get(name)
    return None if value is None or value == "" else number(value, name)


def common(row: Mapping[str, Any]) -> dict[str, Any]:
    """What rows of every format may say of themselves: `id`, `subset`, `language` (or `lang`),
    `split`, `weight` in the loss, and `tools`."""
    weight = optional_number(row, "weight")
    if weight is not None and weight < 0:
        raise BadRow(f"weight is {weight}, below 0")
    return {
        "id": text_field(row, "id", ""),
        "subset": text_field(row, "subset", "all"),
        "language": text_field(row, "language", "") or text_field(row, "lang", "") or None,
        "split": row.get("split"),
        "weight": 1.0 if weight is None else weight,
        "tools": _tools(row.get("tools")),
    }


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool schemas: a list of them, or the JSON of one."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value.strip() else None
        except ValueError:
            raise BadRow("tools is text that is not JSON") from None
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRow("tools must be a list of JSON schemas")
    return tuple(without_nulls(tool) for tool in value)


def text_field(row: Mapping[str, Any], name: str, default: str) -> str:
    """An optional field of labels (`id`, `subset`) as text."""
    value = row.get(name)
    return default if value is None or value == "" else str(value)


def _messages(value: Any, name: str) -> Messages:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise BadRow(f"{name} is neither text nor a list of messages")
    for message in value:
        if not isinstance(message, Mapping) or "role" not in message:
            raise BadRow(f"{name} holds something that is no message with a role: {message!r:.60}")
        if message["role"] not in ROLES:
            raise BadRow(
                f"{name} has the unknown role {message['role']!r} (known: {', '.join(ROLES)})"
            )
        _check_content(message, name)
    return tuple(without_nulls(message) for message in value)


def without_nulls(value: Any) -> Any:
    """Arrow fills absent keys with None, at any depth: a template must not see them."""
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def _check_content(message: Mapping[str, Any], name: str) -> None:
    content = message.get("content")
    if isinstance(content, str):
        check_unicode(content, name)
    elif content is None and not message.get("tool_calls"):
        raise BadRow(f"{name} has a message of the {message['role']} without content")
    elif content is not None and not isinstance(content, list):
        raise BadRow(
            f"{name} has content that is {content!r:.40}, neither text nor a list of parts"
        )


def check_unicode(text: str, name: str) -> None:
    """Half a surrogate pair is no character: neither a tokenizer nor a file takes it."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{name} is not valid Unicode (at character {error.start})") from None


def _is_blank(message: Message) -> bool:
    content = message.get("content")
    return not message.get("tool_calls") and (
        not content or (isinstance(content, str) and not content.strip())
    )


def _check_order(messages: Messages, name: str) -> None:
    """System messages first; then user and assistant take turns (tools answer the assistant)."""
    talk = [message["role"] for message in messages]
    while talk and talk[0] in ("system", "developer"):
        talk.pop(0)
    if not talk or talk[0] != "user":
        raise BadRow(
            f"roles out of order: {name} begins with {talk[0] if talk else 'nothing'!r}, "
            "not the user"
        )
    for before, after in pairwise(talk):
        if after in ("system", "developer") or (
            before == after and before in ("user", "assistant")
        ):
            raise BadRow(f"roles out of order: {after!r} follows {before!r} in {name}")
        if after == "tool" and before not in ("assistant", "tool"):
            raise BadRow(f"roles out of order: {after!r} follows {before!r} in {name}")
