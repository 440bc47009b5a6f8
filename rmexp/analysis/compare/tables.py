"""The table of a comparison, for the terminal and as comparison.csv."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.table import Table

from rmexp.analysis.compare.comparison_report import ComparisonRow, RunComparison
from rmexp.analysis.compare.cross_validation import metrics_by_fold
from rmexp.analysis.compare.pairwise_tests import p_value
from rmexp.analysis.compare.run_groups import ABSENT, shorten
from rmexp.evaluation.metric_values import format_interval

GAP = 2
"""Spaces between columns."""

COST_COLUMNS = (
    ("seconds", "training_seconds", 0),
    ("pairs/s", "pairs_per_second", 1),
    ("GiB", "peak_memory_gib", 2),
)
"""Title, key and digits."""


def terminal_table(found: RunComparison, width: int) -> Table:
    """The groups, best first, with as many columns as fit, the most important ones first.

    The page and the CSV have all columns.
    """
    table = Table(box=None, padding=(0, GAP, 0, 0))
    kept: list[list[str]] = []
    for name, cells in table_columns(found, intervals=False).items():
        wide = max(len(text) for text in (name, *cells)) + GAP
        if kept and width < wide:
            break
        width -= wide
        kept.append(cells)
        table.add_column(name, no_wrap=True)
    for line in zip(*kept, strict=True):
        table.add_row(*line)
    return table


def table_columns(found: RunComparison, intervals: bool = True) -> dict[str, list[str]]:
    """Title -> one cell per group, the most important columns first.

    Args:
        found: the comparison.
        intervals: of the metrics beside the chosen one too.
    """
    rows = found.rows
    files = [row for row in rows if not any(value_of(row, key) for key in found.keys)]
    first = {"run": [row.group.name for row in rows]} if files else {}
    besides = {
        name: [
            format_interval(*row.besides[name])
            if intervals
            else format_interval(row.besides[name][0])
            for row in rows
        ]
        for name in rows[0].besides
    }
    return {
        **first,
        **{key: [value_of(row, key) for row in rows] for key in found.keys},
        f"{found.set}/{found.metric}": [
            format_interval(row.value, row.low, row.high) for row in rows
        ],
        "against the best": [against(row) for row in rows],
        "seeds": [str(len(row.group.runs)) for row in rows],
        **{name: cells for name, cells in besides.items() if any(cells)},
        **{
            title: [format_interval(row.cost[key], digits=digits) for row in rows]
            for title, key, digits in COST_COLUMNS
        },
    }


def value_of(row: ComparisonRow, key: str) -> str:
    """A group's value of a key, shortened; empty where it has none."""
    value = row.group.values[key]
    return "" if value is ABSENT else shorten(value)


def against(row: ComparisonRow) -> str:
    """The difference to the best and its corrected p; a star marks significance."""
    if row.verdict is None:
        return ""
    mark = " *" if row.verdict.significant else ""
    return f"{-row.verdict.difference.value + 0.0:+.4f}, p={p_value(row.verdict.p)}{mark}"


FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""Beginnings of formulas in spreadsheets."""


def write_csv(found: RunComparison, file: Path) -> None:
    """Write one line per group, best first, then one per skipped run."""
    lines = [*_lines(found), *_skipped_lines(found)]
    columns = list(dict.fromkeys(column for line in lines for column in line))
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writerow({column: _inert(column) for column in columns})
        writer.writerows({key: _inert(cell) for key, cell in line.items()} for line in lines)


def _inert(cell: Any) -> Any:
    """A text that a spreadsheet would compute, behind an apostrophe; numbers stay."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def _lines(found: RunComparison) -> Iterator[dict[str, Any]]:
    metric = f"{found.set}/{found.metric}"
    for rank, row in enumerate(found.rows, 1):
        yield {
            "rank": rank,
            "setting": row.group.name,
            "status": "compared",
            metric: row.value,
            f"{metric}_low": row.low,
            f"{metric}_high": row.high,
            **_verdict(row),
            "pairs": len(found.judgements.ids_P),
            "prompts": len(set(found.judgements.prompts_P)),
            **dict(_besides(found.set, row)),
            **row.cost,
            "seeds": " ".join(str(e.run.config.get("seed", "")) for e in row.group.runs),
            **row.group.values,
            "runs": " ".join(str(p) for e in row.group.runs for p in e.run.paths),
            **_folds(row, metric),
        }


def _besides(set: str, row: ComparisonRow) -> Iterator[tuple[str, float | None]]:
    for name, shown in row.besides.items():
        for end, value in zip(("", "_low", "_high"), shown, strict=True):
            yield f"{set}/{name}{end}", value


def _verdict(row: ComparisonRow) -> dict[str, Any]:
    """The difference to the best group; empty for the best itself."""
    if row.verdict is None:
        return dict.fromkeys(("minus_best", "minus_best_low", "minus_best_high", "p_holm"), "")
    d = row.verdict.difference  # of the best minus this group
    return {
        "minus_best": -d.value + 0.0,
        "minus_best_low": -d.high,
        "minus_best_high": -d.low,
        "p_holm": row.verdict.p,
    }


def _folds(row: ComparisonRow, metric: str) -> dict[str, float]:
    """The metric of each held-out group."""
    found = metrics_by_fold([one.run for one in row.group.runs], metric)
    return {f"{metric} in {held_out}": value for held_out, value in found.items()}


def _skipped_lines(found: RunComparison) -> Iterator[dict[str, Any]]:
    for one in found.skipped:
        yield {"setting": one.name, "status": f"{one.status}: {one.why}", "runs": str(one.path)}
