"""Pairwise verdicts from files: what they come to, which metrics they have, and comparisons."""

import json
import math

import pytest

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.data.formats.auto import Auto
from rmexp.data.verdict_file import is_verdict_file, read_verdicts
from rmexp.evaluation.benchmarks.base import PairBenchmark
from rmexp.evaluation.eval_sets import EvaluationSet
from rmexp.evaluation.external_verdicts import outcome
from rmexp.evaluation.metric_values import compute_metrics
from tests.evaluation.test_evaluation import read
from tests.helpers.run_directories import write_run


def verdicts(*rows, column="winner"):
    return [dict(zip(("id", "first", "second", column), row, strict=True)) for row in rows]


def test_verdicts_on_a_pair_are_averaged_over_both_orders(write_rows):
    rows = verdicts(
        *(("both", 0, 1, "first"), ("both", 1, 0, "second"), ("both", 1, 0, "second")),
        *(("flips", 0, 1, "first"), ("flips", 1, 0, "first")),
        *(("tie", 0, 1, "tie"), ("none", 1, 0, None), ("three", 2, 0, "first")),
    )
    file = write_rows(rows)
    assert is_verdict_file(file)
    found = read_verdicts(file)
    assert outcome(found, "both", 0, 1) == (1, 0, 0, 0.5)
    assert outcome(found, "both", 1, 0) == (-1, 0, 0, 0.5)
    assert outcome(found, "flips", 1, 0) == (0, 0, 1, 1.0)
    assert outcome(found, "three", 2, 0)[:2] == (1, 0)
    assert outcome(found, "tie", 0, 1)[:2] == (0, 0)
    side, abstained, flips, first = outcome(found, "none", 0, 1)
    assert (side, abstained) == (0, 1)
    assert math.isnan(flips)
    assert math.isnan(first)
    assert outcome(found, "three", 0, 1) is None


def test_a_probability_is_of_the_response_shown_first(write_rows):
    file = write_rows(verdicts(("a", 1, 0, 0.9), ("a", 0, 1, 0.3), column="probability"))
    assert read_verdicts(file)["a", 0, 1].probability == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"id": "a", "first": 0, "second": 1}, "rows.jsonl:1 has no winner: rows of verdicts are"),
        ({"id": "a", "first": 0, "second": 0, "winner": "tie"}, "first is 0 and second 0; they sh"),
        ({"id": "a", "first": 0, "second": 1, "winner": "A"}, "winner is 'A'; it should be first,"),
        (
            {"id": "a", "first": 0, "second": 1, "probability": 2},
            "probability is 2; it should be a",
        ),
    ],
)
def test_rows_that_are_no_verdicts_say_why(write_rows, row, reason):
    with pytest.raises(UserError, match=reason):
        read_verdicts(write_rows([row]))


GIVEN = verdicts(
    *(("q0", 0, 1, "first"), ("q0", 1, 0, "second")),
    *(("q1", 0, 1, "first"), ("q1", 1, 0, "first")),
    *(("q2", 1, 0, "first"), ("q3", 0, 1, None), ("q4", 0, 1, "tie"), ("other", 0, 1, "tie")),
)


def test_metrics_of_verdicts_are_those_of_sides(write_rows, tmp_path):
    rows = [{"id": f"q{n}", "prompt": f"p{n}", "chosen": "aa", "rejected": "b"} for n in range(4)]
    scores = write_rows(GIVEN, "verdicts.jsonl")
    one = EvaluationSet("mine", Auto(), write_rows(rows), PairBenchmark(), scores=scores)
    case = read(one, tmp_path)
    with collect_fallbacks((said := []).append):
        case.join()
        found = compute_metrics(scored := case.scored())
        suite = case.slow_metrics(scored)
    assert said == ["mine: 2 ids of the verdicts are not in the data (other, q4)."]
    assert found["accuracy"] == found["agreement"] == 1 / 4
    assert (found["tie_rate"], found["abstained"]) == (1 / 2, 1)
    assert (found["position_flips"], found["first_preferred"]) == (1 / 2, 3 / 4)
    assert found["longer_preferred"] == 1 / 2
    assert suite["mine/accuracy"] == pytest.approx(1 / 4)
    assert {"position_flips_low", "accuracy_low"} <= found.keys()
    assert not {"nll", "ece", "brier", "margin", "spearman", "reward_std"} & found.keys()


def test_verdicts_are_compared_with_runs_by_the_same_test(tmp_path):
    write_run(tmp_path / "model", [1, 0] * 20)
    judge = tmp_path / "judge.jsonl"
    rows = verdicts(*((f"row-{n}", 0, 1, "first" if n else "second") for n in range(40)))
    judge.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    short = tmp_path / "short.jsonl"
    short.write_text(json.dumps(rows[0]) + "\n", "utf-8")
    given = [str(tmp_path / "model"), str(judge), str(short)]
    found = compare_runs(given, "test", "accuracy", "best")
    assert [(row.group.name, row.value) for row in found.rows] == [("judge", 0.975), ("model", 0.5)]
    (verdict,) = found.verdicts
    assert verdict.difference.method == "mid-p McNemar"
    assert verdict.difference.value == pytest.approx(0.475)
    (left_out,) = found.skipped
    assert left_out.why == "39 of 40 labelled pairs have no verdict (the first: row-1)"
    assert [one.name for one in compare_runs(given, "test", "nll", "best").skipped] == [
        "short", "judge",
    ]  # fmt: skip
