"""The publishers' rows, and ours in their place."""

import pytest

from rmexp.data.formats.auto import Auto
from rmexp.data.formats.benchmarks import (
    PPE,
    RMB,
    ByLanguage,
    ChosenRejected,
    JudgeBench,
    LLMBar,
    Transformed,
    original_id,
)
from rmexp.data.sources import BadRow

OURS = {"prompt": "2 + 2?", "chosen": "4", "rejected": "5", "subset": "mine"}


def texts(comparison):
    return [response[0]["content"] for response in comparison.responses]


def pairs(comparison):
    return [(j.i, j.j) for j in comparison.judgements]


def test_rewardbench_rows_are_ours_already():
    found = Auto()({**OURS, "chosen_model": "x", "rejected_model": "y", "id": 31})
    assert (found.id, found.subset, texts(found)) == ("31", "mine", ["4", "5"])


def test_rewardbench_2_each_right_answer_beats_each_wrong_one():
    row = {"id": "tied:3", "prompt": "?", "chosen": ["a", "b"], "rejected": ["c", "d", "e"]}
    found = ChosenRejected()({**row, "num_correct": 2, "subset": "Ties", "total_completions": 5})
    assert texts(found) == list("abcde")
    assert pairs(found) == [(i, j) for i in (0, 1) for j in (2, 3, 4)]
    assert found.rank_levels() == (1, 1, 0, 0, 0)
    assert (found.id, found.subset) == ("tied:3", "Ties")


def test_rm_bench_domain_is_the_subset_and_styles_keep_their_order():
    row = {"id": 1, "prompt": "?", "chosen": ["a", "b", "c"], "rejected": ["d", "e", "f"]}
    found = ChosenRejected()({**row, "domain": "safety-refuse"})
    assert (texts(found), found.subset) == (list("abcdef"), "safety-refuse")
    assert found.rank_levels() == (1, 1, 1, 0, 0, 0)


@pytest.mark.parametrize(("label", "expected"), [("A>B", [(0, 1)]), ("B>A", [(1, 0)])])
def test_judgebench(label, expected):
    row = {"pair_id": "x-1", "question": "?", "response_A": "a", "response_B": "b", "label": label}
    found = JudgeBench()({**row, "source": "mmlu-pro-computer science"})
    assert (pairs(found), found.id, found.subset) == (expected, "x-1", "knowledge")


@pytest.mark.parametrize(
    ("source", "area"),
    [
        ("livebench-reasoning", "reasoning"),
        ("livebench-math", "math"),
        ("livecodebench", "coding"),
        ("else", "else"),
        (None, "all"),
    ],
)
def test_judgebench_areas(source, area):
    row = {"question": "?", "response_A": "a", "response_B": "b", "label": "A>B", "source": source}
    assert JudgeBench()(row).subset == area


@pytest.mark.parametrize(("label", "expected"), [(1, [(0, 1)]), (2, [(1, 0)]), ("2", [(1, 0)])])
def test_llmbar(label, expected):
    row = {"input": "?", "output_1": "a", "output_2": "b", "label": label}
    found = LLMBar(subset="Natural")(row)
    assert (pairs(found), found.subset) == (expected, "Natural")
    assert LLMBar(subset="Natural")({**row, "subset": "Manual"}).subset == "Manual"


def test_rmb_lists_and_pairs():
    asked = [{"role": "user", "content": "?", "language": "English"}]
    row = {"conversation_input": asked, "category_path": "BoN_set/Helpfulness/Chat/Casual"}
    best, losers = {"llm_name": "x", "answer": "a"}, [{"answer": "b"}, {"answer": "c"}]
    found = RMB()({**row, "bon_best": best, "loser_list": losers, "bon_uid": "7"})
    assert (texts(found), pairs(found)) == (["a", "b", "c"], [(0, 1), (0, 2)])
    assert (found.id, found.subset) == ("7", "Helpfulness.Chat")
    assert found.prompt == ({"role": "user", "content": "?"},)
    paired = RMB()({**row, "chosen": best, "reject": losers[0], "pair_uid": "8"})
    assert (texts(paired), pairs(paired), paired.id) == (["a", "b"], [(0, 1)], "8")


