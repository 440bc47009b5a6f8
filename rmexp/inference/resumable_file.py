"""Files of rows that are written in windows, and resumed after a kill."""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmexp.core.atomic_file import replace_file
from rmexp.core.disk_errors import check_writable
from rmexp.core.errors import UserError
from rmexp.data.encode import batched_list
from rmexp.data.row_report import RowReport

OUT_SUFFIXES = (".jsonl", ".parquet")


def check_out(out: str) -> Path:
    """The file to write.

    Raises:
        UserError: it exists, its folder does not or is read-only, or its suffix is not .jsonl or
            .parquet.
    """
    file = Path(out).expanduser()
    if file.suffix not in OUT_SUFFIXES:
        raise UserError(f"out={out}: name a file that ends in {' or '.join(OUT_SUFFIXES)}.")
    if file.exists():
        raise UserError(f"out={out} exists; remove it, or name another file.")
    if not file.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {file.parent}.")
    check_writable(file.parent, "name another out=FILE")
    return file


class ResumableFile:
    """Rows on responses, appended in windows; resumes after the last complete window.

    OUT.partial holds the rows as JSON lines until the file is finished, OUT.partial.json the number
    of complete ones. If either is missing or too short, the file restarts.

    Args:
        out: the file to write, see `check_out`.
        key: what the rows depend on.

    Attributes:
        comparisons: comparisons (or prompts) that are done.
        responses: rows that are complete.
        report: of the comparisons that are done.

    Raises:
        UserError: there are partial rows of another key.
    """

    def __init__(self, out: Path, key: Sequence[str]) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.state = out.with_name(out.name + ".partial.json")
        self.key = self.key_of(key)
        self.comparisons = self.responses = self.bytes = 0
        self.report = RowReport()
        stored = json.loads(self.state.read_bytes()) if self.state.is_file() else None
        if stored and self.partial.is_file() and self.partial.stat().st_size >= stored["bytes"]:
            if stored["key"] != self.key:
                raise UserError(
                    f"{self.partial} was started with another checkpoint, data or setting: remove "
                    f"it and {self.state.name}, or name another out."
                )
            self.comparisons, self.responses = stored["comparisons"], stored["responses"]
            self.bytes = stored["bytes"]
            self.report = RowReport.from_dict(stored["report"])
        with open(self.partial, "ab") as stream:
            stream.truncate(self.bytes)

    @staticmethod
    def key_of(parts: Sequence[str]) -> str:
        """A hash of what rows depend on (24 hex digits)."""
        return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:24]

    def append_rows(self, rows: Sequence[Mapping[str, Any]], comparisons: int) -> None:
        """Write the rows of a window of comparisons, then record that they are complete."""
        with open(self.partial, "ab") as stream:
            for row in rows:
                stream.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            stream.flush()
            os.fsync(stream.fileno())
            self.bytes = stream.tell()
        self.comparisons += comparisons
        self.responses += len(rows)
        numbers = {name: getattr(self, name) for name in ("comparisons", "responses", "bytes")}
        with replace_file(self.state) as file:
            state = {"key": self.key, "report": self.report.to_dict()} | numbers
            file.write_text(json.dumps(state), encoding="utf-8")

    def rows_with(self, reading: RowReport) -> RowReport:
        """The counts of the rows that are being read, and of the comparisons that are done."""
        both = RowReport(kept=self.comparisons)
        both.merge(reading)
        both.merge(self.report)
        return both

    def finish(self) -> None:
        """Give the complete file its name, converted to parquet if its suffix says so."""
        if self.out.suffix == ".parquet":
            with replace_file(self.out) as file:
                self._to_parquet(file)
            self.partial.unlink()
        else:
            os.replace(self.partial, self.out)
        self.state.unlink(missing_ok=True)

    def schema(self) -> Any:
        """The `pyarrow.Schema` of the parquet file."""
        raise NotImplementedError

    def stored(self, row: dict[str, Any], schema: Any) -> dict[str, Any]:
        """A row as the parquet file has it."""
        return row

    def _to_parquet(self, out: Path) -> None:
        import pyarrow
        import pyarrow.parquet

        schema = self.schema()
        with (
            open(self.partial, encoding="utf-8") as stream,
            pyarrow.parquet.ParquetWriter(out, schema) as writer,
        ):
            for chunk in batched_list(map(json.loads, stream), 2**14):
                rows = [self.stored(row, schema) for row in chunk]
                writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))
