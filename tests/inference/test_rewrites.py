"""Rewrites that change no meaning, and rows turned around."""

import numpy as np
import pytest

from rmexp.comparison import Comparison, PreferenceLabel, pairs_from_ratings
from rmexp.data.formats.auto import Auto
from rmexp.inference.perturbations import (
    REWRITES,
    mirror_mismatch,
    polite_prefix,
    sensitivity,
    swap_labels,
    trailing_newline,
    white_space,
)


def comparison(*texts, **more):
    responses = tuple(({"role": "assistant", "content": text},) for text in texts)
    return Comparison("x", ({"role": "user", "content": "?"},), responses, **more)


def texts(found):
    return [response[-1]["content"] for response in found.responses]


def test_rewrites_by_hand():
    row = comparison("One. Two! Three", "好的。一二三")
    assert texts(white_space(row)) == ["One.  Two!  Three ", "好的。一二三 "]
    assert texts(trailing_newline(row)) == ["One. Two! Three\n", "好的。一二三\n"]
    polite = ["Thank you for your question. One. Two! Three", "谢谢您的提问。好的。一二三"]
    assert texts(polite_prefix(row)) == polite


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES)
def test_a_rewrite_leaves_everything_else(rewrite):
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
    answer = {"role": "assistant", "content": [{"type": "text", "text": "A. B"}], "name": "me"}
    row = Comparison(
        id="x",
        prompt=({"role": "user", "content": "Q. R"},),
        responses=((call, {"role": "assistant", "content": "mid"}, answer), (call,)),
        judgements=(PreferenceLabel(0, 1),),
    )
    found = rewrite(row)
    assert (found.prompt, found.judgements, found.id) == (row.prompt, row.judgements, "x")
    assert found.responses[1] == (call,)  # it says nothing
    assert found.responses[0][0] == call
    assert found != row
    assert row.responses[0][2]["content"] == [{"type": "text", "text": "A. B"}]
    changed = found.responses[0][1 if rewrite is polite_prefix else 2]
    assert set(changed) >= {"role", "content"}


def test_sensitivity_by_hand():
    before, after = np.array([3.0, 1, 1, 0]), np.array([3.0, 4, 1, 0])
    found = sensitivity(before, after, np.array([0, 0, 2]), np.array([1, 2, 3]))
    spread = np.std([3, 1, 1, 0])
    assert found == {
        "shift": pytest.approx(3 / 4 / spread),
        "drift": pytest.approx(3 / 4 / spread),
        "pairs": 3,
        "flipped": pytest.approx(1 / 3),
        "bought": pytest.approx(1 / 3),
    }
    assert sensitivity(before, after, np.zeros(0, int), np.zeros(0, int))["pairs"] == 0
    same = sensitivity(before, before, np.array([0]), np.array([1]))
    assert (same["shift"], same["flipped"], same["bought"]) == (0, 0, 0)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "?", "chosen": "good", "rejected": "bad", "margin": 2.0},
        {"prompt": "?", "chosen": "good", "rejected": "bad", "chosen_rating": 5,
         "rejected_rating": 2},
        {"context": "?", "chosen": "good", "rejected": "bad", "rating": 5},
    ],
)  # fmt: skip
def test_a_swapped_pair_is_the_raw_row_with_its_sides_swapped(row):
    other = {**row, "chosen": row["rejected"], "rejected": row["chosen"]}
    found, expected = swap_labels(Auto()(row)), Auto()(other)
    assert (found.responses, found.prompt) == (expected.responses, expected.prompt)
    assert [(j.i, j.j, j.label) for j in flipped(found)] == [(0, 1, 1)]
    assert swap_labels(found) == Auto()(row)


def flipped(found):
    return [j if j.label >= 0 else j.flipped() for j in found.judgements]


def test_swapped_rows_mirror_accuracy_whatever_the_rewards():
    rng = np.random.default_rng(0)
    quality = {text: rng.integers(0, 3) for text in "abcdef"}
    row = comparison(*"abcdef", ratings=(1.0, 5.0, 3.0, 3.0, None, 2.0))
    plain = accuracy(pairs_from_ratings(row, 1.0), quality)
    other = accuracy(pairs_from_ratings(swap_labels(row), 1.0), quality)
    assert mirror_mismatch(plain, other) is None
    assert plain["tie_rate"] > 0
    assert "would mirror it" in mirror_mismatch(
        plain, plain | {"accuracy": plain["accuracy"] + 0.5}
    )
    assert "9 pairs became 8" in mirror_mismatch(plain, other | {"pairs": 8})


def accuracy(found, quality):
    said, gaps = texts(found), []
    for judgement in flipped(found):
        if judgement.label:
            gaps.append(quality[said[judgement.i]] - quality[said[judgement.j]])
    gaps = np.array(gaps)
    return {"accuracy": (gaps > 0).mean(), "tie_rate": (gaps == 0).mean(), "pairs": len(gaps)}


def test_swapped_votes():
    row = comparison("a", "b", "c", judgements=(PreferenceLabel(0, 2, 3.0, 1.0, 0.5),))
    assert swap_labels(row).judgements == (PreferenceLabel(2, 0, 1.0, 3.0, 0.5),)
