"""python -m bench.rows [FILE] [--rows 1000000]: seconds and memory to recognise and read rows.

Without a FILE, rows of four layouts are written: prompt with two texts, dialogues as messages,
alpaca's instruction and input, and HH's text. Nothing is tokenised.
"""

import argparse
import json
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmexp.data.formats.auto import Auto
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport

WORDS = [f"word{number}" for number in range(90)]


def main() -> None:
    """Write the rows, read them, and print rows, seconds, rows a second, and peak memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path, help="rows to read, of any container")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows to write without a file")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rmexp-bench-") as folder:
        file = chosen.file or write(Path(folder) / "rows.jsonl", chosen.rows)
        print(json.dumps(measure(file)))


def write(file: Path, count: int) -> Path:
    """A file of `count` rows, of which each four have the four layouts."""
    with open(file, "w", encoding="utf-8") as stream:
        for row in map(made, range(count)):
            stream.write(json.dumps(row) + "\n")
    return file


def made(number: int) -> dict[str, Any]:
    """One row; its texts have 30 to 90 words."""
    asked, better, worse = (text(number + shift) for shift in (0, 3, 7))
    user = {"role": "user", "content": asked}
    sides = {"chosen": better, "rejected": worse}
    if number % 4 == 0:
        return {"prompt": asked, **sides, "subset": f"s{number % 3}"}
    if number % 4 == 1:
        return {
            name: [user, {"role": "assistant", "content": answer}] for name, answer in sides.items()
        }
    if number % 4 == 2:
        return {"instruction": asked, "input": "", **sides}
    return {k: f"\n\nHuman: {asked}\n\nAssistant: {answer}" for k, answer in sides.items()}


def text(number: int) -> str:
    """Words that differ from row to row."""
    return " ".join([*WORDS[: 30 + number % 60], str(number)])


def measure(file: Path) -> dict[str, Any]:
    """Rows, comparisons, seconds and CPU seconds of reading, and the peak of resident memory."""
    report, started, before = RowReport(), time.perf_counter(), os.times()
    kept = count(read_comparisons({None: str(file)}, Auto(), report))
    after = os.times()
    return {
        "rows": report.read,
        "comparisons": kept,
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(after.user + after.system - before.user - before.system, 2),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "read_as": dict(report.read_as),
    }


def count(items: Iterator[Any]) -> int:
    """How many there are, without keeping them."""
    return sum(1 for _ in items)


if __name__ == "__main__":
    main()
