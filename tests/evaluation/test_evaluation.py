"""Evaluation sets, and rewards that somebody else computed."""

import json
import math

import pyarrow
import pyarrow.parquet
import pytest

from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.benchmarks import PPE, JudgeBench
from rmexp.data.reward_file import read_rewards
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.benchmarks.base import PairBenchmark
from rmexp.evaluation.benchmarks.ppe import PPEBenchmark
from rmexp.evaluation.eval_cases import eval_cases
from rmexp.evaluation.eval_sets import (
    EvaluationSet,
    OwnRows,
    SeveralSets,
    expand_sets,
    scored_lists,
)
from rmexp.evaluation.external_rewards import join_rewards, read_all_rewards
from rmexp.evaluation.metric_values import compute_metrics
from tests.helpers.options import from_conf

MEAN = Aggregation("mean", 0.5)
PAIR = {"question": "?", "response_A": "aa", "response_B": "b", "source": "livecodebench"}
ROWS = [
    {**PAIR, "pair_id": "one", "label": "A>B"},
    {**PAIR, "pair_id": "two", "label": "B>A"},
    {"id": "three", "prompt": "?", "chosen": "- x", "rejected": "y", "subset": "mine"},
]
REWARDS = [("one", 0, 1.0), ("one", 1, 0.5), ("two", 0, 2.0), ("two", 1, 0.0)]
REWARDS += [("three", 0, 3), ("three", 1, "2.5")]


def rewards(rows):
    return [dict(zip(("id", "response", "reward"), row, strict=True)) for row in rows]


def an_evaluation(path, **more):
    return EvaluationSet("judgebench", JudgeBench(), path, PairBenchmark(), **more)


def read(evaluation, cache):
    """The only case of an evaluation set, read without a tokenizer."""
    (case,) = eval_cases(from_conf("data/jsonl", path="", cache=str(cache)), evaluation, MEAN)
    case.data.prepare(None, 0, lambda what, count: None)
    return case


def test_a_suite_judged_by_a_file_of_rewards(write_rows, tmp_path):
    scores = write_rows(rewards(REWARDS), "rewards.jsonl")
    case = read(an_evaluation(write_rows(ROWS), scores=scores), tmp_path)
    with collect_fallbacks((said := []).append):
        case.join()
        metrics = case.benchmark.metrics(case.data.rows, list(case.rewards.values()))
    assert (case.data.report.kept, said) == (3, [])
    assert metrics["judgebench/accuracy"] == pytest.approx(2 / 3)
    assert metrics["judgebench/coding/accuracy"] == 0.5
    assert "judgebench/coding/accuracy_low" not in metrics  # both rows are of one prompt
    assert metrics["judgebench/mine/accuracy"] == 1


def _lists(case):
    rows = case.data.rows.select(case.indices)
    return scored_lists(rows, [case.rewards[row] for row in case.indices.tolist()])


def test_ppe_by_hand(write_rows, tmp_path):
    """Rewards are lengths, and the first of three answers is right.

    Of two sampled pairs one is won. Of one answer f = g = 1/3, of two f = 1/3 (only the first and
    second choose right) and g = 2/3, of three f = 0 and g = 1. Of people's votes one is won, one
    lost, and one is a tie.
    """
    right = {"question_id": "g", "prompt": "?", "scores": [True, False, False]}
    right |= {f"response_{n}": text for n, text in ((1, "aa"), (2, "b"), (3, "ccc"))}
    right["sampled_conflict_pairs"] = [[0, 1], [2, 0]]
    voted = {"prompt": "?", "language": "English", "response_1": "aa", "response_2": "b"}
    winners = ("model_a", "model_b", "tie")
    votes = [{**voted, "question_id": w, "prompt": w, "winner": w} for w in winners]
    table = [(name, k, 2 - k) for name in winners for k in (0, 1)]
    table += [("g", k, reward) for k, reward in enumerate((2, 1, 3))]
    scores = write_rows(rewards(table), "rewards.jsonl")
    kinds = []
    for rows in (votes, [right]):
        suite = EvaluationSet("ppe", PPE(), write_rows(rows), PPEBenchmark(), scores)
        case = read(suite, tmp_path)
        with collect_fallbacks([].append):
            case.join()
            scored = case.scored()
            kinds.append(case.benchmark.suite(_lists(case)).scores)
            named = case.slow_metrics(scored)
        assert compute_metrics(scored)["accuracy"] == 1 / 2
        assert named.keys() >= {f"ppe/{name}" for name in kinds[-1]}
    of_votes, of_answers = ({k: one.value for k, one in found.items()} for found in kinds)
    assert of_votes == {"accuracy": 1 / 2, "tie_rate": 0}
    assert of_answers == pytest.approx(
        {"best_of_1": 1 / 3, "best_of_2": 1 / 3, "best_of_k_max": 1 / 3, "best_of_k_end": 0}
        | {"best_of_k_loss": (1 / 9 + 1) / 3, "roc_auc": 1 / 2}
    )


