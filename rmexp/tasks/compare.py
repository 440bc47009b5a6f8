"""task=compare: which run is better, and is the difference more than chance? Loads no model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.console import Console

from rmexp.compare.comparison import Comparison
from rmexp.compare.comparison import compare as compare_runs
from rmexp.compare.tables import terminal, write_csv
from rmexp.progress import Reporter
from rmexp.report import compared
from rmexp.tracking import RunDirectory

SHOWN = 12
"""Verdicts said in the terminal."""

WIDE = 200
"""Signs of a line that goes into a file."""


def compare(
    runs: str | list[str],
    run: RunDirectory,
    reporter: Reporter,
    name: str,
    set: str = "test",
    metric: str = "accuracy",
    pairs: Literal["best", "neighbours", "all"] = "best",
) -> dict[str, float]:
    """Print the table and the verdicts, write `report.html` and `comparison.csv`.

    Args:
        runs: a directory or file, or several: runs, folders of runs, files of rewards.
        name: of this run, the page's title.
        set: the evaluation set to judge on.
        metric: of the set, with or without it in front (`test/accuracy`).
        pairs: the pairs that are tested, see `compare.pairs.judge_pairs`.

    Raises:
        UserError: nothing can be compared, or nobody logged the metric.
    """
    given = [runs] if isinstance(runs, str) else [str(one) for one in runs]
    found = compare_runs(given, set, metric.removeprefix(f"{set}/"), pairs)
    show(found, given, name, run.path, reporter)
    run.update(
        compared=[
            str(path)
            for row in found.rows
            for entry in row.setting.entries
            for path in entry.run.paths
        ],
        best=found.rows[0].setting.name,
        verdicts=[verdict.sentence() for verdict in found.verdicts],
        left_out=[f"{one.name}: {one.why}" for one in found.left],
    )
    return {}


def show(
    found: Comparison, given: Sequence[str], name: str, folder: Path, reporter: Reporter
) -> None:
    """Print a comparison, and write `report.html` and `comparison.csv` into a folder."""
    write_csv(found, folder / "comparison.csv")
    page = compared.page(name, ", ".join(given), found, folder)
    (folder / "report.html").write_text(page, encoding="utf-8")
    console = reporter.console
    if not console.is_terminal:
        console = Console(file=console.file, width=WIDE)  # rich never prints wider than its console
    console.print(terminal(found, console.width))
    reporter.say("", *(f"{verdict.sentence()}." for verdict in found.verdicts[:SHOWN]))
    if len(found.verdicts) > SHOWN:
        reporter.say(f"{len(found.verdicts) - SHOWN} more verdicts are in report.html.")
    reporter.say(*compared.effect_lines(found))
    reporter.say(*(f"! {note}" for note in found.notes))
    reporter.say(*(f"not compared: {one.name} ({one.status}): {one.why}" for one in found.left))
