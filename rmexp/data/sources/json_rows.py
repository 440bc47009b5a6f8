"""Rows of JSON: one object a line, objects over several lines, or a list of them.

Which of these a file is, its content tells, and not whether it is named .json or .jsonl.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources.rows import (
    MAX_NESTING,
    MAX_ROW_BYTES,
    BadRow,
    RawRow,
    find_flaw,
    too_large,
)
from rmexp.data.sources.streams import SourceFile, lines_of

_SPACE = re.compile(r"[ \t\r\n]*")
_LIST_OF_OBJECTS = re.compile(r"[ \t\r\n]*\[[ \t\r\n]*[{\]]")
_ROW_COLUMNS = {"prompt", "question", "instruction", "input", "query", "context"}


def json_rows(file: SourceFile) -> Iterator[RawRow]:
    """The rows of a JSON file in any of the three layouts."""
    if _is_document(file):
        return _rows_of_document(file)
    return _rows_of_lines(file)


def _is_document(file: SourceFile) -> bool:
    text = file.text.lstrip("\ufeff")
    if _LIST_OF_OBJECTS.match(text):
        return True
    first, _, rest = text.lstrip().partition("\n")
    named_json = ".jsonl" not in file.path.name and ".ndjson" not in file.path.name
    if first[:1] != "{":
        return named_json and not _is_object(rest.lstrip().partition("\n")[0])
    if _is_object(first):
        return named_json and file.whole and not rest.strip()  # perhaps an object with the rows
    try:  # an object over several lines, or a broken line?
        json.JSONDecoder().raw_decode(text, len(text) - len(text.lstrip()))
    except (ValueError, RecursionError):
        return named_json and not _is_object(rest.lstrip().partition("\n")[0])
    return True


def _is_object(line: str) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _rows_of_lines(file: SourceFile) -> Iterator[RawRow]:
    for number, line in lines_of(file, MAX_ROW_BYTES):
        if line is None:
            yield RawRow(f"{file.path}:{number}", too_large(MAX_ROW_BYTES))
        elif line.strip():
            yield RawRow(f"{file.path}:{number}", _parse_line(line))


def _parse_line(line: bytes | str) -> dict[str, Any] | BadRow:
    try:
        text = line.decode() if isinstance(line, bytes) else line
        row = json.loads(text)
    except UnicodeDecodeError as error:
        byte = f"byte {error.start} is 0x{error.object[error.start]:02x}"
        return BadRow(f"not UTF-8 ({byte}; data.encoding names another encoding)")
    except ValueError as error:
        huge = "limit" in str(error) and not isinstance(error, json.JSONDecodeError)
        return BadRow("a number of thousands of digits" if huge else f"not JSON ({error})")
    except RecursionError:
        return BadRow(f"nested more than {MAX_NESTING} deep")
    if isinstance(line, str) and not line.isascii() and isinstance(row, dict):
        return find_flaw(row) or row  # bytes that are not of the encoding
    return _checked(row, text)


def _checked(row: Any, text: str) -> dict[str, Any] | BadRow:
    """A parsed row, searched for flaws only where its text may have some."""
    if not isinstance(row, dict):
        return BadRow(f"a JSON {type(row).__name__}, not an object")
    if "\\ud" in text or "\\uD" in text or text.count("[") + text.count("{") > MAX_NESTING:
        return find_flaw(row) or row
    return row


def _rows_of_document(file: SourceFile) -> Iterator[RawRow]:
    """Rows of a list of objects, of objects over several lines, or of an object with a list."""
    text = _read_document(file)
    line, counted, whole = 1, 0, None
    try:
        for number, (start, end, value) in enumerate(_elements(text), 1):
            before, line = line, line + text.count("\n", counted, start)
            counted = start
            if text[0] != "[" and whole is None and _SPACE.match(text, end).end() == len(text):  # type: ignore[union-attr]
                whole = value
                break
            whole = False
            size = end - start
            row = too_large(size) if size > MAX_ROW_BYTES else _checked(value, text[start:end])
            same = f", row {number}" if line == before else ""
            yield RawRow(f"{file.path}:{line}{same}", row)
    except (ValueError, RecursionError) as error:
        reason = error if isinstance(error, ValueError) else f"nested more than {MAX_NESTING} deep"
        raise UserError(f"data.path={file.path} is not JSON ({reason}).") from None
    if whole:
        yield from _rows_of_object(file, whole, text, line)
    elif whole is not False and text[:1] != "[" and text:
        raise _no_rows(file)


def _read_document(file: SourceFile) -> str:
    content = file.read()
    try:
        text = content.decode(file.encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"data.path={file.path}:{line} is not {file.encoding.upper()} (byte {error.start}): "
            "say its encoding, data.encoding=NAME."
        ) from None
    return text.lstrip("\ufeff").strip(" \t\r\n")


def _elements(text: str) -> Iterator[tuple[int, int, Any]]:
    """Start, end and value of each element of a list, or of values one after the other."""
    parse = json.JSONDecoder().raw_decode
    listed = text.startswith("[")
    at = _after_space(text, 1 if listed else 0)
    while at < len(text) and not (listed and text[at] == "]"):
        value, end = parse(text, at)
        yield at, end, value
        at = _after_space(text, end)
        if text[at : at + 1] == ",":  # also between objects that are no list
            at = _after_space(text, at + 1)
        elif listed and text[at : at + 1] != "]":
            raise json.JSONDecodeError("Expecting ',' delimiter", text, at)
    if listed and _after_space(text, at + 1) < len(text):
        raise json.JSONDecodeError("Extra data", text, at + 1)


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    assert found is not None
    return found.end()


def _rows_of_object(file: SourceFile, whole: Any, text: str, line: int) -> Iterator[RawRow]:
    """A single object: a row, or what holds the rows as its only list."""
    if not isinstance(whole, dict):
        raise _no_rows(file)
    lists = {name: value for name, value in whole.items() if isinstance(value, list)}
    if len(lists) == 1 and not _ROW_COLUMNS & set(whole) and _are_rows(*lists.values()):
        ((name, rows),) = lists.items()
        file.note(f"{file.path.name}: the rows are its list {name}")
        for number, row in enumerate(rows):
            yield RawRow(f"{file.path}:{name}[{number}]", _found(row))
    elif any(isinstance(value, str) for value in whole.values()):
        yield RawRow(f"{file.path}:{line}", _checked(whole, text))
    else:
        raise _no_rows(file)


def _are_rows(values: list[Any]) -> bool:
    """Whether these may be rows, and not the messages of one."""
    return all(isinstance(v, Mapping) and not {"role", "from"} & set(v) for v in values)


def _found(row: dict[str, Any]) -> dict[str, Any] | BadRow:
    return find_flaw(row) or row


def _no_rows(file: SourceFile) -> UserError:
    return UserError(
        f"data.path={file.path}: expected a JSON list of rows, an object a line, or an object with "
        'one list of rows in it (from pandas: to_json(orient="records", lines=True)).'
    )
