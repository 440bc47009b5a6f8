"""Output of a comparison: terminal table, CSV file and page."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from rmexp.analysis.compare.comparison_report import RunComparison
from rmexp.analysis.compare.tables import terminal_table, write_csv
from rmexp.analysis.report import compare_page
from rmexp.core.console import PlainConsole, Reporter

RUNS_SHOWN = 12
"""Test results printed in the terminal."""

WIDE = 200
"""Line width of output that goes to a file."""


def table_console(reporter: Reporter) -> Console:
    """The console for a table: a wide one where output is no terminal."""
    console = reporter.console
    return console if console.is_terminal else PlainConsole(file=console.file, width=WIDE)


def print_comparison(
    found: RunComparison, given: Sequence[str], name: str, folder: Path, reporter: Reporter
) -> None:
    """Print a comparison and write `report.html` and `comparison.csv` into a folder."""
    write_csv(found, folder / "comparison.csv")
    page = compare_page.compare_page(name, ", ".join(given), found, folder)
    (folder / "report.html").write_text(page, encoding="utf-8")
    console = table_console(reporter)
    console.print(terminal_table(found, console.width))
    reporter.say("", *(f"{verdict.sentence()}." for verdict in found.verdicts[:RUNS_SHOWN]))
    if len(found.verdicts) > RUNS_SHOWN:
        reporter.say(f"{len(found.verdicts) - RUNS_SHOWN} more verdicts are in report.html.")
    reporter.say(*compare_page.effect_lines(found))
    reporter.say(*(f"! {note}" for note in found.notes))
    reporter.say(*(f"not compared: {one.name} ({one.status}): {one.why}" for one in found.skipped))
