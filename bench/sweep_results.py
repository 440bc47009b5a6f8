"""sweeps.jsonl -> the section of RESULTS.md on whole sweeps."""

import json
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from bench.rounds import table, verdict
from bench.sweeps import HEADS_SECONDS, OVERHEAD, ROWS, RUNS, SWEEPS, WARMUP, WORKS
from bench.works import LONGEST_HH, PAIRS

Line = Mapping[str, Any]


def lines(name: str) -> list[dict[str, Any]]:
    """What was measured of a work, oldest first."""
    found = SWEEPS.read_text().splitlines() if SWEEPS.is_file() else []
    return [line for line in map(json.loads, found) if line["work"] == name]


def sweeps() -> str:
    """The section; empty where nothing was measured. The newest line of each work counts."""
    newest = {name: found[-1] for name in WORKS if (found := lines(name))}
    if not newest:
        return ""
    beside = {name: line for name, line in newest.items() if "trl" in line}
    columns = (
        "what trains|epochs|rmexp, 12 runs|TRL, a run x 12|ratio|floor|met?|overhead|below|met?"
    )
    parts = ["## Whole sweeps", "", INTRODUCTION, ""]
    if beside:
        parts += [*table(columns, [_row(name, line) for name, line in beside.items()]), ""]
    for name, line in newest.items():
        parts += [f"- {note}." for note in _notes(name, line)]
    return "\n".join([*parts, ""])


INTRODUCTION = f"""Seconds from the start of the command's process to its end, imports and loading,
the sweep's estimate, comparison and report among them: `python -m rmexp -m` with 2 losses x 3
margins x 2 seeds = {RUNS} runs, {ROWS} HH pairs up to {LONGEST_HH} tokens, {PAIRS} pairs a step,
bf16, with nothing in its cache; beside {RUNS} cold runs of TRL's RewardTrainer (its defaults, so
with checkpointing; its own loss; the same weights, rows, order and optimizer). Validation is of one
pair, and nothing is exported. **One run of TRL's is measured and multiplied by {RUNS}.** Overhead
is what the sweep takes beyond its jobs' training and validation and the states under what trains,
as a share of these."""


def _row(name: str, line: Line) -> list[str]:
    work, ours, theirs = WORKS[name], line["rmexp"], line["trl"]
    assert work.floor is not None
    ratio = RUNS * theirs["seconds"] / ours["seconds"]
    return [
        work.title,
        str(work.epochs),
        f"{ours['seconds']:,.0f} s",
        f"{RUNS * theirs['seconds']:,.0f} s",
        f"{ratio:.1f}x",
        f"{work.floor:g}x",
        verdict(ratio, work.floor, None),
        f"{ours['overhead']:.1%}",
        f"{OVERHEAD:.0%}",
        "no" if ours["overhead"] >= OVERHEAD else "yes",
    ]


def _notes(name: str, line: Line) -> Iterator[str]:
    """Notes on a row of the table."""
    ours, theirs = line["rmexp"], line.get("trl")
    title, machine = WORKS[name].title, line["machine"]
    if theirs is None:
        share = median(ours["jobs"]["training_seconds"])
        met = "met" if ours["seconds"] < HEADS_SECONDS else "not met"
        yield (
            f"{title} (2 losses x 10 margins x 10 seeds, {WORKS[name].epochs} epochs, the model's "
            f"states in the cache): {ours['seconds']:.0f} s, below {HEADS_SECONDS:.0f} s is asked, "
            f"{met}; a head's share of the training is {share:.2f} s"
        )
    else:
        if ours["measured_runs"] < RUNS:
            yield (
                f"{title}: {ours['measured_runs']} of the {RUNS} runs were measured "
                f"({ours['measured_seconds']:.0f} s), the others are assumed to take as long as "
                "these without the first one"
            )
        if theirs["timed_steps"] < theirs["steps"]:
            yield (
                f"{title}: of TRL's {theirs['steps']} steps {theirs['timed_steps']} were timed "
                f"after {WARMUP} to warm up; the others are extrapolated by processed "
                "tokens, padding included"
            )
        if ours["features_seconds"]:
            yield (
                f"{title}: caching activations took {ours['features_seconds']:.0f} s of the sweep, "
                "once"
            )
        yield (
            f"{title}: a TRL run takes {theirs['seconds']:,.0f} s, {theirs['trainable']:,} "
            f"parameters train; its first step ends after {theirs['until_first_step_ends']:.0f} s"
        )
    if "accuracy" in line:
        shown = (
            f"{side} {value:.3f} [{low:.3f}, {high:.3f}]"
            for side, (value, low, high) in line["accuracy"].items()
        )
        yield f"{title}: accuracy on held-out pairs after the same training, {', '.join(shown)}"
    yield (
        f"{title}: measured {line['date'][:10]} at {line['commit']} on {machine['cpu']}, "
        f"{machine['cores']} cores"
    )
