"""Strict readers of prompts and responses: lists of messages, or a text for a single message."""

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from rmexp.comparison import Message
from rmexp.data.formats.fields import check_unicode, decoded, without_nulls
from rmexp.data.sources import BadRow
from rmexp.data.text_style import spoken

ROLES = ("system", "developer", "user", "assistant", "tool")
Messages = tuple[Message, ...]

ROLE_OF = {
    **dict.fromkeys(("human", "prompter", "question"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "bing", "bard", "answer"), "assistant"),
    **dict.fromkeys(("observation", "tool_response", "function_response", "ipython"), "tool"),
}
"""Roles of ShareGPT, ms-swift and others -> those of chat templates."""

CALLS = ("function_call", "tool_call")
"""Roles of messages that are a call of a tool, as JSON; templates read `tool_calls` instead."""

_LISTED = re.compile(r"\s*\[\s*\{\s*(['\"])(role|from|content|value)\1\s*:")
"""The start of a list of messages that was written as text."""


def from_text(*values: Any) -> tuple[Any, ...]:
    """The messages that texts write out (see `fields.decoded`); the values themselves otherwise.

    All values of one field of a row, such as its two answers, are messages or none is: a single
    text that looks like messages is an answer.

    Raises:
        BadRow: they begin as messages do and cannot be read.
    """
    if not all(isinstance(value, str) and value.lstrip()[:1] in ("[", "{") for value in values):
        return values
    found = tuple(decoded(value) for value in values)
    if all(_are_messages(value) for value in found):
        return found
    if all(isinstance(value, str) and _LISTED.match(value) for value in found):
        raise BadRow("messages are written as text that is neither JSON nor Python: export as JSON")
    return values


def _are_messages(value: Any) -> bool:
    messages = [value] if isinstance(value, Mapping) else value
    return isinstance(messages, list) and bool(messages) and all(map(is_message, messages))


def is_message(value: Any) -> bool:
    """Whether a value is a message of a chat: `role` and `content`, or `from` and `value`."""
    if not isinstance(value, Mapping):
        return False
    said = "content" in value or "text" in value or "tool_calls" in value
    return ("role" in value and said) or ("from" in value and "value" in value)


def chat_messages(value: Any, name: str) -> Any:
    """Messages as chat templates read them: role and content, tools as `tool_calls` and `tool`.

    Nulls go: Arrow adds them for missing keys. What is no list of messages stays as it is.
    """
    if isinstance(value, Mapping) and is_message(value):
        value = [value]
    if not isinstance(value, list | tuple):
        return value
    if all(isinstance(one, Mapping) and one.get("role") in ROLES for one in value) and not any(
        "text" in one for one in value
    ):
        return without_nulls(list(value))
    plain: list[Any] = []
    for message in map(without_nulls, value):
        if not isinstance(message, Mapping):
            plain.append(message)
            continue
        if "role" not in message and is_message(message):
            rest = {key: part for key, part in message.items() if key not in ("from", "value")}
            message = {"role": message["from"], "content": message["value"], **rest}
        if "text" in message and "content" not in message:
            message = {"content": message["text"], **message}
            del message["text"]
        role = str(message.get("role")).strip().lower()
        if role in CALLS:
            if not plain or plain[-1].get("role") != "assistant":
                plain.append({"role": "assistant", "content": ""})
            calls = plain[-1].get("tool_calls") or []
            plain[-1] = {**plain[-1], "tool_calls": [*calls, _call(message, name)]}
        elif role in ROLES or role in ROLE_OF:
            plain.append({**message, "role": ROLE_OF.get(role, role)})
        else:
            plain.append(message)
    return plain


def _call(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    called = decoded(message.get("content"))
    if not isinstance(called, Mapping):
        raise BadRow(f"{name} has a tool_call that is not JSON")
    if "name" not in called:
        raise BadRow(f"{name} has a tool_call without a name")
    return {"type": "function", "function": dict(called)}


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


def response_messages(value: Any, name: str, blank: bool = False) -> Messages:
    """A string is one assistant message; a list begins with the assistant.

    Args:
        blank: accept an empty response, as a policy may end at once.
    """
    if isinstance(value, str):
        if not (blank or value.strip()):
            raise BadRow(f"{name} is empty")
        check_unicode(value, name)
        return ({"role": "assistant", "content": value},)
    messages = _messages(value, name)
    if not messages or not (blank or any(not _is_blank(message) for message in messages)):
        raise BadRow(f"{name} is empty")
    if messages[0]["role"] != "assistant":
        raise BadRow(
            f"roles out of order: {name} begins with {messages[0]['role']!r}, not the assistant"
        )
    if messages[-1]["role"] != "assistant":
        raise BadRow(
            f"roles out of order: {name} ends with {messages[-1]['role']!r}, not with the assistant"
        )
    _check_turns([message["role"] for message in messages], name)
    return messages


def response_list(texts: Iterable[Any], name: str, field: str = "") -> tuple[Messages, ...]:
    """The responses of a list field; errors name the entry (and its field)."""
    return tuple(
        response_messages(text, f"{name}[{k}]{field}") for k, text in enumerate(from_text(*texts))
    )


def _messages(value: Any, name: str) -> Messages:
    value = chat_messages(value, name)
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
    return tuple(value)


def _check_content(message: Mapping[str, Any], name: str) -> None:
    content, thoughts = message.get("content"), message.get("reasoning_content")
    if isinstance(content, list):
        for part in content:
            _check_part(part, name)
    elif isinstance(content, str):
        check_unicode(content, name)
    elif content is not None:
        raise BadRow(
            f"{name} has content that is {content!r:.40}, neither text nor a list of parts"
        )
    elif not message.get("tool_calls"):
        raise BadRow(f"{name} has a message of the {message['role']} without content")
    if isinstance(thoughts, str):
        check_unicode(thoughts, name)


def _check_part(part: Any, name: str) -> None:
    """Templates join parts of text; other parts would not be seen by the model."""
    text = part.get("text") if isinstance(part, Mapping) else None
    if not isinstance(text, str):
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        hint = "; data.ignore_images=true leaves it out" if is_media(part) else ""
        raise BadRow(f"{name} has a part of content without text ({kind}){hint}")
    check_unicode(text, name)


def is_media(part: Any) -> bool:
    """Whether a part of a message's content is an image, a video or sound."""
    kind = part.get("type") if isinstance(part, Mapping) else None
    return isinstance(kind, str) and kind.startswith(("image", "video", "audio", "input_image"))


def _is_blank(message: Message) -> bool:
    return not message.get("tool_calls") and not spoken([message]).strip()


def _check_order(messages: Messages, name: str) -> None:
    """System messages first; then user and assistant alternate, with tools after the assistant."""
    talk = [message["role"] for message in messages]
    while talk and talk[0] in ("system", "developer"):
        talk.pop(0)
    if not talk or talk[0] != "user":
        raise BadRow(
            f"roles out of order: {name} begins with {talk[0] if talk else 'nothing'!r}, "
            "not the user"
        )
    _check_turns(talk, name)


def _check_turns(roles: Sequence[str], name: str) -> None:
    for before, after in pairwise(roles):
        twice = before == after and before in ("user", "assistant")
        lost = after == "tool" and before not in ("assistant", "tool")
        if twice or lost or after in ("system", "developer"):
            raise BadRow(f"roles out of order: {after!r} follows {before!r} in {name}")
