"""What a training will need -> the table for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

BYTES_PER_GIB = 2**30


WHAT = {
    "weights": "fp32",
    "gradients": "fp32, of what trains",
    "optimizer": "AdamW's two moments, fp32",
    "activations": "kept for the backward pass, and at work; no logits: the head reads one token a "
    "response",
    "casts": "weights in bf16, for the products",
    "heap": "freed blocks between those in use: glibc keeps them",
    "exchange": "weights and gradients between devices",
    "process": "Python and its libraries",
}


OTHERWISE = {
    "keeping": "states of the frozen part, before training",
    "loading": "all weights, before they are parted",
    "saving": "a checkpoint, its weights put together",
    "export": "the trained and the exported model, side by side",
}
"""What else a device must hold, before or after the steps."""


def plan_table(facts: Mapping[str, Any]) -> Table:
    """The figures of `tasks.plan`."""
    found = Table("plan", "figure", "of", box=None, padding=(0, 2, 0, 0))
    for row in plan_rows(facts):
        found.add_row(*row)
    return found


def plan_rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, figure, and what it is of."""
    parts = ", ".join(f"{name} {count:,}" for name, count in facts["parts"].items())
    yield "parameters", f"{facts['parameters']:,}", parts
    share = facts["trainable"] / facts["parameters"]
    yield "trainable", f"{facts['trainable']:,}", f"{share:.2%}"
    yield from _memory(facts)
    laid = "" if facts["laid_out"] == facts["steps"] else f", {facts['laid_out']} laid out"
    yield "epoch", f"{facts['steps']:,} steps", f"{facts['comparisons']:,} comparisons{laid}"
    yield "tokens", f"{facts['tokens']:,}", f"distinct ones; {facts['keys']:,} attended keys"
    yield "FLOPs", f"{facts['flops']:.3g}", "of an epoch, attention too"
    if facts["keeping_flops"]:
        kept = "once, for what the frozen part gives"
        yield "FLOPs, frozen", f"{facts['keeping_flops']:.3g}", kept
    if facts["hours"] is not None:
        rate = f"{facts['tflops']:g} TFLOP/s on each of {facts['devices']}"
        yield "hours", f"{facts['hours']:.3g}", f"{facts['epochs']:g} epochs at {rate}"


def _memory(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for name, size in facts["memory"].items():
        if size:
            yield name, gib(size), WHAT[name]
    of = f"{facts['micro_batches']} micro-batch{'es' if facts['micro_batches'] > 1 else ''}"
    several = f"{of} of at most {facts['micro_batch']:,} tokens"
    yield "a step's peak", gib(facts["training"]), f"{facts['peak']}; {several}"
    for name, what in OTHERWISE.items():
        if facts[name] > facts["training"]:
            yield name, gib(facts[name]), what
    where = "each device" if facts["devices"] > 1 else "the device"
    yield "needed", gib(facts["needed"]), f"{gib(facts['available'])} on {where}"


def gib(size: float) -> str:
    """`1.25 GiB`."""
    return f"{size / BYTES_PER_GIB:,.2f} GiB"
