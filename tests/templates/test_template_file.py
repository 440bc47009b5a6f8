"""Template files in other encodings, as JSON, in folders, and several in one."""

import json

import pytest

from rmexp.core.errors import UserError
from rmexp.templates.template_file import default_template, read_template

SOURCE = "{% for m in messages %}[é {{ m.content }}]{% endfor %}"
NAMED = [{"name": "rag", "template": "x"}, {"name": "default", "template": SOURCE}]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.jinja", SOURCE.encode()),
        ("t.jinja", SOURCE.encode("utf-8-sig")),
        ("t.txt", SOURCE.encode("utf-16")),
        ("tokenizer_config.json", json.dumps({"chat_template": SOURCE}).encode()),
        ("chat_template.json", json.dumps({"chat_template": NAMED}).encode()),
        ("chat_template.jinja", SOURCE.encode()),
        ("t.jinja", json.dumps({"chat_template": NAMED[1:]}).encode()),
    ],
)
def test_a_template_is_read_from_a_file_or_its_folder(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    assert read_template(str(tmp_path / name)) == SOURCE
    if not name.startswith("t."):
        assert read_template(str(tmp_path)) == SOURCE


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.jinja", b"a\nb \xe9", "line 2: byte 0xe9 is not UTF-8; save the file as UTF-8"),
        ("t.jinja", b"\xff\xfe\x00", "is not UTF-8"),
        ("t.jinja", b" \n", "is empty"),
        ("t.json", b'{"bos_token": "<s>"}', "has no text under"),
        ("t.json", b"{% for m in messages %}", "has no text under"),
        ("t.json", b'{"chat_template": {"a": "x", "b": "y"}}', "no default: write one of a, b to"),
    ],
)
def test_what_is_no_template_gets_one_sentence(tmp_path, name, content, sentence):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"^template.path=.*{sentence}"):
        read_template(str(tmp_path / name))


def test_a_folder_without_a_template_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"folder without any of chat_template.jinja, "):
        read_template(str(tmp_path))


def test_of_several_templates_the_default_or_the_only_one_is_used():
    assert default_template({"default": "a", "tool_use": "b"}, "") == "a"
    assert default_template({"tool_use": "b"}, "") == "b"
    assert default_template(None, "") is None
    with pytest.raises(UserError, match="The tokenizer has several chat templates and no default"):
        default_template({"rag": "a", "tool_use": "b"}, "The tokenizer")
