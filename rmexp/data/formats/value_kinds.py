"""The kind of a value: what decides, with the names of the columns, which layout a row has."""

import functools
import re
from collections.abc import Mapping
from typing import Any

from rmexp.data.formats.dialogues import is_human_dialogue
from rmexp.data.formats.fields import decoded, is_missing, is_plain
from rmexp.data.formats.messages import ROLE_OF, is_message

AS_TEXT = "text of "
"""Before the kind of a list or object that is written as text."""

Signature = tuple[tuple[str, str], ...]
"""The columns of a row that have a value, each with its kind."""


def signature(row: Mapping[str, Any]) -> Signature:
    """The columns of a row that are not null, empty or blank, each with its kind."""
    found = []
    for name, value in row.items():
        kind = "text" if type(value) is str and is_plain(value) else kind_of(value)
        if kind is not None and name is not None:
            found.append((name, kind))
    return tuple(found)


def kind_of(value: Any) -> str | None:
    """The kind of a value; None: there is none.

    `text`, `human` (text of Human: and Assistant: turns), `number`, `message`, `messages` (that
    follow a prompt), `dialogue` (with its prompt), `dialogues`, `texts`, `numbers`, `pairs` (lists
    of texts), `objects`, `annotated` (objects with annotations) or `object`. Lists go by their
    first entry.
    """
    if isinstance(value, str):
        first = value[:1]
        if first in ("[", "{") or first.isspace():
            return _kind_of_text(value)
        return "human" if first == "H" and is_human_dialogue(value) else "text" if value else None
    if is_missing(value):
        return None
    if isinstance(value, Mapping):
        return "message" if is_message(value) else "object"
    if isinstance(value, list | tuple):
        return _kind_of_list(value)
    return "number" if isinstance(value, int | float) else "text"


def _kind_of_text(value: str) -> str | None:
    if not value.strip():
        return None
    if is_human_dialogue(value):
        return "human"
    found = decoded(value)
    kind = None if isinstance(found, str) else kind_of(found)
    return "text" if kind is None else AS_TEXT + kind


def _kind_of_list(value: Any) -> str | None:
    first = next((one for one in value if one is not None), None)
    if first is None:
        return "numbers" if value else None
    if isinstance(first, str):
        return "texts"
    if isinstance(first, Mapping):
        if is_message(first) or "role" in first:
            role = str(first.get("role") or first.get("from")).lower()
            return "messages" if ROLE_OF.get(role, role) == "assistant" else "dialogue"
        return "annotated" if "annotations" in first else "objects"
    if isinstance(first, list | tuple):
        inner = next(iter(first), None)
        return "pairs" if inner is None or isinstance(inner, str) else "dialogues"
    return "numbers"


@functools.lru_cache(maxsize=4096)
def normalised_name(column: str) -> str:
    """A column's name in one spelling: `Response-A`, `responseA` and `response_a` are equal."""
    snake = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", column.strip())
    snake = re.sub(r"[\s.\-_]+", "_", snake).lower()
    return re.sub(r"(?<=[a-z])(?=\d+$)", "_", snake)
