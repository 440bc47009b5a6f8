"""Prompts as text, of the data and of evaluation sets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.comparison import Comparison, Message
from rmexp.core.errors import UserError
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.row_report import RowReport
from rmexp.data.sources import BadRow, check_source, read_rows
from rmexp.data.text_style import spoken

PROMPT_CHARACTERS = 200  # of a prompt in an example


@dataclass(frozen=True)
class Prompt:
    """A prompt, its home (a split or a file), and the id and place of its first row."""

    text: str
    home: str
    id: str
    place: str = ""

    def to_dict(self) -> dict[str, str]:
        """As plain JSON, with the start of the text."""
        return vars(self) | {"text": truncate(self.text, PROMPT_CHARACTERS)}


def prompt_text(messages: Sequence[Message]) -> str:
    """The text of a prompt without system messages, which many rows share."""
    return spoken([m for m in messages if m["role"] not in ("system", "developer")])


def truncate(text: str, characters: int) -> str:
    """The start of a text, with dots where it is cut."""
    return text if len(text) <= characters else text[:characters] + " ..."


def read_prompts(path: str) -> tuple[list[Prompt], RowReport]:
    """Read the distinct prompts of an evaluation set in any format that `Auto` knows.

    Raises:
        UserError: the source is missing, or no prompt can be read from it.
    """
    check_source(path, "task.against")
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
        reasons = next(iter(report.places.values()), "") or "it has no rows"
        raise UserError(f"task.against={path}: no prompt can be read from it ({reasons}).")
    return list(found.values()), report


def _prompt_of(row: Mapping[str, Any]) -> Sequence[Message]:
    """The prompt of a row; its answers need not be in a known format."""
    try:
        found = Auto()(row)
        return (found if isinstance(found, Comparison) else found[0]).prompt
    except BadRow as reason:
        try:
            return prompt_field(row)
        except BadRow:
            raise reason from None
