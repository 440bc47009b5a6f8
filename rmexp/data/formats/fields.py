"""Strict readers of fields, labels and numbers of a row."""

import ast
import json
import math
import re
import string
import warnings
from collections.abc import Mapping
from typing import Any

from rmexp.data.sources.rows import BadRow, LeftOut, find_flaw

LARGEST = 1e30
"""The largest number of a label: sums and means of such stay within single precision."""

_SPECIAL = frozenset("[{H" + string.whitespace)

_FRACTION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*/\s*(\d+)\s*")
"""A rating with its scale: `4/5`."""

NO_NUMBER = ("", "n/a", "na", "nan", "null", "none", "-")
"""What tables write where a number is missing, in small letters."""


class FieldRow(dict[str, Any]):
    """The fields of a row, with the names of their columns.

    Args:
        fields: field -> value.
        columns: field -> its column, where that has another name.
        raw: the row as in the source.
    """

    def __init__(
        self, fields: Mapping[str, Any], columns: Mapping[str, str], raw: Mapping[str, Any]
    ) -> None:
        super().__init__(fields)
        self.columns, self.raw = columns, raw


def column_of(row: Mapping[str, Any], name: str) -> str:
    """The column of a field, for messages."""
    return row.columns.get(name, name) if isinstance(row, FieldRow) else name


def field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a required field."""
    if is_missing(row.get(name)):
        raw = row.raw if isinstance(row, FieldRow) else row
        have = ", ".join(map(str, raw)) or "nothing"
        raise BadRow(f"field {column_of(row, name)!r} is missing (the row has {have})")
    return row[name]


def label_field(row: Mapping[str, Any], name: str) -> Any:
    """The value of a required field that holds the label of a row.

    Raises:
        LeftOut: the column of the label is there, and empty.
    """
    value, column = row.get(name), column_of(row, name)
    raw = row.raw if isinstance(row, FieldRow) else row
    if (name in row or column in raw) and (is_missing(value) or value == ""):
        raise LeftOut(f"{column} is empty")
    return field(row, name)


def is_missing(value: Any) -> bool:
    """Whether a value is null or NaN, which stands for null in exports of tables."""
    return value is None or (isinstance(value, float) and value != value)


def is_plain(text: str) -> bool:
    """Whether a text is neither empty nor begins as JSON, blanks or a `Human:` turn do."""
    return text != "" and text[0] not in _SPECIAL


def decoded(value: Any) -> Any:
    """The list or object that a text writes out, in JSON or as Python does; else the value itself.

    CSV has no lists, and exports of tables (pandas, Spark) keep them as text in other files too.
    """
    if not isinstance(value, str) or is_plain(value):
        return value
    text = value.strip()
    if text[:1] + text[-1:] not in ("[]", "{}"):
        return value
    for parse in (json.loads, _python_literal):
        try:
            found = parse(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            continue
        if not isinstance(found, list | dict):
            return value
        if (flaw := find_flaw({"a list or object written as text": found})) is not None:
            raise flaw
        return found
    return value


def _python_literal(text: str) -> Any:
    with warnings.catch_warnings():  # of escapes that Python does not know
        warnings.simplefilter("ignore")
        return ast.literal_eval(text)


def list_field(row: Mapping[str, Any], name: str, of: str) -> list[Any]:
    """A required field that is a non-empty list, or the text of one."""
    value = decoded(field(row, name))
    if not isinstance(value, list) or not value:
        raise BadRow(f"{column_of(row, name)} must be a list of {of}")
    return value


def text_field(row: Mapping[str, Any], name: str, default: str) -> str:
    """An optional field of labels (`id`, `subset`) as text."""
    value = row.get(name)
    if is_missing(value) or value == "":
        return default
    text = str(value)
    check_unicode(text, column_of(row, name))
    return text


def number_field(value: Any, name: str) -> float:
    """A finite number, which may be text (CSV)."""
    try:
        read = float(value)
    except OverflowError:
        read = math.inf
    except (TypeError, ValueError):
        scale = isinstance(value, str) and _FRACTION.fullmatch(value)
        alone = f": write {scale[1]}, where all rows have the scale to {scale[2]}" if scale else ""
        raise BadRow(f"{name} is not a number ({value!r:.60}){alone}") from None
    if isinstance(value, bool):
        raise BadRow(f"{name} is not a number ({value!r})")
    if not abs(read) <= LARGEST:
        kind = "a number within single precision" if math.isfinite(read) else "a finite number"
        raise BadRow(f"{name} is not {kind} ({value!s:.40})")
    return read


def rating_field(value: Any, name: str) -> float:
    """A number; true and false, which may be text (CSV), are 1 and 0."""
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return float(value.strip().lower() == "true")
    return float(value) if isinstance(value, bool) else number_field(value, name)


def optional_number(row: Mapping[str, Any], name: str) -> float | None:
    """The number of an optional field; None if it is missing, NaN or an empty CSV cell."""
    value = row.get(name)
    return None if is_unrated(value) else number_field(value, column_of(row, name))


def is_unrated(value: Any) -> bool:
    """Whether a value stands for no number: null, NaN, `N/A` or an empty CSV cell."""
    if isinstance(value, str):
        return value.strip().lower() in NO_NUMBER
    return is_missing(value)


def unique_texts(one: Any, other: Any, names: str = "chosen and rejected") -> None:
    """Refuse a pair of equal answers."""
    if one == other:
        raise BadRow(f"{names} are the same")
    if _words(one) == _words(other):
        raise BadRow(f"{names} are the same but for blanks")


def _words(value: Any) -> Any:
    """A text as its words, in messages too."""
    if isinstance(value, str):
        return value.split()
    if isinstance(value, Mapping):
        return {key: _words(part) for key, part in value.items()}
    return [_words(part) for part in value] if isinstance(value, list | tuple) else value


def common_fields(row: Mapping[str, Any]) -> dict[str, Any]:
    """Optional fields of every format: `id`, `subset`, `language` (or `lang`), `split`, `weight` in
    the loss, and `tools`."""
    weight = optional_number(row, "weight")
    if weight is not None and weight < 0:
        raise BadRow(f"{column_of(row, 'weight')} is {weight}, below 0")
    return {
        "id": text_field(row, "id", ""),
        "subset": text_field(row, "subset", "all"),
        "language": text_field(row, "language", "") or text_field(row, "lang", "") or None,
        "split": text_field(row, "split", "") or None,
        "weight": 1.0 if weight is None else weight,
        "tools": _tools(row.get("tools")),
    }


def _tools(value: Any) -> tuple[Mapping[str, Any], ...]:
    """Tool schemas: a list of them, or the JSON of one."""
    value = decoded(value)
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        raise BadRow("tools is text that is not JSON")
    if not isinstance(value, list) or not all(isinstance(tool, Mapping) for tool in value):
        raise BadRow("tools must be a list of JSON schemas")
    return tuple(without_nulls(tool) for tool in value)


def without_nulls(value: Any) -> Any:
    """Remove None values at any depth: Arrow adds them for missing keys."""
    if type(value) is str:  # most are
        return value
    if isinstance(value, Mapping):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list) else value


def check_unicode(text: str, name: str) -> None:
    """Refuse lone surrogates, which neither tokenizers nor files accept."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRow(f"{name} is not valid Unicode (at character {error.start})") from None
