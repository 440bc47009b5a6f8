"""Rows that say what another row says, or the contrary of it."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rmexp.analysis.inspect.rows import RowFacts

DUPLICATE_EXAMPLES = 5


def duplicates(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Rows with the prompt and the responses (in any order) of an earlier one."""
    first: dict[tuple[str, tuple[int, ...]], RowFacts] = {}
    again: list[tuple[RowFacts, RowFacts]] = []
    for row in rows:
        key = (row.prompt, tuple(sorted(row.responses)))
        if first.setdefault(key, row) is not row:
            again.append((first[key], row))
    return {
        "rows": len(again),
        "share": len(again) / len(rows),
        "examples": [
            [name_prompt(one), name_prompt(other)] for one, other in again[:DUPLICATE_EXAMPLES]
        ],
    }


def contradictions(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Pairs of responses to a prompt of which one row says A > B and another B > A."""
    said: dict[tuple[str, int, int], dict[bool, RowFacts]] = defaultdict(dict)
    for row in rows:
        for i, j, verdict in row.pairs:
            better, worse = row.responses[i], row.responses[j]
            if verdict and better != worse:
                key = (row.prompt, min(better, worse), max(better, worse))
                said[key].setdefault(better < worse, row)
    both = [tuple(ways.values()) for ways in said.values() if len(ways) == 2]
    return {
        "pairs": len(both),
        "judged": len(said),
        "share": len(both) / len(said) if said else 0.0,
        "examples": [
            [name_prompt(one), name_prompt(other)] for one, other in both[:DUPLICATE_EXAMPLES]
        ],
    }


def name_prompt(row: RowFacts) -> dict[str, str]:
    """How to find a row."""
    return {"id": row.id, "place": row.place, "split": row.split}
