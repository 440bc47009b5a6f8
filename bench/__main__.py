"""python -m bench [--rounds 3] [--steps 24] [--warmup 4]: pairs a second, rmexp against TRL.

Both sides train from the same weights on the same HH pairs in the same order, 8 pairs a step, bf16
where the machine is fast at it, fused AdamW, clip 1. Each side is a process of its own; the sides
take turns; pairs/s is over the whole round after warm-up; ratios are taken within a round.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.sides import HH, PAIRS_A_STEP

ROOT = Path(__file__).parent.parent
SIDES = {
    "rmexp": "rmexp",
    "rmexp-padded": "rmexp, model.layout=padded",
    "trl": "TRL, checkpointing off",
    "trl-default": "TRL, its defaults (checkpointing on)",
    "trl-by-length": "TRL, checkpointing off, grouped by length",
}


def main() -> None:
    """Run the rounds and write RESULTS.md."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=24, help="timed steps of a round")
    parser.add_argument("--warmup", type=int, default=4, help="steps before the clock starts")
    parser.add_argument("--sides", nargs="*", default=list(SIDES), choices=list(SIDES))
    chosen = parser.parse_args()
    if not HH.is_file():
        sys.exit(f"bench: {HH} is not there")
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        run("prepare", folder, chosen)
        for number in range(chosen.rounds):
            rounds.append({side: run(side, folder, chosen) for side in chosen.sides})
            for side, found in rounds[-1].items():
                print(
                    f"round {number + 1}  {found['pairs_per_second']:5.2f} pairs/s  {SIDES[side]}",
                    flush=True,
                )
    (ROOT / "bench" / "RESULTS.md").write_text(results(rounds, chosen))


def run(side: str, folder: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """One side in its own process; the last line that it prints is JSON."""
    words = [side, folder, str(chosen.steps + chosen.warmup), str(chosen.warmup)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.sides", *words],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"bench: the side {side} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1]) if side != "prepare" else {}


def results(rounds: list[dict[str, Any]], chosen: argparse.Namespace) -> str:
    """RESULTS.md: the machine, the medians, the ratios, and how far the losses agree."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "trl"))
    machine = platform.processor() or platform.machine()
    lines = [
        "# Speed against TRL",
        "",
        f"HH harmless, {PAIRS_A_STEP} pairs a step; median of {len(rounds)} rounds of "
        f"{chosen.steps} steps after {chosen.warmup} of warm-up, sides in turn. "
        "Written by `python -m bench`.",
        "",
        f"Machine: {machine}, {os.cpu_count()} CPUs; {packages}.",
        "",
        "| side | pairs/s | rmexp is faster by | peak memory, GiB | largest difference of a loss |",
        "|---|---|---|---|---|",
    ]
    return "\n".join([*lines, *(row(side, rounds) for side in chosen.sides)]) + "\n"


def row(side: str, rounds: list[dict[str, Any]]) -> str:
    """A side's line of the table; losses are compared where the order of pairs is the same."""
    speed = statistics.median(r[side]["pairs_per_second"] for r in rounds)
    ratio = statistics.median(
        r["rmexp"]["pairs_per_second"] / r[side]["pairs_per_second"] for r in rounds
    )
    memory = statistics.median(r[side]["peak_memory_gib"] for r in rounds)
    gaps = (zip(r["rmexp"]["losses"], r[side]["losses"], strict=False) for r in rounds)
    gap = max(abs(a - b) for pairs in gaps for a, b in pairs)
    agreement = "another order" if side == "trl-by-length" else f"{gap:.1e}"
    return f"| {SIDES[side]} | {speed:.2f} | {ratio:.2f}x | {memory:.1f} | {agreement} |"


if __name__ == "__main__":
    main()
