"""Table of a plan for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.table import Table

from rmexp.core.console import format_bytes

MEANING = {
    "weights": "fp32; frozen linear layers in the precision that they compute in",
    "gradients": "fp32, of what trains",
    "optimizer": "AdamW's two moments, fp32",
    "activations": "saved for the backward pass, and temporary; no logits: the head reads one "
    "token of each response",
    "casts": "copies in bf16 of weights that train",
    "exchange": "weights and gradients between devices",
    "process": "Python and its libraries",
    "keeping": "the frozen layers, whose outputs are cached before training",
    "loading": "all weights, before they are sharded",
    "saving": "a checkpoint with full weights",
    "export": "the trained and the exported model together",
}

UNKNOWN = (
    "Not in the plan, as only a run can tell: memory that the allocator holds between tensors "
    "(on a CPU 5% to 20% more, about 40% with LoRA), and workspaces of libraries."
)


def plan_table(facts: Mapping[str, Any]) -> Table:
    """The facts of `task=plan`: name, figure and meaning."""
    table = Table("plan", "figure", "of", box=None, padding=(0, 2, 0, 0))
    for row in _rows(facts):
        table.add_row(*row)
    return table


def _rows(facts: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    parts = ", ".join(f"{name} {count:,}" for name, count in facts["parts"].items())
    yield "parameters", f"{facts['parameters']:,}", parts
    share = facts["trainable"] / facts["parameters"]
    yield "trainable", f"{facts['trainable']:,}", f"{share:.2%}"
    for name, size in facts["memory"].items():
        if size:
            yield name, format_bytes(size), MEANING[name]
    plural = "es" if facts["micro_batches"] > 1 else ""
    size = (
        f"{facts['micro_batches']} micro-batch{plural} of at most {facts['micro_batch']:,} tokens"
    )
    yield "a step's peak", format_bytes(facts["training"]), f"{facts['peak']} pass; {size}"
    for name in ("keeping", "loading", "saving", "export"):
        if facts[name] > facts["training"]:
            yield name.replace("keeping", "feature pass"), format_bytes(facts[name]), MEANING[name]
    where = "each device" if facts["devices"] > 1 else "the device"
    yield "needed", format_bytes(facts["needed"]), f"{format_bytes(facts['available'])} on {where}"
    laid = "" if facts["laid_out"] == facts["steps"] else f", {facts['laid_out']} laid out"
    yield "epoch", f"{facts['steps']:,} steps", f"{facts['comparisons']:,} comparisons{laid}"
    yield "tokens", f"{facts['tokens']:,}", f"distinct ones; {facts['keys']:,} attended keys"
    yield "FLOPs", f"{facts['flops']:.3g}", "of an epoch, attention too"
    if facts["keeping_flops"]:
        yield "FLOPs, frozen", f"{facts['keeping_flops']:.3g}", "once, for the cached activations"
    if facts["hours"] is not None:
        rate = f"{facts['tflops']:g} TFLOP/s on each of {facts['devices']}"
        yield "hours", f"{facts['hours']:.3g}", f"{facts['epochs']:g} epochs at {rate}"
