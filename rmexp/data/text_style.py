"""How a response is written, in counts that a reward should not care for: computed once a row."""

import re
from collections.abc import Mapping, Sequence

from rmexp.comparison import Message

STYLE_NAMES = ("characters", "headers", "lists", "bold")
"""What is counted of a response, in this order."""


MARKS = STYLE_NAMES[1:]
"""Those that are formatting."""


_HEADER = re.compile(r"^#{1,6} ", re.MULTILINE)


_ITEM = re.compile(r"^[ \t]*(?:[-*+] |•|\d{1,3}[.)] |\d{1,3}、)[ \t]*\S", re.MULTILINE)


_BOLD = re.compile(r"\*\*[^*\n]+\*\*|__[^_\n]+__")


def text_style(response: Sequence[Message]) -> list[int]:
    """The counts of `STYLE` in what a response says.

    Lines that open a markdown header, lines that open an item of a list, and spans in bold.
    """
    text = spoken(response)
    return [len(text), *(len(mark.findall(text)) for mark in (_HEADER, _ITEM, _BOLD))]


def spoken(response: Sequence[Message]) -> str:
    """The text of a response's messages, one behind the other."""
    return "\n".join(_text(message.get("content")) for message in response)


def _text(content: object) -> str:
    if isinstance(content, list):
        return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
    return content if isinstance(content, str) else ""
