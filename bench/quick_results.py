"""quick.jsonl -> the section of RESULTS.md on quick measurements."""

import json
from pathlib import Path
from statistics import median
from typing import Any

from bench.measurement import machine_words
from bench.rounds import HOME, spread, table, verdict
from bench.sweeps import ALL as SWEEPS
from bench.sweeps import RUNS
from bench.works import QUICK, SIDES

FILE = HOME / "quick.jsonl"

Line = dict[str, Any]

COLUMNS = "work|against|rounds x steps|rmexp|other|ratio (min-max)|floor|aim|met?"

INTRODUCTION = """Written by `make bench-quick` (15 minutes on two cores) from `quick.jsonl`: works
of the table above with the first layers of SmolLM2 alone, in the precision that rmexp takes on the
machine. The sides run at the same time and take turns, each round on other pairs, with as many
steps as fit into the minutes by those before. Rates are pairs a second (in scoring
responses); ratios compare tokens of the judged pairs a second, padding not counted, as a turn of
TRL grouped by length has other pairs than rmexp's. Fewer layers leave more of a step to the
embeddings and their optimizer, which cost all sides the same: with all 30 ratios are larger."""


def compared(found: dict[str, Any]) -> dict[str, Any]:
    """A round without its rewards: what is kept is how far they are apart."""
    ours = found["rmexp"].get("rewards")
    for figures in found.values():
        if theirs := figures.pop("rewards", None):
            gaps = (abs(a - b) for a, b in zip(ours, theirs, strict=True))
            figures["largest_difference"] = max(gaps)
    return found


def quick(file: Path = FILE) -> str:
    """The section: of each machine, the newest line of each work; empty where there is none."""
    lines = map(json.loads, file.read_text().splitlines() if file.is_file() else ())
    machines: dict[str, dict[str, Line]] = {}
    for line in lines:
        machines.setdefault(machine_words(line["machine"]), {})[line["work"]] = line
    if not machines:
        return ""
    parts = ["## Quick", "", INTRODUCTION, ""]
    for machine, found in machines.items():
        lines = [found[name] for name in (*QUICK, *SWEEPS) if name in found]
        commits = dict.fromkeys(str(line["commit"]) for line in lines)
        dates = sorted(line["date"][:10] for line in lines)
        kinds = {f"{line['precision']}, {line['layers']} of 30 layers" for line in lines}
        said = f"{', '.join(sorted(kinds))}; measured {dates[-1]} at {', '.join(commits)}"
        rows = [row for line in lines for row in _rows(line)]
        parts += [f"{machine}: {said}.", "", *table(COLUMNS, rows), ""]
    return "\n".join(parts)


def _rows(line: Line) -> list[list[str]]:
    if line["work"] in SWEEPS:
        return [_sweep_row(line)]
    work = QUICK[line["work"]]
    return [_row(line, side, work.against[side]) for side in work.against]


def _row(line: Line, side: str, asked: tuple[float, float | None]) -> list[str]:
    work, rounds = QUICK[line["work"]], line["rounds"]
    ours, theirs = (
        median(r[s][f"{work.unit}_per_second"] for r in rounds) for s in ("rmexp", side)
    )
    ratios = [_rate(r["rmexp"], work.unit) / _rate(r[side], work.unit) for r in rounds]
    shown = [f"{ours:.2f}", f"{theirs:.2f}"]
    floor, aim = asked
    limits = [f"{floor}x", f"{aim}x" if aim else "", verdict(median(ratios), floor, aim)]
    return [work.title, SIDES[side], _extent(line), *shown, spread(ratios, "{:.2f}x"), *limits]


def _sweep_row(line: Line) -> list[str]:
    sweep, rounds = SWEEPS[line["work"]], line["rounds"]
    ours, theirs = (
        median(times * r[side]["seconds"] for r in rounds)
        for side, times in (("rmexp", 1), ("trl", RUNS))
    )
    ratios = [RUNS * r["trl"]["seconds"] / r["rmexp"]["seconds"] for r in rounds]
    title = f"sweep of {RUNS} heads over {sweep.rows} HH pairs, {sweep.epochs} epochs, whole"
    against = f"{RUNS} times a run of TRL with its defaults"
    shown = [f"{ours:,.0f} s", f"{theirs:,.0f} s"]
    return [title, against, _extent(line), *shown, spread(ratios, "{:.1f}x"), "", "", ""]


def _rate(figures: Line, unit: str) -> float:
    """Real tokens of the pairs a second, or responses a second."""
    if unit == "responses":
        return float(figures["responses_per_second"])
    return float(figures["pair_tokens"] / sum(figures["seconds"]))


def _extent(line: Line) -> str:
    few, most = min(line["steps"]), max(line["steps"])
    return f"{len(line['rounds'])} x {few}" + (f"-{most}" if most > few else "")
