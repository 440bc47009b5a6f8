"""Rows of CSV and TSV: separator and quoting are detected from the start of the file."""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Any

from rmexp.core.errors import UserError
from rmexp.data.sources.rows import MAX_ROW_BYTES, BadRow, RawRow, find_flaw
from rmexp.data.sources.streams import SourceFile

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
"""Separator -> its name."""


@dataclass(frozen=True)
class CsvDialect:
    """How cells are separated and quoted.

    Args:
        separator: between cells.
        quoting: `double` ("" is a quote within quotes), `backslash` (so is \\"), or `none`.
    """

    separator: str
    quoting: str

    def reader(self, lines: Iterable[str]) -> Any:
        """The rows of cells; raises csv.Error where the quoting breaks."""
        return csv.reader(
            lines,
            delimiter=self.separator,
            quoting=csv.QUOTE_NONE if self.quoting == "none" else csv.QUOTE_MINIMAL,
            escapechar="\\" if self.quoting == "backslash" else None,
            strict=True,
        )

    def share_that_fits(self, text: str, whole: bool) -> float:
        """The share of the text's records that have the header's cells, two or more."""
        counts, broken = [], False
        reader = self.reader(io.StringIO(text, newline=""))
        while True:
            try:
                cells = next(reader)
                counts.append(len(cells))
                if self.quoting == "none" and any(
                    cell[:1] == cell[1:][-1:] == '"' for cell in cells
                ):
                    return 0.0  # its quotes are quotes
            except StopIteration:
                break
            except csv.Error:
                counts.append(-1)
                broken = True
        if not whole:
            counts, broken = counts[:-1], broken and -1 in counts[:-1]
        counts = [count for count in counts if count]  # blank lines
        if not counts or counts[0] < 2:
            return 0.0
        return counts.count(counts[0]) / len(counts) - 0.5 * broken

    def describe(self) -> str:
        """In words."""
        quotes = {
            "double": "",
            "backslash": ", quotes escaped by a backslash",
            "none": ", quotes are text",
        }
        return f"separated by {SEPARATORS[self.separator]}{quotes[self.quoting]}"


def csv_rows(file: SourceFile) -> Iterator[RawRow]:
    """The rows of a CSV or TSV file, each at the line where it begins."""
    csv.field_size_limit(MAX_ROW_BYTES)
    usual = CsvDialect("\t" if ".tsv" in file.path.name.lower() else ",", "double")
    dialect = _dialect_of(file, usual)
    if dialect != usual:
        file.note(f"{file.path.name}: {dialect.describe()}")
    with file.open_text() as stream:
        reader = dialect.reader(stream)
        header: list[str] | None = None
        while True:
            place = f"{file.path}:{reader.line_num + 1}"
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                if header is None or "unexpected end" in str(error):
                    reason = "a quote that opens here is not closed" if header else error
                    raise UserError(f"data.path={place} is not CSV ({reason}).") from None
                yield RawRow(place, BadRow(f"not CSV ({error})"))
                continue
            if header is None and cells:
                header = _header(cells, place)
            elif cells and header is not None:
                yield RawRow(place, _row(header, cells))


def _row(header: list[str], cells: list[str]) -> dict[str, Any] | BadRow:
    if len(cells) != len(header):
        return BadRow(f"not the {len(header)} cells of the header ({len(cells)})")
    row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
    return row if "".join(cells).isascii() else find_flaw(row) or row


def _header(cells: list[str], place: str) -> list[str]:
    """The names of the columns; one without a name (the index of pandas) is not read."""
    names = [name.strip().removeprefix("\ufeff") for name in cells]
    twice = [name for name, count in Counter(names).items() if name and count > 1]
    if twice:
        where = " and ".join(str(n) for n, name in enumerate(names, 1) if name == twice[0])
        raise UserError(
            f"data.path={place}: the header has {twice[0]!r} twice (columns {where}): rename one."
        )
    return names


def _dialect_of(file: SourceFile, usual: CsvDialect) -> CsvDialect:
    """The first dialect that all of the sample fits, else the one that most of it fits."""
    rest = [s for s in SEPARATORS if s != usual.separator]
    quoted = product(("double", "backslash"), [usual.separator, *rest])
    known = [CsvDialect(separator, quoting) for quoting, separator in quoted]
    known.append(CsvDialect("\t", "none"))
    best, share = usual, 0.0
    for dialect in known:
        fits = dialect.share_that_fits(file.text, file.whole)
        if fits == 1:
            return dialect
        if fits > share:
            best, share = dialect, fits
    return best
