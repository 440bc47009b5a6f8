"""python -m bench gpu [CASE ...] [--minutes 8]: correctness, speed and memory on one GPU.

Self-contained: models are drawn from configurations, SmolLM2 is in its package, nothing is fetched.
Cases run one after another in one process, the most telling first. Each that is done is a line of
gpu.jsonl; a process that dies costs the case that it was in, and what does not fit into the minutes
is skipped, and says so. `--toy --device cpu` runs the same code at the size of a test.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.gpu_cases import CASES
from bench.gpu_results import FILE, tables

GRACE = 20.0
"""Seconds that a case may overrun the minutes before its process is ended."""


def main(words: Sequence[str]) -> None:
    """Run the cases and print the tables."""
    parser = argparse.ArgumentParser(
        "python -m bench gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"of {', '.join(CASES)}; all")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which cases are skipped")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny models, rows and numbers of steps")
    parser.add_argument("--out", type=Path, default=FILE, help="file of the results")
    chosen = parser.parse_args(words)
    if unknown := set(chosen.cases) - set(CASES):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    if (chosen.toy or chosen.device == "cpu") and chosen.out == FILE:
        parser.error(f"--toy and --device cpu need --out FILE: {FILE.name} is for a GPU")
    run(chosen, time.monotonic() + 60 * chosen.minutes)
    print(tables(read(chosen.out)))


def run(chosen: argparse.Namespace, deadline: float) -> None:
    """Start processes until every case has a line."""
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    chosen.out.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory(prefix="rmexp-gpu-") as folder:
        while left := remaining(chosen):
            if time.monotonic() >= deadline:
                for case in left:
                    add(chosen.out, case, skipped=f"the {chosen.minutes:g} minutes were used")
                return
            error = work(chosen, folder, deadline, left)
            if (after := remaining(chosen)) and error:
                add(chosen.out, after[0], error=error)


def work(
    chosen: argparse.Namespace, folder: str, deadline: float, left: Sequence[str]
) -> str | None:
    """Run cases in one process; returns why it ended early."""
    seconds = deadline - time.monotonic()
    words = [folder, chosen.out.resolve(), seconds, chosen.device, int(chosen.toy), *left]
    command = [sys.executable, "-m", "bench.gpu_cases", *map(str, words)]
    try:
        done = subprocess.run(
            command, stderr=subprocess.PIPE, text=True, timeout=seconds + GRACE
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"not done when the {chosen.minutes:g} minutes were used"
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1][:500]


def remaining(chosen: argparse.Namespace) -> list[str]:
    """The cases without a line, in their order."""
    done = {line["case"] for line in read(chosen.out)}
    return [case for case in CASES if case in (chosen.cases or CASES) and case not in done]


def add(file: Path, case: str, **facts: Any) -> None:
    """Append a line."""
    with open(file, "a") as stream:
        stream.write(json.dumps({"case": case} | facts) + "\n")


def read(file: Path) -> list[dict[str, Any]]:
    """All lines."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []
