"""Labels that are left out or changed in training rows: exact rows, and runs that use the files."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.comparison import PreferenceLabel
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.data.corrections import flip, soften, weigh
from rmexp.losses.compatibility import check_trainable
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

PAIRS = ("a", "b", "c", "d", "e", "f")


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Pairs whose split is declared (f is test, e val), and a list with a full order."""
    folder = tmp_path_factory.mktemp("rows")
    splits = {"e": "val", "f": "test"}
    pairs = [
        {
            "id": name,
            "prompt": f"What is {name}?",
            "chosen": f"good {name}",
            "rejected": f"a bad {name}",
            "margin": 2.0,
            "subset": "even" if n % 2 else "odd",
            "split": splits.get(name, "train"),
        }
        for n, name in enumerate(PAIRS)
    ]
    write(folder / "pairs.jsonl", pairs)
    one = {"prompt": "Which?", "responses": ["one", "two", "three"], "ratings": [3, 1, 2]}
    others = [one | {"id": s, "split": s, "prompt": s} for s in ("val", "test")]
    write(folder / "lists.jsonl", [one | {"id": "list", "split": "train"}, *others])
    return folder


def prepared(home, cache, labels=None, file="pairs.jsonl", key="exclude", **more):
    """The data, with a file of labels under a key."""
    if labels is not None:
        more[key] = write(home / "labels.jsonl", labels)
    data = from_conf("data/jsonl", path=str(home / file), cache=str(cache), **more)
    data.prepare(tiny_tokenizer(), 0, lambda *_: None)
    return data


def rows_of(data, split="train"):
    return {row["id"]: row for row in data.rows.select(data.splits[split])}


def test_excluded_labels_leave_training_and_are_counted(home, cache):
    notes = []
    labels = [{"id": "a"}, {"id": "b", "pair": [1, 0], "wrong": 0.9}, {"id": "c", "wrong": 0.5}]
    with collect_fallbacks(notes.append):
        data = prepared(home, cache, [*labels, {"id": "e"}, {"id": "nobody"}])
    assert sorted(rows_of(data)) == ["c", "d"]  # 0.5 is not above data.wrong_above
    assert sorted(rows_of(data, "val")) == ["e"]
    assert data.report.dropped == {"labels excluded": {"odd": 1, "even": 1}}
    assert "2 dropped: labels excluded (odd 1, even 1)" in data.report.lines()
    counts = {"labels": 2, "comparisons": 2, "rated": 0, "held_out": 1, "unknown": 1}
    file = str(home / "labels.jsonl")
    assert data.corrected == {"exclude": {"file": file, "by": "exclude"} | counts}
    assert notes == [
        f"data.exclude={file}: of 4 labels, 1 are of val or test, which keep their labels and 1 "
        "name no pair of these rows, or a pair with other texts or another label (nobody): they "
        "change nothing."
    ]


def test_flipped_labels_have_the_other_order_and_no_margin(home, cache):
    before = rows_of(prepared(home, cache))["a"]
    data = prepared(home, cache, [{"id": "a", "wrong": 0.8}], key="relabel")
    row, others = rows_of(data)["a"], rows_of(data)["b"]
    assert (before["pairs"], before["rank_levels"]) == ([[0, 1, 1]], [1, 0])
    assert (row["pairs"], row["votes"], row["rank_levels"]) == ([[1, 0, 1]], [[1, 0, 0]], [0, 1])
    assert np.isnan(row["margins"]).all()
    assert others["margins"] == [2.0]
    assert (row["without_margin"], row["longer_wins"], before["longer_wins"]) == (1, 1, 0)
    assert (row["tokens"], row["texts"]) == (before["tokens"], before["texts"])
    assert "1 labels flipped (odd 1)" in data.report.lines()
    assert data.rows.features == prepared(home, cache).rows.features


def test_softened_labels_become_votes_and_weighed_ones_weights(home, cache):
    labels = [{"id": "a", "wrong": 0.25}, {"id": "b", "wrong": 0.75}]
    soft = rows_of(prepared(home, cache, labels, key="relabel", relabel_by="soften"))
    assert (soft["a"]["pairs"], soft["a"]["votes"]) == ([[0, 1, 1]], [[0.75, 0.25, 0]])
    assert (soft["b"]["pairs"], soft["b"]["votes"]) == ([[1, 0, 1]], [[0.75, 0.25, 0]])
    assert (soft["a"]["voted"], soft["c"]["voted"]) == (1, 0)
    data = prepared(home, cache, labels, key="relabel", relabel_by="weigh")
    weights = {name: row["weights"] for name, row in rows_of(data).items()}
    assert weights == {"a": [0.75], "b": [0.25], "c": [1.0], "d": [1.0]}


