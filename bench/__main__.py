"""python -m bench [WORK ...] [--rounds 3] [--steps 24] [--warmup 4]: rmexp's speed beside others'.

`serve` measures a server under concurrent clients, once; see bench/serving.py. `gpu` measures on a
GPU, and `quick` a few works in 15 minutes, each with settings of its own: python -m bench gpu|quick
--help.

Whole sweeps (sweeps-full, sweeps-last-layers, sweeps-head, sweeps-heads200) are measured once; the
first two take an hour each, and less with --runs 4 --trl-steps 6.

In each round of a work all sides run in turn, each in its own process, in reverse order every
other round. A finished round is a line of rounds.jsonl; bench/RESULTS.md and speed.png are
rewritten after each. Existing rounds with the same steps, warm-up and machine count towards
--rounds, so an interrupted bench resumes. To measure again, delete their lines.
"""

import argparse
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import growth, serving, sweeps
from bench.measurement import heading, machine, process
from bench.results import write
from bench.rounds import append, read
from bench.sweep_results import lines
from bench.sweeps import WORKS as SWEEPS
from bench.works import SIDES, WORKS


def main() -> None:
    """Run the rounds that are missing and write RESULTS.md."""
    if sys.argv[1:2] == ["gpu"]:
        from bench import gpu  # imports torch

        gpu.main(sys.argv[2:])
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a side ends with us
    if sys.argv[1:2] == ["quick"]:
        from bench import quick

        quick.main(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*WORKS, "growth", "serve", *SWEEPS]
    parser.add_argument("works", nargs="*", metavar="WORK", help=f"of {', '.join(names)}; all")
    parser.add_argument("--rounds", type=int, default=3, help="that there should be of each work")
    parser.add_argument("--steps", type=int, default=24, help="timed steps of a round")
    parser.add_argument("--warmup", type=int, default=4, help="steps before the clock starts")
    parser.add_argument(
        "--runs", type=int, default=12, choices=sweeps.GRIDS, help="of a sweep that are measured"
    )
    parser.add_argument(
        "--trl-steps", type=int, help="of a sweep's TRL run that are timed; the whole run"
    )
    parser.add_argument(
        "--accuracy", action="store_true", help="of sweeps: judge both sides on held-out pairs"
    )
    parser.add_argument("--texts", type=int, default=192, help="of serve, for 64 clients")
    parser.add_argument("--checkpoint", help="of serve: a reward model in place of SmolLM2's")
    parser.add_argument(
        "--server", action="append", default=[], help="of serve: NAME=URL, a running server"
    )
    parser.add_argument("--write-only", action="store_true", help="RESULTS.md from what is there")
    chosen = parser.parse_args()
    if unknown := set(chosen.works) - set(names):
        parser.error(f"no such work: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if min(chosen.rounds, chosen.steps, chosen.warmup) < 1:
        parser.error("rounds, steps and warmup are 1 or more")
    if chosen.trl_steps is not None and (chosen.accuracy or chosen.trl_steps < 1):
        parser.error("trl-steps is 1 or more, and accuracy needs TRL's whole run")
    if not chosen.write_only:
        with tempfile.TemporaryDirectory(prefix="rmexp-bench-") as folder:
            asked = chosen.works or names
            once = (*SWEEPS, "serve")
            rounds([name for name in asked if name not in once], Path(folder), chosen)
            if "serve" in asked:
                measure_server(Path(folder), chosen)
            whole_sweeps([name for name in asked if name in SWEEPS], Path(folder), chosen)
    write()


def rounds(names: list[str], folder: Path, chosen: argparse.Namespace) -> None:
    """Round by round over all works, so that every work has a figure early."""
    settings = {"machine": machine(), "steps": chosen.steps, "warmup": chosen.warmup}
    for number in range(chosen.rounds):
        for name in names:
            own = settings | ({"steps": 0, "warmup": 0} if name == "growth" else {})
            if len([r for r in read(name) if r.items() >= own.items()]) > number:
                continue
            line = heading(name)
            if name == "growth":
                found = measure_growth(folder)
            else:
                sides = take_turns(name, number, folder, chosen)
                found = {"precision": WORKS[name].precision, "sides": sides}
            append(line | own | found)
            write()


def whole_sweeps(names: list[str], folder: Path, chosen: argparse.Namespace) -> None:
    """Each sweep that was not measured like this on this machine."""
    asked = {"runs": chosen.runs, "trl_steps": chosen.trl_steps, "judged": chosen.accuracy}
    settings = {"machine": machine()} | asked
    for name in names:
        if any(line.items() >= settings.items() for line in lines(name)):
            continue
        line = heading(name)
        append(line | settings | sweeps.measure(name, folder, process, **asked), sweeps.SWEEPS)
        write()


def measure_server(folder: Path, chosen: argparse.Namespace) -> None:
    """The server and what it is compared with, once."""
    checkpoint = Path(chosen.checkpoint or folder / "start").resolve()
    if chosen.checkpoint is None:
        process("bench.serving", "prepare", folder)
    servers = dict(words.split("=", 1) for words in chosen.server)
    found = serving.measure(folder, checkpoint, chosen.texts, servers, process)
    rewards = [side["random"]["64"].pop("rewards") for side in found.values()]
    gaps = (abs(a - b) for other in rewards for a, b in zip(rewards[0], other, strict=True))
    facts = {"model": checkpoint.name if chosen.checkpoint else "SmolLM2-135M-Instruct"}
    facts |= {"cores": os.cpu_count(), "machine": machine(), "largest_difference": max(gaps)}
    append(heading("serve") | facts | {"serving": found}, serving.FILE)
    write()


def take_turns(
    name: str, number: int, folder: Path, chosen: argparse.Namespace
) -> dict[str, dict[str, Any]]:
    """One round of a work: the measurements of each side."""
    work = WORKS[name]
    if work.needs is not None and not work.needs.is_file():
        sys.exit(f"bench: {work.needs} is not there")
    settings = (chosen.steps, chosen.warmup)
    if not (folder / name).is_dir():
        process("bench.prepare", name, folder, *settings)
    order = ["rmexp", *work.against]
    found = {}
    for side in reversed(order) if number % 2 else order:
        found[side] = process("bench.sides", side, name, folder, *settings)
        rate = found[side][f"{work.unit}_per_second"]
        print(f"{name}  round {number + 1}  {rate:7.3f} {work.unit}/s  {SIDES[side]}", flush=True)
    ours = found["rmexp"].get("rewards")
    for figures in found.values():  # rewards are many: what is kept is how far they are apart
        if theirs := figures.pop("rewards", None):
            gaps = (abs(a - b) for a, b in zip(ours, theirs, strict=True))
            figures["largest_difference"] = max(gaps)
    return found


def measure_growth(folder: Path) -> dict[str, Any]:
    """One round of growth, in a folder of its own."""
    with tempfile.TemporaryDirectory(dir=folder) as own:
        return {"growth": growth.measure(Path(own), process)}


if __name__ == "__main__":
    main()
