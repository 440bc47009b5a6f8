"""Counts of a response's length and formatting, for bias probes."""

import re
from collections.abc import Mapping, Sequence

from rmexp.comparison import Message

STYLE_NAMES = ("characters", "headers", "lists", "bold")
"""The counts of `text_style`, in order."""

MARKS = STYLE_NAMES[1:]
"""The counts of formatting."""

_HEADER = re.compile(r"^#{1,6} ", re.MULTILINE)
_ITEM = re.compile(r"^[ \t]*(?:[-*+] |•|\d{1,3}[.)] |\d{1,3}、)[ \t]*\S", re.MULTILINE)
_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def text_style(response: Sequence[Message]) -> list[int]:
    """Characters, markdown headers, list items and bold spans of a response."""
    text = spoken(response)
    headers = len(_HEADER.findall(text)) if "#" in text else 0
    bold = len(_BOLD.findall(text)) if "**" in text or "__" in text else 0
    return [len(text), headers, len(_ITEM.findall(text)), bold]


def spoken(response: Sequence[Message]) -> str:
    """The text of messages, joined by newlines; parts that are no text are left out."""
    return "\n".join(_text(message.get("content")) for message in response)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""
