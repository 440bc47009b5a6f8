"""The splits of a table of rows; those of a large one are assigned once."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import collect_fallbacks, note_fallback
from rmexp.data.row_report import RowReport
from rmexp.data.splits import SingleSplit, SplitPolicy
from rmexp.data.token_dataset import TokenTable

LARGE = 50_000
"""Rows; those of fewer are assigned faster than they are read from a file."""

Assigned = tuple[dict[str, np.ndarray], dict[str, Any] | None]
"""Split -> the sorted indices of its rows, and the facts of the fold; see `SplitPolicy.assign`."""


def assigned_splits(policy: SplitPolicy | SingleSplit, table: TokenTable, cache: Path) -> Assigned:
    """The splits of the rows; rows that are in none are counted in `table.report`.

    Raises:
        UserError: of the fold, see `Fold.assign`.
    """
    if len(table.rows) < LARGE or isinstance(policy, SingleSplit):
        return _assign(policy, table, table.report)
    key = hashlib.sha256(json.dumps([table.key, *policy.key]).encode()).hexdigest()[:24]
    (splits, facts), _ = load_or_build(
        cache / "splits" / key, _load, lambda folder: _write(policy, table, folder)
    )
    for note in facts["notes"]:
        note_fallback(note)
    table.report.merge(RowReport(dropped=facts["dropped"]))
    return splits, facts["held_out"]


def _assign(policy: SplitPolicy | SingleSplit, table: TokenTable, report: RowReport) -> Assigned:
    names = ("prompt_key", "split", "subset", "group")
    prompts, declared, subsets, groups = (table.rows[name][:] for name in names)
    return policy.assign(prompts, declared, subsets, groups, report, table.dropped)


def _write(policy: SplitPolicy, table: TokenTable, folder: Path) -> None:
    report, notes = RowReport(), list[str]()
    with collect_fallbacks(notes.append):
        splits, held_out = _assign(policy, table, report)
    np.savez(folder / "splits.npz", allow_pickle=False, **splits)
    facts = {"held_out": held_out, "dropped": report.dropped, "notes": notes}
    (folder / "facts.json").write_text(json.dumps(facts), encoding="utf-8")


def _load(home: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    facts = json.loads((home / "facts.json").read_bytes())
    with np.load(home / "splits.npz") as found:
        return dict(found), facts
