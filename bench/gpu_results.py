"""gpu.jsonl -> tables, and whether the floors are reached."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.rounds import HOME, table
from bench.works import SIDES

FILE = HOME / "gpu.jsonl"

FLOORS = {
    ("hh", "trl-default"): 2.0,
    ("k8", "trl-default"): 4.0,
    ("uniform", "trl-default"): 0.95,
    ("uniform", "trl"): 0.95,
}
"""(case, side) -> least rate of rmexp over that side's."""

MFU_FLOOR = 0.35

DENSE_BF16 = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "B200": 2250.0}
"""TFLOP/s that the maker names for dense bf16, by a part of the device's name."""

Line = Mapping[str, Any]


def gpu() -> str:
    """The part of RESULTS.md."""
    if not FILE.is_file():
        return (
            "## GPU\n\n**Never run**: no GPU was at hand. `python -m bench gpu` measures "
            "correctness, speed and memory on one GPU in 8 minutes, and fills this part.\n"
        )
    return "## GPU\n\n" + tables([json.loads(one) for one in FILE.read_text().splitlines()]) + "\n"


def tables(lines: Sequence[Line]) -> str:
    """Markdown: the machine, rates and memory, floors, and what was skipped or failed."""
    found = {line["case"]: line for line in lines}
    columns = "case|model|side|pairs/s|rmexp is|step, ms|peak, GiB|MFU"
    parts = [*_machine(found.get("machine", {})), "", *table(columns, list(_rates(lines))), ""]
    parts += table("floor|least|found|met?", list(_floors(found)))
    parts += ["", *(f"- {sentence}" for sentence in _notes(lines))]
    return "\n".join(parts)


def _machine(line: Line) -> Iterator[str]:
    if "device" in line:
        yield f"{line['device']}, {line['memory_gib']:.0f} GiB, commit {line['commit']}."
    if "gemm_teraflops" in line:
        yield f"Matmuls of the 1.5B model's shapes in bf16: {line['gemm_teraflops']:.1f} TFLOP/s."


def _rates(lines: Sequence[Line]) -> Iterator[list[str]]:
    peak = _peak(next((line for line in lines if line["case"] == "machine"), {}))
    for line in lines:
        ours = line.get("sides", {}).get("rmexp", {})
        for side, facts in line.get("sides", {}).items():
            name = SIDES[side] if side != "rmexp" else " ".join(["rmexp", *line.get("words", ())])
            if "pairs_per_second" not in facts:
                yield [line["case"], line["model"], name, facts["failed"], *[""] * 4]
                continue
            memory, ratio = facts["peak_gib"], _ratio(ours, facts)
            reached = facts.get("teraflops", 0) / facts["step_seconds"]
            yield [
                line["case"],
                line["model"],
                name,
                f"{facts['pairs_per_second']:.1f}",
                f"{ratio:.2f}x" if ratio and side != "rmexp" else "",
                f"{facts['step_seconds'] * 1e3:.0f}",
                f"{memory:.1f}" if memory is not None else "",
                f"{reached / peak:.0%}" if reached and peak else "",
            ]


def _floors(found: Mapping[str, Line]) -> Iterator[list[str]]:
    for (case, side), floor in FLOORS.items():
        sides = found.get(case, {}).get("sides", {})
        ratio = _ratio(sides.get("rmexp", {}), sides.get(side, {}))
        shown = f"{case}, against {SIDES[side]}"
        yield [shown, f"{floor:g}x", *_verdict(ratio, floor, "{:.2f}x")]
    facts = found.get("mfu", {}).get("sides", {}).get("rmexp", {})
    peak = _peak(found.get("machine", {}))
    reached = facts["teraflops"] / facts["step_seconds"] / peak if facts and peak else None
    yield ["MFU at 1.5B", f"{MFU_FLOOR:.0%}", *_verdict(reached, MFU_FLOOR, "{:.0%}")]


def _verdict(value: float | None, floor: float, form: str) -> list[str]:
    if value is None:
        return ["", "not measured"]
    return [form.format(value), "pass" if value >= floor else "FAIL"]


def _ratio(ours: Line, theirs: Line) -> float | None:
    rates = [side.get("pairs_per_second") for side in (ours, theirs)]
    return rates[0] / rates[1] if all(rates) else None


def _peak(machine: Line) -> float | None:
    """TFLOP/s of the device: the maker's, or those that its matmuls reach."""
    name = machine.get("device", "")
    known = (value for part, value in DENSE_BF16.items() if part in name)
    return next(known, machine.get("gemm_teraflops"))


def _notes(lines: Sequence[Line]) -> Iterator[str]:
    for line in lines:
        case = line["case"]
        if "skipped" in line:
            yield f"{case}: skipped, as {line['skipped']}."
        if "error" in line:
            yield f"{case}: failed. {line['error']}"
        if "passed" in line:
            names = "; ".join(line["failed"])
            yield f"tests: {line['passed']} passed, {len(line['failed'])} failed. {names}"
        if line.get("split", {}).get("kernels"):
            s = line["split"]
            yield (
                f"a step of {s['step_ms']:.1f} ms: {s['compute_ms']:.1f} computing, "
                f"{s['copies_ms']:.2f} copying, {s['idle_ms']:.1f} waiting for the host; "
                f"{s['kernels']:.0f} kernels, the CPU waits {s.get('waits', 0)} times."
            )
