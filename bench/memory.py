"""python -m bench.memory: estimates of task=plan beside the memory of real runs.

Each setting is planned and then run by the real command line, to its end with its export; what it
took is the peak of its process's resident memory. SmolLM2-135M on the demo data, on a CPU. Each
that is done is a line of memory.jsonl; docs/plan.md is rewritten after it.
"""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from bench.accuracy import command
from bench.rounds import table
from bench.works import ROOT

LINES = ROOT / "bench/memory.jsonl"
PAGE = ROOT / "docs/plan.md"

PRECISIONS = ("32-true", "bf16-mixed")
TUNES = ("full", "lora", "last_layers", "head")
STEPS = {
    "8 comparisons": ("data.limit=60",),
    "8 comparisons in several micro-batches": ("data.limit=80", "data.micro_batch_tokens=700"),
    "4 comparisons": ("data.limit=40", "data.batch_size=4", "data.micro_batch_tokens=1024"),
}
"""A step -> its words. `planning.live.GAPS` was chosen by the last of them."""

COLUMNS = "a step has|tune|precision|planned|measured|difference"

HEAD = """# What task=plan says, and what a run takes

Written by `python -m bench.memory`: SmolLM2-135M on a CPU, GiB of a whole run with its export, the
process in it. A plan counts tensors; what glibc's heap loses between them is a measured share.

"""


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
                    write()
    write()


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


def write() -> None:
    """docs/plan.md of all that was measured."""
    rows = [
        [
            one["step"],
            one["tune"],
            one["precision"],
            f"{one['planned']:.2f}",
            f"{one['measured']:.2f}",
            f"{one['planned'] / one['measured'] - 1:+.0%}",
        ]
        for one in lines()
    ]
    PAGE.write_text(HEAD + "\n".join(table(COLUMNS, rows)) + "\n")


if __name__ == "__main__":
    main()
