"""Prompts as text, and those of evaluation sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Message
from rmexp.core.errors import UserError
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.reader import RowReport
from rmexp.data.sources import BadRow, check_source, read_rows


@dataclass(frozen=True)
class Prompt:
    """A prompt, whose it is (a split, or a file), and where its first row came from."""

    text: str
    home: str
    id: str
    place: str = ""


def text_of(messages: Sequence[Message]) -> str:
    """What is said in some messages, as text; parts that are no text are left out."""
    contents = [message.get("content") or "" for message in messages]
    return "\n".join(
        content
        if isinstance(content, str)
        else "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
        for content in contents
    )


def prompt_text(messages: Sequence[Message]) -> str:
    """A prompt without its system messages: rows that share those are no duplicates by that."""
    spoken = [message for message in messages if message["role"] not in ("system", "developer")]
    return text_of(spoken)


def read_prompts(path: str) -> tuple[list[Prompt], RowReport]:
    """The distinct prompts of an evaluation set, in any format that tells itself from its columns.

    Raises:
        UserError: there is no such source, or no prompt can be read from it.
    """
    try:
        check_source(path)
    except UserError as error:
        raise UserError(str(error).replace("data.path=", "task.against=", 1)) from None
    report = RowReport()
    found: dict[str, Prompt] = {}
    for raw in read_rows(path):
        report.read += 1
        try:
            if isinstance(raw.row, BadRow):
                raise raw.row
            text = prompt_text(_prompt_of(raw.row))
        except BadRow as error:
            report.add_bad(raw.place, str(error))
            continue
        report.kept += 1
        row_id = raw.row.get("id")
        name = f"row-{report.read}" if row_id is None else str(row_id)
        found.setdefault(text, Prompt(text, path, name, raw.place))
    if not found:
        reasons = "; ".join(report.places[:1]) or "it has no rows"
        raise UserError(f"task.against={path}: no prompt can be read from it ({reasons}).")
    return list(found.values()), report


def _prompt_of(row: Mapping[str, Any]) -> Sequence[Message]:
    """Only the prompt counts here: a row whose answers no format knows may still have one."""
    try:
        return Auto()(row).prompt
    except BadRow as reason:
        try:
            return prompt_field(row)
        except BadRow:
            raise reason from None
