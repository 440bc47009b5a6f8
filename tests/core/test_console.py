"""What the terminal shows: marks, repeated lines, paths."""

from rich.table import Table

from rmexp.core.console import CONTROLS, Reporter, printable, relative_path


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
