"""Messages about rows name the keys of the source that they come from."""

import pytest

from rmexp.config.compose import build, compose_config
from rmexp.config.schema import register
from rmexp.core.errors import UserError
from rmexp.data.reward_file import read_rewards
from rmexp.data.source_keys import own_keys
from rmexp.evaluation.eval_sets import benchmark_data
from tests.helpers.options import from_conf

register()


@pytest.mark.parametrize(
    ("sentence", "group", "expected"),
    [
        ("data.path=x", "data.sources.hh", "data.sources.hh.path=x"),
        ("(data.path=a), data.val_path", "data.sources.a",
         "(data.sources.a.path=a), data.sources.a.val_path"),
        ("say data.fields.prompt=q", "eval", "say +eval.format.fields.prompt=q"),
        ("data.format=nectar", "eval.sets.a", "+eval.sets.a.format.layout=nectar"),
        ("'data.split_names={a: train}'", "data.sources.b",
         "'data.sources.b.split_names={a: train}'"),
        ("data.on_bad_row=skip, Raise data.max_length.", "eval",
         "eval.on_bad_row=skip, Raise data.max_length."),
        ("data.path=/my.data.path/data.jsonl:3, data.sources.a.path", "eval",
         "eval.path=/my.data.path/data.jsonl:3, data.sources.a.path"),
    ],
)  # fmt: skip
def test_keys_are_those_of_the_source(sentence, group, expected):
    assert own_keys(sentence, group) == expected


ROWS = {
    "pairs": '{"question": "Q", "context": "C", "chosen": "a", "rejected": "b"}\n'
    '{"question": "Q", "chosen": "a", "rejected": "b"}',
    "odd": '{"prompt": "Q", "chosen": "a", "rejected": "b", "split": "train_prefs"}',
    "empty": "",
}


@pytest.mark.parametrize(
    ("rows", "group", "keys"),
    [
        ("pairs", "data.sources.a", ["data.sources.a.fields.prompt=question",
                                     "data.sources.a.on_bad_row=skip"]),
        ("odd", "data.sources.a", ["data.sources.a.split_names=",
                                   "data.sources.a.fields.split=null"]),
        ("missing", "data.sources.a", ["data.sources.a.path="]),
        ("empty", "data.sources.a", ["data.sources.a.path has no rows"]),
        ("pairs", "eval", ["+eval.format.fields.prompt=question", "eval.on_bad_row=skip"]),
        ("missing", "eval", ["eval.path="]),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_used_name_the_keys_of_their_source(rows, group, keys, tmp_path):
    path = tmp_path / "rows.jsonl"
    if rows in ROWS:
        path.write_text(ROWS[rows])
    words = ["data=mix", "+data@data.sources.a=jsonl", f"data.sources.a.path={path}",
             f"data.cache={tmp_path}", f"data.sources.a.cache={tmp_path}"]  # fmt: skip
    data = build(compose_config(words).data)
    if group == "eval":
        data = benchmark_data(from_conf("eval/rewardbench", path=str(path)), data, "eval")
    with pytest.raises(UserError) as caught:
        data.source.check() if rows == "missing" else data.source.load(None, print)
    said = str(caught.value)
    assert [key for key in keys if key not in said] == []
    assert " data." not in said.replace(" data.sources", "")


def test_a_path_has_the_key_that_named_it(tmp_path):
    good, bad = tmp_path / "good.jsonl", tmp_path / "bad.jsonl"
    good.write_text(ROWS["pairs"])
    bad.write_text("<!doctype html><html>")
    words = ["data=jsonl", f"data.path={good}", f"data.val_path={bad}", f"data.cache={tmp_path}"]
    data = build(compose_config(words).data)
    with pytest.raises(UserError, match=f"^data.val_path={bad} is a web page"):
        data.source.load(None, print)
    with pytest.raises(UserError, match=f"^{bad} is a web page"):
        read_rewards(str(bad))
