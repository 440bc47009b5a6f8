"""Rows that repeat or contradict another row."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from rmexp.analysis.inspect.rows import RowFacts

DUPLICATE_EXAMPLES = 5


def duplicates(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Rows with the prompt and the responses (in any order) of an earlier one."""
    first: dict[tuple[str, tuple[int, ...]], RowFacts] = {}
    repeated: list[list[RowFacts]] = []
    for row in rows:
        key = (row.prompt, tuple(sorted(row.responses)))
        if first.setdefault(key, row) is not row:
            repeated.append([first[key], row])
    share = len(repeated) / len(rows)
    return {"rows": len(repeated), "share": share, "examples": _examples(repeated)}


def contradictions(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Pairs of responses that one row judges A > B and another B > A."""
    seen: dict[tuple[str, int, int], dict[bool, RowFacts]] = defaultdict(dict)
    for row in rows:
        for i, j, verdict in row.pairs:
            better, worse = row.responses[i], row.responses[j]
            if verdict and better != worse:
                key = (row.prompt, min(better, worse), max(better, worse))
                seen[key].setdefault(better < worse, row)
    both = [list(ways.values()) for ways in seen.values() if len(ways) == 2]
    return {
        "pairs": len(both),
        "judged": len(seen),
        "share": len(both) / len(seen) if seen else 0.0,
        "examples": _examples(both),
    }


def _examples(groups: Sequence[Sequence[RowFacts]]) -> list[list[dict[str, str]]]:
    return [[row.location for row in group] for group in groups[:DUPLICATE_EXAMPLES]]
