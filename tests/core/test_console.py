"""What the terminal shows: marks, repeated lines, paths."""

from rmexp.core.console import Reporter, relative_path


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
