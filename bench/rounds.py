"""rounds.jsonl, one line per round, and the format of figures over several rounds."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.works import Work

HOME = Path(__file__).parent
ROUNDS = HOME / "rounds.jsonl"

Round = dict[str, Any]


def append(line: Round, file: Path = ROUNDS) -> None:
    """Append a round."""
    with open(file, "a") as stream:
        stream.write(json.dumps(line) + "\n")


def read(name: str) -> list[Round]:
    """All rounds of a work, oldest first."""
    lines = ROUNDS.read_text().splitlines() if ROUNDS.is_file() else []
    return [line for line in map(json.loads, lines) if line["work"] == name]


def newest(name: str) -> list[Round]:
    """The rounds that figures of a work are based on: those with the settings of the last one."""
    found = read(name)
    keys = ("machine", "steps", "warmup")
    return [r for r in found if all(r[key] == found[-1][key] for key in keys)]


def ratios(work: Work, side: str, found: Sequence[Round]) -> list[float]:
    """rmexp's rate over the other side's, a round each."""
    key = f"{work.unit}_per_second"
    return [r["sides"]["rmexp"][key] / r["sides"][side][key] for r in found]


def spread(values: Sequence[float], form: str) -> str:
    """The median, and the smallest and largest where there are several."""
    shown = form.format(median(values))
    if len(values) == 1:
        return shown
    return f"{shown} ({form.format(min(values))}-{form.format(max(values))})"


def verdict(value: float, floor: float, aim: float | None) -> str:
    """Which of the two a value reaches."""
    return "no" if value < floor else "aim" if aim and value >= aim else "floor"


def table(columns: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Markdown."""
    names = columns.split("|")
    return ["| " + " | ".join(cells) + " |" for cells in (names, ["---"] * len(names), *rows)]
