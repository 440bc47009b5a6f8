"""python -m bench.memory: estimates of task=plan beside the memory of real runs.

Each setting is planned and then run by the real command line, to its end with its export. Measured
is the peak of the resident memory of the run's process. SmolLM2-135M on the demo data, on a CPU.
Each setting that is done is a line of memory.jsonl. Prints the table of docs/planning.md.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.accuracy import command
from bench.rounds import table
from bench.works import ROOT

LINES = ROOT / "bench/memory.jsonl"

PRECISIONS = ("32-true", "bf16-mixed")
TUNES = ("full", "last_layers", "lora", "head")
STEPS = {
    "8 comparisons": ("data.limit=60",),
    "8 comparisons in several micro-batches": ("data.limit=80", "data.micro_batch_tokens=700"),
}
"""Options of each kind of step."""

COLUMNS = "a step has|tune|precision|planned, GiB|measured, GiB|difference"


def main() -> None:
    """Plan and run the settings that are missing."""
    with tempfile.TemporaryDirectory(prefix="rmexp-memory-") as folder:
        home = Path(folder)
        for step, more in STEPS.items():
            for tune in TUNES:
                for precision in PRECISIONS:
                    line: dict[str, Any] = {"step": step, "tune": tune, "precision": precision}
                    if any(known.items() >= line.items() for known in lines()):
                        continue
                    words = [f"tune={tune}", f"trainer.precision={precision}", *more]
                    with open(LINES, "a") as stream:
                        stream.write(json.dumps(line | both(home, words)) + "\n")
    print("\n".join(table(COLUMNS, list(rows()))))


def both(home: Path, words: list[str]) -> dict[str, float]:
    """GiB that were planned and that were measured."""
    os.environ |= {"HF_HUB_OFFLINE": "1", "RMEXP_CACHE": f"{home}/cache"}
    common = [*words, "logger=none", "trainer.max_steps=4", "trainer.validations=2"]
    planned = json.loads((command(home, "task=plan", *common) / "plan.json").read_text())
    ran = json.loads((command(home, *common) / "result.json").read_text())
    return {"planned": planned["needed"] / 2**30, "measured": ran["peak_memory_gib"]}


def lines() -> list[dict[str, Any]]:
    """What was measured."""
    return [json.loads(line) for line in LINES.read_text().splitlines()] if LINES.is_file() else []


def rows() -> Iterator[list[str]]:
    """Cells of the table."""
    for one in lines():
        setting = [one["step"], one["tune"], one["precision"]]
        sizes = [f"{one[name]:.2f}" for name in ("planned", "measured")]
        yield [*setting, *sizes, f"{one['planned'] / one['measured'] - 1:+.0%}"]


if __name__ == "__main__":
    main()
