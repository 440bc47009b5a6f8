"""Uncertainty of ensembles and quantiles of ratings, against values worked out by hand."""

import dataclasses

import numpy as np
import pytest

from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.scored_set import HeadOutputs
from rmexp.evaluation.uncertainty import most_certain, risk_curve, uncertainty_ratio
from tests.evaluation.test_metrics import people


def ensemble(members_N_M, pairs, **more):
    """Each response is a comparison of its own, but for pairs' sides."""
    rows = np.arange(len(members_N_M)) // 2
    found = people(len(members_N_M), pairs, rows=rows, **more)
    values = {n: members_N_M[rows == n].tolist() for n in range(rows.max() + 1)}
    rewards = {n: np.mean(of_row, axis=1).tolist() for n, of_row in values.items()}
    return found.with_rewards(rewards, HeadOutputs("ensemble", ("0", "1"), values))


MEMBERS = np.array([[1, 3], [0, 0], [1, 1], [0, 0], [0, 4], [1, 1], [5, 5], [1, 1]], dtype=float)
PAIRS = [(0, 1), (2, 3), (5, 4), (6, 7)]
"""Gaps of the two members: (1, 3), (1, 1), (1, -3), (4, 4); of their means 2, 1, -1, 4."""


def test_uncertainty_of_gaps_by_hand():
    found = compute_metrics(ensemble(MEMBERS, PAIRS))
    assert found["accuracy"] == 0.75
    assert found["uncertainty"] == pytest.approx((1 + 0 + 2 + 0) / 4)
    assert found["error_auroc"] == 1, "the wrong pair is the one that members differ on most"
    assert found["error_auroc_gap"] == pytest.approx((1 + 0.5 + 1) / 3), "2 > 1, 1 = 1, 4 > 1"
    assert found["accuracy_at_50"] == 1
    assert found["accuracy_at_80"] == 0.75, "three of four pairs are less than 80%"
    assert {"error_auroc_low", "accuracy_at_50_high"} <= set(found)


def test_the_level_of_a_member_is_no_uncertainty():
    moved = ensemble(MEMBERS + np.array([0, 100]), PAIRS)
    for name in ("uncertainty", "error_auroc", "accuracy_at_50"):
        assert compute_metrics(moved)[name] == compute_metrics(ensemble(MEMBERS, PAIRS))[name]


def test_one_head_has_no_uncertainty_and_all_right_no_error_to_tell():
    s = ensemble(MEMBERS, PAIRS)
    alone = dataclasses.replace(s, outputs_N_K=None, kind="linear")
    assert not {"uncertainty", "error_auroc", "accuracy_at_80"} & set(compute_metrics(alone))
    right = compute_metrics(ensemble(MEMBERS, PAIRS[:2]))
    assert "error_auroc" not in right
    assert right["accuracy_at_50"] == 1


def test_pairs_of_equal_doubt_stay_together():
    doubts = np.array([0.0, 1.0, 1.0, 2.0])
    assert most_certain(doubts, np.ones(4), 0.5).tolist() == [True, True, True, False]
    assert most_certain(doubts, np.array([1, 0, 1, 1.0]), 0.3).tolist() == [True, *[False] * 3]
    assert most_certain(doubts, np.ones(4), 1.0).all()
    share, accuracy = risk_curve(doubts, np.array([1.0, 0, 1, 1]), np.ones(4))
    assert share.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert accuracy == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])


def test_dropped_and_chosen_rows_take_their_outputs_along():
    members = MEMBERS.copy()
    members[2] = np.nan
    s = ensemble(members, PAIRS, subsets=["a", "a", "b", "b"])
    assert s.lost == 1
    assert s.outputs_N_K.tolist() == MEMBERS[[0, 1, 4, 5, 6, 7]].tolist()
    assert s.subset("b").outputs_N_K.tolist() == MEMBERS[4:].tolist()
    assert s.subset("b").names == ("0", "1")


def test_the_ratio_to_the_runs_own_test():
    assert uncertainty_ratio("x", {"x/uncertainty": 3.0}, {"test/uncertainty": 2.0}) == {
        "x/uncertainty_ratio": 1.5
    }
    assert uncertainty_ratio("x", {"x/uncertainty": 3.0}, {}) == {}


def test_quantiles_by_hand():
    """Outputs are read in the unit of the ratings, 10 + 2 x output, and sorted."""
    outputs = {0: [[-1.0, 1.0]], 1: [[1.0, -1.0]], 2: [[0.0, 0.5]], 3: [[-1.0, 0.0]]}
    ratings = np.array([9.0, 8.0, 12.0, np.nan])
    found = people(4, [], ratings_N=ratings)
    rewards = {n: [np.mean(of_row)] for n, of_row in outputs.items()}
    s = found.with_rewards(rewards, HeadOutputs("quantile", ("0.25", "0.75"), outputs))
    assert "interval_coverage" not in compute_metrics(s), "the unit is not known before val"
    scale = Calibration(outputs={"0.25": (10.0, 2.0), "0.75": (10.0, 2.0)})
    values = compute_metrics(s, scale)
    assert values["interval_coverage"] == pytest.approx(2 / 3), "8 to 12 has 9 and 8; 10 to 11"
    assert values["interval_nominal"] == 0.5
    assert values["interval_width"] == pytest.approx((4 + 4 + 1) / 3)
    assert values["quantile_0.25/share_below"] == pytest.approx(1 / 3)
    assert values["quantile_0.75/share_below"] == pytest.approx(2 / 3)
    assert values["quantile_error"] == pytest.approx((1 / 12 + 1 / 12) / 2)
    assert Calibration.from_dict(scale.to_dict()) == scale
    old = {k: v for k, v in scale.to_dict().items() if k != "outputs"}
    assert Calibration.from_dict(old).outputs == {}