def test_a_pair_of_a_list_leaves_the_others_and_its_order(home, cache):
    def changed(key, *pairs):
        labels = [{"id": "list", "pair": pair} for pair in pairs]
        data = prepared(home, cache, labels, "lists.jsonl", key)
        return data, rows_of(data)["list"]

    data, row = changed("exclude", [0, 1])
    assert (sorted(row["pairs"]), row["rank_levels"]) == ([[0, 2, 1], [2, 1, 1]], [-1, -1, -1])
    assert "1 labels excluded (all 1)" in data.report.lines()
    _, row = changed("relabel", [0, 2])  # neighbours: still an order
    assert row["rank_levels"] == [1, 0, 2]
    _, row = changed("relabel", [0, 1])  # a cycle
    assert (row["judged"], row["ranked"], row["rank_levels"]) == (3, 0, [-1, -1, -1])


@pytest.mark.slow
def test_labels_decide_the_fingerprint(home, cache):
    def fingerprint(labels, **more):
        return prepared(home, cache, labels, **more).fingerprint

    plain, one = fingerprint(None), fingerprint([{"id": "a"}])
    others = [fingerprint([{"id": "b"}]), fingerprint([{"id": "a"}], key="relabel")]
    assert len({plain, one, *others, fingerprint([{"id": "a"}], wrong_above=0.4)}) == 5
    assert one == fingerprint([{"id": "a"}])
    assert fingerprint(None, wrong_above=0.4) == plain


@pytest.mark.parametrize(
    ("labels", "more", "reason"),
    [
        ([{"id": "x"}, {"id": "y"}], {}, "none of the 2 labels .* like x, y, .* like a, b, c, ..."),
        (
            [{"id": "a", "pair": [0, 1], "content": "p/b/w"}],
            {},
            "the texts or the labels are other",
        ),
        ([{"id": "e"}], {}, "all 1 labels are of val or test"),
        (
            [{"id": "a", "wrong": 0.3}],
            {},
            "above data.wrong_above=0.5 .the highest is 0.300.*lower",
        ),
        ([{"id": "a"}], {"key": "relabel", "relabel_by": "weigh"}, "1 labels have no probability"),
        ([{"pair": [0, 1]}], {}, r"labels.jsonl:1 has no id: rows of labels are .\"id\""),
        ([{"id": "a", "wrong": 2}], {}, "wrong 2; they should be .* a probability from 0 to 1"),
        ([{"id": "a", "pair": [0]}], {}, r"labels.jsonl:1: pair is \[0\] .* indices of two"),
    ],
)
def test_files_that_change_nothing_are_refused(home, cache, labels, more, reason):
    with pytest.raises(UserError, match=reason):
        prepared(home, cache, labels, **more)


def test_a_file_that_is_not_there_is_refused_before_anything_loads(home, cache):
    data = from_conf("data/jsonl", path=str(home / "pairs.jsonl"), exclude="gone", cache=str(cache))
    with pytest.raises(UserError, match="exclude=gone: there is no such file of labels"):
        data.check()


@given(
    st.sampled_from(["", "tie"]),
    st.tuples(st.floats(0, 5), st.floats(0, 5)).filter(lambda votes: sum(votes) > 0.01),
    st.floats(0, 1),
)
def test_changes_are_what_they_say(tie, votes, wrong):
    one = PreferenceLabel(0, 1, *votes, votes_tie=1.0 if tie else 0.0, margin=1.0, weight=2.0)
    assert flip(flip(one, 1), 1) == PreferenceLabel(0, 1, *votes, one.votes_tie, None, 2.0)
    soft = soften(one, wrong)
    toward = soft if soft.i == 0 else soft.flipped()
    i, j, third = one.shares
    assert toward.shares == pytest.approx(
        ((1 - wrong) * i + wrong * j, (1 - wrong) * j + wrong * i, third)
    )
    assert soft.label >= 0
    assert weigh(one, wrong).weight == 2.0 * (1 - wrong)


@pytest.mark.slow
def test_losses_that_would_not_see_a_change_are_refused(home, cache):
    def check(loss, file, **more):
        data = prepared(
            home, cache, [{"id": more.pop("id"), "wrong": 0.9}], file, "relabel", **more
        )
        check_trainable(data, from_conf(f"loss/{loss}"), loss, "jsonl")

    with pytest.raises(UserError, match="loss=regression trains on the ratings of single respons"):
        check("regression", "lists.jsonl", id="list")
    with pytest.raises(UserError, match=r"loss=contrastive does not read: .*data.relabel_by=weigh"):
        check("contrastive", "pairs.jsonl", id="a", relabel_by="soften")
    check("soft_bradley_terry", "pairs.jsonl", id="a", relabel_by="soften")
    check("plackett_luce", "pairs.jsonl", id="a")
