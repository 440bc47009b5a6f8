"""A file is replaced at the end of writing, or stays as it was."""

import pytest

from rmexp.core.atomic_file import replace_file


def test_a_file_is_replaced_at_the_end(tmp_path):
    file = tmp_path / "result.json"
    file.write_text("old")
    with replace_file(file) as part:
        part.write_text("new")
        assert file.read_text() == "old"
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("result.json", "new")
    ]


def test_an_error_keeps_the_file_and_removes_the_part(tmp_path):
    file = tmp_path / "result.json"
    file.write_text("old")

    def fail():
        with replace_file(file) as part:
            part.write_text("half")
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [
        ("result.json", "old")
    ]
