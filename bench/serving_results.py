"""serving.jsonl -> the section of RESULTS.md on the server."""

import json
from typing import Any

from bench.rounds import table
from bench.serving import CLIENTS, FILE, WORKLOADS

NAMES = {"rmexp": "`task=serve`", "padded": "the same server, padded batches"}

INTRODUCTION = """One text a request, clients that send the next text when they have an answer;
fp32, the same weights for all sides. *Padded* is the same server with `model.layout=padded`: the
batches of the usual loop. Seconds are those that a client waits."""


def serving() -> str:
    """The section; empty where nothing was measured. The newest line counts."""
    lines = FILE.read_text().splitlines() if FILE.is_file() else []
    if not lines:
        return ""
    line: dict[str, Any] = json.loads(lines[-1])
    sides = line["serving"]
    columns = "texts|clients|side|texts a second|p50|p99|rmexp over it"
    rows = []
    for workload, title in WORKLOADS.items():
        for clients in map(str, CLIENTS):
            ours = sides["rmexp"][workload][clients]["texts_per_second"]
            for side, found in sides.items():
                figures = found[workload][clients]
                rate = figures["texts_per_second"]
                ratio = "" if side == "rmexp" else f"{ours / rate:.2f}x"
                name = NAMES.get(side, side)
                waits = [f"{figures[share]:.2f} s" for share in ("p50", "p99")]
                rows.append([title, clients, name, f"{rate:.2f}", *waits, ratio])
    model = f"- Model: {line['model']}, {line['cores']} cores; commit {line['commit']}."
    agreement = (
        f"- Largest difference of a reward between the sides: {line['largest_difference']:.1e}."
    )
    return "\n".join(
        ["## Serving", "", INTRODUCTION, "", *table(columns, rows), "", model, agreement, ""]
    )
