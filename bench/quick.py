"""python -m bench quick [WORK ...] [--minutes 15] [--steps 24]: rmexp's speed beside others', soon.

The sides of a work run at the same time and take turns: each does a few steps while the others
wait, three rounds of them. How many follows from the minutes and the steps before, at first from
the first one of each side. A work that is done is a line of quick.jsonl and rows of its section in
RESULTS.md, apart from the full rounds; one that fails costs no other.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from bench import sweeps
from bench.measurement import command, heading, machine, process
from bench.quick_results import FILE, compared, quick
from bench.results import write
from bench.rounds import append
from bench.works import QUICK, QUICK_LAYERS, SIDES

ROUNDS = 3
SWEEP = "quick-sweep"
TRL_STEPS = 4
"""Of TRL's run in a sweep that are timed."""

SHARES = {"quick-hh": 36, "quick-lists": 25, "quick-uniform": 12, "quick-scoring": 10, SWEEP: 20}
"""Of the minutes; what a work leaves over goes to those after it."""


def main(words: Sequence[str]) -> None:
    """Measure, print and write the table; the status is 1 if a work failed."""
    parser = argparse.ArgumentParser(
        "python -m bench quick", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(SHARES)}; all")
    parser.add_argument("--minutes", type=float, default=15.0, help="for all works together")
    parser.add_argument("--steps", type=int, default=24, help="most of a work, all rounds together")
    parser.add_argument("--out", type=Path, default=FILE, help="file of the results")
    chosen = parser.parse_args(words)
    if unknown := set(chosen.works) - set(SHARES):
        parser.error(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(SHARES)}")
    if chosen.steps < ROUNDS:
        parser.error(f"steps is {ROUNDS} or more: one a round")
    left = [name for name in SHARES if name in (chosen.works or SHARES)]
    deadline, failed = time.monotonic() + 60 * chosen.minutes, []
    with tempfile.TemporaryDirectory(prefix="rmexp-quick-") as folder:
        while left:
            until = time.monotonic()
            until += (deadline - until) * SHARES[left[0]] / sum(SHARES[name] for name in left)
            name = left.pop(0)
            try:
                if time.monotonic() > deadline:
                    sys.exit("the minutes were used")
                work = Path(folder)
                found = (
                    measure_sweep(name, work, deadline)
                    if name == SWEEP
                    else measure(name, work, until, deadline, chosen.steps)
                )
                append(heading(name) | found, chosen.out)
            except SystemExit as stopped:
                if isinstance(stopped.code, int):  # a signal to us
                    raise
                print(f"{name} failed: {stopped.code}", file=sys.stderr, flush=True)
                failed.append(name)
    print(quick(chosen.out))
    if chosen.out == FILE:
        write()
    if failed:
        sys.exit(f"bench: failed: {', '.join(failed)}")


class Side:
    """A running side of a work, which waits until its turn."""

    def __init__(self, side: str, name: str, folder: Path, steps: int) -> None:
        self.what, self.log = f"{SIDES[side]} of {name}", folder / f"{name}-{side}.log"
        words = (side, name, folder, steps, 1, "turns")
        with open(self.log, "w") as log:
            pipe = subprocess.PIPE
            asked = command("bench.sides", *words) | {"stdin": pipe, "stdout": pipe, "stderr": log}
            self.process: Any = subprocess.Popen(**asked)

    def figures(self) -> dict[str, Any]:
        """What it prints at the end of its turn, or of its warm-up."""
        for line in self.process.stdout:
            if line.startswith('{"'):  # TRL prints a Python dictionary every ten steps
                found: dict[str, Any] = json.loads(line)
                return found
        sys.exit(f"{self.what} ended or took too long:\n{self.log.read_text()[-3000:]}")

    def turn(self, steps: int) -> dict[str, Any]:
        with suppress(BrokenPipeError):  # it ended; `figures` reports that
            print(steps, file=self.process.stdin, flush=True)
        return self.figures()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.kill()
        self.process.communicate()


def measure(name: str, folder: Path, until: float, deadline: float, most: int) -> dict[str, Any]:
    """The rounds of a work until about `until`; at the deadline its processes are ended.

    Args:
        most: steps in all rounds together.
    """
    work = QUICK[name]
    rounds: list[Any] = []
    steps: list[int] = []
    process("bench.prepare", name, folder, most, 1)
    scale = {"rmexp": 1} | dict.fromkeys(work.against, work.accumulate)  # micro-batches of a step
    with ExitStack() as stack:
        sides: dict[str, Side] = {}
        ender = threading.Timer(deadline - time.monotonic(), lambda: end(sides.values()))
        stack.callback(ender.cancel)
        ender.start()
        step = 0.0
        for side in scale:
            sides[side] = stack.enter_context(Side(side, name, folder, most))
            seconds = sides[side].figures()["seconds"][0]
            print(f"{name}  first step {seconds:6.2f} s  {SIDES[side]}", flush=True)
            step += seconds * scale[side]
        for number in range(ROUNDS):
            if rounds and time.monotonic() + step > deadline:
                break  # the rounds that there are count
            before, left = sum(steps), ROUNDS - number
            fit = int((until - time.monotonic()) / step / left)
            steps.append(max(1, min(fit, (most - before) // left)))
            found = {}
            for side in reversed(scale) if number % 2 else scale:
                found[side] = sides[side].turn(steps[-1] * scale[side])
                rate = f"{found[side][f'{work.unit}_per_second']:7.3f} {work.unit}/s"
                said = f"{name}  round {number + 1}  {steps[-1]} steps  {rate}  {SIDES[side]}"
                print(said, flush=True)
            step = sum(sum(figures["seconds"]) for figures in found.values()) / steps[-1]
            rounds.append(compared(found))
    precision = "bf16-mixed" if work.autocast() else "32-true"
    facts = {"machine": machine(), "precision": precision, "layers": work.layers}
    return facts | {"steps": steps, "rounds": rounds}


def end(sides: Any) -> None:
    """Kill processes: who reads from them sees their end."""
    for side in list(sides):
        side.process.kill()


def measure_sweep(name: str, folder: Path, deadline: float) -> dict[str, Any]:
    """Whole sweeps of heads, as many as fit: each starts without caches."""
    rounds: list[Any] = []
    took = 0.0
    while len(rounds) < ROUNDS and time.monotonic() + took < deadline:
        began = time.monotonic()
        found = sweeps.measure(name, folder, process, sweeps.RUNS, TRL_STEPS, judged=False)
        shutil.rmtree(folder / name)
        rounds.append({side: {"seconds": found[side]["seconds"]} for side in ("rmexp", "trl")})
        took = time.monotonic() - began
    facts = {"machine": machine(), "layers": QUICK_LAYERS, "steps": [TRL_STEPS]}
    return facts | {"precision": sweeps.precision(name), "rounds": rounds}
