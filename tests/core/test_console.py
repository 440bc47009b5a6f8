"""What the terminal shows: marks, repeated lines, paths, and texts that it cannot show."""

import io
import subprocess
import sys

from rich.table import Table

from rmexp.core.console import Reporter, format_bytes, relative_path
from rmexp.core.streams import CONTROLS, print_error, printable
from tests.conftest import ROOT


def test_each_line_carries_the_mark_and_markup_stays_text(capsys):
    Reporter("3| ").say("loss [bold]x[/bold]", "", "end")
    assert capsys.readouterr().out == "3| loss [bold]x[/bold]\n\n3| end\n"


def test_lines_of_several_jobs_are_printed_once(capsys):
    reporter = Reporter()
    reporter.say_once("rows: 3", "model: tiny")
    reporter.say_once("rows: 3", "model: other")
    assert capsys.readouterr().out == "rows: 3\nmodel: tiny\nmodel: other\n"


def test_a_quiet_reporter_prints_nothing(capsys):
    Reporter(quiet=True).say("hello")
    assert capsys.readouterr().out == ""


def test_paths_below_the_working_directory_are_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert relative_path(tmp_path / "outputs" / "run") == "outputs/run"
    assert relative_path(tmp_path.parent) == str(tmp_path.parent)


def test_sizes_are_in_the_largest_unit_that_they_fill():
    sizes = (0, 1000, 2**20 - 1, 25 * 2**20, 2**30 - 1, 2**30, 5000.5 * 2**30)
    assert [format_bytes(size) for size in sizes] == [
        *("0.0 KiB", "1.0 KiB", "1,024.0 KiB", "25.0 MiB", "1,024.0 MiB"),
        *("1.0 GiB", "5,000.5 GiB"),
    ]


ATTACK = "\x1b]0;taken\x1b[2J\x9b31m\u202eabc"
SHOWN = r"\x1b]0;taken\x1b[2J\x9b31m\u202eabc"


def test_texts_cannot_drive_the_terminal(capsys):
    reporter = Reporter()
    table = Table("a column that is wide enough for it", box=None, padding=0)
    table.add_row(ATTACK)
    table.add_row("[bold]x[/bold] :smile:")
    reporter.say(ATTACK + "\r\a")
    reporter.console.print(table)
    printed = capsys.readouterr().out
    assert printed.count(SHOWN) == 2
    assert "[bold]x[/bold] :smile:" in printed
    assert CONTROLS.search(printed) is None


def test_lines_tabs_and_other_scripts_stay():
    assert printable("\a\r" + ATTACK) == r"\x07\r" + SHOWN
    assert printable("a\n\tä 你好 ☕ \U0001f600") == "a\n\tä 你好 ☕ \U0001f600"


def test_errors_cannot_drive_the_terminal(capsys):
    print_error("rmexp: \x1b]0;title\x07")
    assert capsys.readouterr().err == "rmexp: \\x1b]0;title\\x07\n"


def test_an_ascii_terminal_shows_escapes(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    Reporter().say("名 é")
    assert raw.getvalue() == b"\\u540d \\xe9\n"


def test_a_closed_pipe_does_not_end_the_run():
    """Half a line reaches the reader; what follows is written to nowhere."""
    code = (
        "import sys; from rmexp.core.console import Reporter; reporter = Reporter();"
        "sys.stdin.readline();"
        "[reporter.say('x' * 9000) for _ in range(20)]; print('alive', file=sys.stderr)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    process.stdout.close()
    process.stdout = None
    _, errors = process.communicate(b"\n")
    assert (process.returncode, errors) == (0, b"alive\n")