@pytest.mark.parametrize("format", [ChosenRejected(), JudgeBench(), LLMBar(), RMB()])
def test_our_own_rows_are_read_as_well(format):
    found = format(OURS)
    assert (texts(found), pairs(found), found.subset) == (["4", "5"], [(0, 1)], "mine")


@pytest.mark.parametrize(
    ("format", "row", "reason"),
    [
        (ChosenRejected(), {"prompt": "?", "chosen": ["a"], "rejected": []}, "rejected must be"),
        (ChosenRejected(), {"prompt": "?", "chosen": ["a"], "rejected": "b"}, "rejected must be"),
        (ChosenRejected(), {"prompt": "?", "chosen": ["a"], "rejected": [""]}, "is empty"),
        (
            JudgeBench(),
            {"question": "?", "response_A": "a", "response_B": "b", "label": "A=B"},
            "label is 'A=B'",
        ),
        (JudgeBench(), {"question": "?", "response_A": "a", "label": "A>B"}, "response_B"),
        (
            LLMBar(),
            {"input": "?", "output_1": "a", "output_2": "a", "label": 1},
            "are the same",
        ),
        (LLMBar(), {"input": "?", "output_1": "a", "output_2": "b", "label": 0}, "label is '0'"),
        (
            RMB(),
            {"conversation_input": [{"role": "user", "content": "?"}], "bon_best": "a",
             "loser_list": []},
            "must hold objects",
        ),
        (RMB(), {"conversation_input": "?", "chosen": {}, "reject": {}}, "must be a list"),
    ],
)  # fmt: skip
def test_a_row_that_does_not_fit_says_why(format, row, reason):
    with pytest.raises(BadRow, match=reason):
        format(row)


PREFERENCE = {
    "question_id": "a1", "model_a": "x", "model_b": "y", "language": "French", "turns": 1,
    "prompt": "?", "response_1": "a", "response_2": "b",
}  # fmt: skip
CORRECTNESS = {
    "question_id": "g7", "model_name": "x", "prompt": "?", "scores": [True, False, True],
    "mean_score": 0.67, "response_1": "a", "response_2": "b", "response_3": "c",
    "sampled_conflict_pairs": [[0, 1], [1, 2]],
}  # fmt: skip


@pytest.mark.parametrize(
    ("winner", "label"),
    [("model_a", 1), ("model_b", -1), ("tie", 0), ("tie (bothbad)", 0)],
)
def test_ppe_preferences(winner, label):
    found = PPE()({**PREFERENCE, "winner": winner})
    assert (found.id, found.subset, texts(found)) == ("a1", "French", ["a", "b"])
    assert [one.label for one in found.judgements] == [label]


def test_ppe_correctness_is_a_list_with_the_sampled_pairs():
    found = PPE("gpqa")(CORRECTNESS)
    assert (found.id, found.subset, texts(found)) == ("g7", "gpqa", ["a", "b", "c"])
    assert pairs(found) == [(0, 1), (2, 1)]
    assert found.ratings == (1.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [([0, 2], "scores of the responses 0 and 2 are the same"), ([0, 3], "two numbers of respon")],
)
def test_ppe_pairs_that_cannot_be_used(pair, reason):
    with pytest.raises(BadRow, match=reason):
        PPE()({**CORRECTNESS, "sampled_conflict_pairs": [pair]})


def test_a_transformed_row_has_the_id_of_its_original_and_the_transformation():
    one, other = (Transformed()({**OURS, "id": 7} | more) for more in ({}, {"transformation": "t"}))
    assert ((one.id, one.subset), (other.id, other.subset)) == (("7", "original"), ("7+t", "t"))
    assert original_id(other.id, other.subset) == one.id


def test_a_language_is_the_subset_and_publishers_rows_may_be_ours():
    row = {"id": 31, "subset": "llmbar-natural", "chosen_model": "x", "rejected_model": "y"}
    found = ByLanguage()({**OURS, **row, "language": "arb_Arab"})
    assert (found.id, found.subset, texts(found)) == ("31", "arb_Arab", ["4", "5"])
    with pytest.raises(BadRow, match="language"):
        ByLanguage()(OURS)
    assert texts(PPE()(OURS)) == ["4", "5"]