def test_rows_without_a_tokenizer(write_rows, tmp_path):
    rated = {"prompt": "?", "responses": ["a", "b", "c"], "ratings": [1, 3, 1]}
    file = write_rows([{**ROWS[2], "weight": 2}, rated])
    found, second = read(EvaluationSet("x", Auto(), file, PairBenchmark()), tmp_path).data.rows
    assert found["pairs"] == [[0, 1, 1]]
    assert (found["lengths"], found["rank_levels"], found["weight"]) == ([3, 1], [1, 0], 2)
    assert found["style"] == [[3, 0, 1, 0], [1, 0, 0, 0]]
    assert math.isnan(found["ratings"][0])
    assert found["texts"] == ["?\n\n- x", "?\n\ny"]
    assert second["pairs"] == []
    data = from_conf("data/jsonl", path=file, cache=str(tmp_path))
    data.prepare(None, 0, lambda what, count: None)
    assert data.rows[1]["pairs"] == [[1, 0, 1], [0, 2, 0], [1, 2, 1]]


def test_bad_rows_stop_or_are_counted(write_rows, tmp_path):
    file = write_rows([*ROWS, {**ROWS[0], "label": "A=B"}])
    with pytest.raises(UserError, match=r"rows.jsonl:4: label is 'A=B'"):
        read(an_evaluation(file), tmp_path)
    data = read(an_evaluation(file, on_bad_row="skip", max_bad_share=0.5), tmp_path).data
    assert (len(data.rows), sum(data.report.bad.values())) == (3, 1)
    assert len(read(an_evaluation(file, limit=2), tmp_path).data.rows) == 2


def test_parquet_and_jsonl_are_one(tmp_path, write_rows):
    file = tmp_path / "rewards.parquet"
    table = rewards([(i, r, float(v)) for i, r, v in REWARDS])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), file)
    assert read_rewards(str(file)) == read_rewards(write_rows(rewards(REWARDS)))


def test_what_does_not_join_is_named_and_counted():
    scores = {("a", 0): 1.0, ("a", 1): 2.0, ("b", 0): 1.0, ("c", 0): math.nan, ("c", 1): 1.0}
    scores |= {("x", 0): 1.0, ("d", 0): math.inf, ("d", 1): 1.0}
    found, notes = join_rewards(["a", "b", "c", "d"], [2, 2, 2, 2], scores)
    assert found == {0: [1.0, 2.0]}
    assert notes == [
        "1 comparisons have no reward for some response: they are left out (b).",
        "2 comparisons have a reward that is NaN or infinite: left out (c, d).",
        "1 ids of the rewards are not in the data (x).",
    ]
    with pytest.raises(UserError, match="data's ids are like p, q; those of the rewards like a, b"):
        join_rewards(["p", "q"], [1, 1], scores)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"id": "a", "reward": 1}], "rows.jsonl:1 has no response"),
        ([{"id": "a", "response": 0, "reward": "x"}], "reward 'x'; they should be"),
        (rewards([("a", 0, 1), ("a", 0, 2)]), "response 0 of a has two rewards, 1.0 and 2.0"),
        ([], "has no rows"),
        (["text"], "a JSON str, not an object"),
    ],
)
def test_a_file_that_is_none_of_rewards_says_why(write_rows, rows, reason):
    with pytest.raises(UserError, match=reason):
        read_rewards(write_rows(rows))


def test_null_rewards_are_what_task_score_writes_of_too_long_rows(write_rows):
    found = read_rewards(write_rows(rewards([("a", 0, None), ("a", 0, None), ("b", 0, 1)])))
    assert math.isnan(found["a", 0])
    assert found["b", 0] == 1


def test_a_missing_file_is_said():
    with pytest.raises(UserError, match=r"nowhere.jsonl: there is no such file of rewards"):
        read_rewards("nowhere.jsonl")


def test_several_sets_keep_their_names():
    one = an_evaluation("x")
    assert expand_sets(OwnRows()) == []
    assert expand_sets(one) == [one]
    assert [s.name for s in expand_sets(SeveralSets({"a": one, "b": one}))] == ["a", "b"]
    with pytest.raises(UserError, match=r"\+eval@eval.sets.NAME=OPTION"):
        SeveralSets({})
    with pytest.raises(UserError, match="no blank and no /"):
        EvaluationSet("a/b", JudgeBench(), "x", PairBenchmark())


def test_metrics_are_plain_json(write_rows, tmp_path):
    case = read(an_evaluation(write_rows(ROWS[2:])), tmp_path)
    metrics = case.benchmark.metrics(case.data.rows, [[1.0, 0.0]])
    assert json.loads(json.dumps(metrics)) == {
        "judgebench/accuracy": 1.0,
        "judgebench/tie_rate": 0.0,
    }  # of one prompt there is no interval


def test_several_files_are_an_ensemble_each_standardised_by_itself(tmp_path):
    files = []
    for name, values in (("a", [0.0, 2.0, 4.0]), ("b", [30.0, 20.0, 10.0])):
        file = tmp_path / f"{name}.jsonl"
        rows = rewards([("x", k, value) for k, value in enumerate(values)])
        more = rewards([(name, 0, 9.0)])  # only one of them has it
        file.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *more]))
        files.append(str(file))
    deviation = math.sqrt(1.5)
    assert read_all_rewards(files, MEAN) == {("x", k): pytest.approx(0.0) for k in range(3)}
    low = read_all_rewards(files, Aggregation("min", 0.0))
    assert [low["x", k] for k in range(3)] == pytest.approx([-deviation, 0.0, -deviation])
    (tmp_path / "c.jsonl").write_text(json.dumps(rewards([("y", 0, 1.0)])[0]))
    with pytest.raises(UserError, match="have no response in common"):
        read_all_rewards([files[0], str(tmp_path / "c.jsonl")], MEAN)
