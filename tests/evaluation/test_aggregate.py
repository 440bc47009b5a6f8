"""Members of an ensemble: one scale, one reward."""

import numpy as np
import pytest

from rmexp.evaluation.aggregate import aggregate_rewards, member_std, standardised


def test_aggregates_by_hand():
    members = np.array([[0.0, 1.0, 2.0], [2.0, 1.0, 6.0]])
    assert aggregate_rewards(members, "mean", 9.0).tolist() == [1.0, 1.0, 4.0]
    assert aggregate_rewards(members, "min", 9.0).tolist() == [0.0, 1.0, 2.0]
    assert member_std(members).tolist() == [1.0, 0.0, 2.0]
    assert aggregate_rewards(members, "lcb", 0.5).tolist() == [0.5, 1.0, 3.0]


def test_lcb_has_the_unit_of_the_rewards():
    members = np.random.default_rng(0).normal(size=(4, 10))
    lcb = aggregate_rewards(members, "lcb", 0.5)
    assert aggregate_rewards(3 * members - 1, "lcb", 0.5) == pytest.approx(3 * lcb - 1)


def test_rewards_are_standardised_within_prompts_and_equal_ones_counted():
    rows = np.array([0, 0, 1, 1, 2, 2])
    with pytest.warns(UserWarning, match=r"rewards of m are equal for all responses to 1 of 3"):
        found = standardised(np.array([1.0, 3.0, 100.0, 106.0, 0.1, 0.1]), rows, "rewards of m")
    assert found * np.sqrt((1 + 9) / 3) == pytest.approx([-1, 1, -3, 3, 0, 0])
