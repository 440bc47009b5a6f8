"""Scoring a file of rows, as a stream."""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.reader import RowReport
from rmexp.data.token_dataset import batched_list
from rmexp.inference.scorer import SORT_WINDOW, Scorer

SCORE_SUFFIXES = (".jsonl", ".parquet")


def check_out(out: str) -> Path:
    """The file to write.

    Raises:
        UserError: it exists, its folder does not, or its ending is none that can be written.
    """
    file = Path(out).expanduser()
    if file.suffix not in SCORE_SUFFIXES:
        raise UserError(f"out={out}: name a file that ends in {' or '.join(SCORE_SUFFIXES)}.")
    if file.exists():
        raise UserError(f"out={out} exists; remove it, or name another file.")
    if not file.parent.is_dir():
        raise UserError(f"out={out}: there is no folder {file.parent}.")
    return file


class ScoreFile:
    """Rows `id response reward`, appended in windows; after a kill it goes on behind the last one.

    Until the end they stand in OUT.partial, and OUT.partial.json says how far they are whole. Where
    one of the two is missing or short, it begins anew.

    Args:
        out: the file to write, see `check_out`.
        key: what the rewards depend on; another key does not go on with the rows of this one.

    Raises:
        UserError: rows of another key stand there.
    """

    def __init__(self, out: Path, key: Sequence[str]) -> None:
        self.out = out
        self.partial = out.with_name(out.name + ".partial")
        self.state = out.with_name(out.name + ".partial.json")
        self.key = hashlib.sha256(json.dumps(list(key)).encode()).hexdigest()[:24]
        self.comparisons = self.responses = self.bytes = 0
        self.report = RowReport()
        stored = json.loads(self.state.read_text()) if self.state.is_file() else None
        if stored and self.partial.is_file() and self.partial.stat().st_size >= stored["bytes"]:
            if stored["key"] != self.key:
                raise UserError(
                    f"{self.partial} was begun with another checkpoint, data or setting: remove "
                    f"it and {self.state.name}, or name another out."
                )
            self.comparisons, self.responses = stored["comparisons"], stored["responses"]
            self.bytes = stored["bytes"]
            self.report = RowReport.from_dict(stored["report"])
        with open(self.partial, "ab") as stream:
            stream.truncate(self.bytes)

    def append(self, names: Sequence[str], rewards: Sequence[Sequence[float | None]]) -> None:
        """Write a window's rows, then say that they are whole."""
        rows = [
            json.dumps({"id": name, "response": k, "reward": reward}, ensure_ascii=False) + "\n"
            for name, found in zip(names, rewards, strict=True)
            for k, reward in enumerate(found)
        ]
        with open(self.partial, "ab") as stream:
            stream.write("".join(rows).encode())
            stream.flush()
            os.fsync(stream.fileno())
            self.bytes = stream.tell()
        self.comparisons += len(names)
        self.responses += len(rows)
        aside = self.state.with_name("." + self.state.name)
        aside.write_text(
            json.dumps(
                {
                    "key": self.key,
                    "comparisons": self.comparisons,
                    "responses": self.responses,
                    "bytes": self.bytes,
                    "report": self.report.to_dict(),
                }
            )
        )
        os.replace(aside, self.state)

    def finish(self) -> None:
        """All rows are there: give them their name, as parquet where it says so."""
        if self.out.suffix == ".parquet":
            aside = self.out.with_name("." + self.out.name)
            _to_parquet(self.partial, aside)
            os.replace(aside, self.out)
            self.partial.unlink()
        else:
            os.replace(self.partial, self.out)
        self.state.unlink(missing_ok=True)


def _to_parquet(lines: Path, out: Path) -> None:
    """JSON lines to parquet, a batch at a time."""
    import pyarrow
    import pyarrow.parquet

    schema = pyarrow.schema(
        [("id", pyarrow.string()), ("response", pyarrow.int32()), ("reward", pyarrow.float32())]
    )
    with (
        open(lines, encoding="utf-8") as stream,
        pyarrow.parquet.ParquetWriter(out, schema) as writer,
    ):
        for chunk in batched_list(map(json.loads, stream), 2**14):
            writer.write_table(pyarrow.Table.from_pylist(chunk, schema=schema))


def score_stream(
    comparisons: Iterable[Comparison],
    scorer: Scorer,
    file: ScoreFile,
    check: Callable[[], None],
    progress: Callable[[str, int], None],
) -> None:
    """Score comparisons into `file`, from where it stands; memory holds one window.

    `check` is called before a window is scored: it raises where bad rows are not to be skipped.
    """
    rest = iter(comparisons)
    done = file.comparisons
    for _ in islice(rest, done):
        pass
    for window in batched_list(rest, SORT_WINDOW):
        check()
        found = scorer.comparisons(window, file.report)
        empty = (len(comparison.responses) for comparison in window)
        rows: list[Sequence[float | None]] = [
            r or [None] * k for r, k in zip(found, empty, strict=True)
        ]
        file.append([comparison.id for comparison in window], rows)
        progress("responses scored", file.responses)
