"""Reliability, temperature and the maps to ratings: exact values, and what they must recover."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from rmexp.evaluation.calibration import Calibration, fit_calibration, fit_temperature, rating_maps
from rmexp.evaluation.reliability import (
    brier_scores,
    calibration_error,
    pair_scores,
    reliability,
)

NONE = np.full(3, np.nan)


def calibrated_gaps(count, seed=0, spread=2.0):
    """Gaps of pairs that go P(better wins) = sigmoid(gap) of the time as they say."""
    rng = np.random.default_rng(seed)
    strength = np.abs(rng.normal(0, spread, count))
    return np.where(rng.random(count) < 1 / (1 + np.exp(-strength)), strength, -strength)


def test_bins_by_hand():
    found = reliability(np.array([0.0, -1.0, 2.0, 3.0]), bins=2)
    one, two, three = 1 / (1 + np.exp([-1.0, -2.0, -3.0]))
    assert found.confidence_B == pytest.approx([(0.5 + one) / 2, (two + three) / 2])
    assert found.accuracy_B.tolist() == [0.25, 1]  # equal rewards are right half of the time
    assert found.counts_B.tolist() == [2, 2]
    assert found.error == pytest.approx(((0.5 + one) / 2 - 0.25 + 1 - (two + three) / 2) / 2)


def test_pairs_of_equal_confidence_share_a_bin():
    """However the rows are ordered: 7 of 10 are right at a confidence of sigmoid(1)."""
    expected = abs(1 / (1 + np.exp(-1.0)) - 0.7)
    for gaps in ([1.0] * 7 + [-1.0] * 3, [-1.0] * 3 + [1.0] * 7):
        assert reliability(np.array(gaps)).error == pytest.approx(expected)
    assert reliability(np.zeros(50)).error == 0, "a constant reward says 1/2, and is right half"


def test_bins_are_those_of_scikit_learn():
    gaps = calibrated_gaps(1000)
    found = reliability(gaps)
    right, sure = calibration_curve(
        gaps > 0, 1 / (1 + np.exp(-np.abs(gaps))), n_bins=10, strategy="quantile"
    )
    assert found.confidence_B == pytest.approx(sure, abs=0.01)
    assert found.accuracy_B == pytest.approx(right, abs=0.02)


def test_fewer_pairs_than_bins():
    assert len(reliability(np.array([1.0, -2.0])).counts_B) == 2


def test_a_calibrated_model_needs_no_temperature():
    gaps = calibrated_gaps(100_000)
    assert reliability(gaps).error < 0.01
    assert fit_temperature(gaps) == (pytest.approx(1, abs=0.02), False)


@given(st.floats(0.01, 100), st.integers(0, 100))
def test_the_temperature_recovers_a_known_scale(scale, seed):
    gaps = calibrated_gaps(2000, seed)
    own, _ = fit_temperature(gaps)
    found, at_bound = fit_temperature(gaps * scale)
    assert not at_bound
    assert found == pytest.approx(own * scale, rel=1e-3)
    assert own == pytest.approx(1, abs=0.25)
    assert pair_scores(gaps * scale / found)["nll"] <= pair_scores(gaps * scale)["nll"] + 1e-9


@pytest.mark.parametrize(
    ("gaps", "temperature"),
    [
        ([1.0, 2.0, 0.1], 1.0),
        ([0.0, 1.0, 2.0], 1.0),
        ([0.0, 0.0, 0.0], 1.0),
        ([-1.0, -2.0], 1500),
        ([3.0, -3.0, 0.0], 2000),
    ],
)
def test_where_no_temperature_is_best_it_is_said(gaps, temperature):
    found, at_bound = fit_temperature(np.array(gaps))
    assert at_bound
    assert found == pytest.approx(temperature, rel=0.01)
    assert np.isfinite(pair_scores(np.array(gaps) / found)["nll"])


def test_one_wrong_pair_decides_for_a_temperature():
    """However small its gap: 1 / (1 + exp(1000 / T)) = 1e-3 / (1 + exp(-1e-3 / T)) / 1000."""
    gaps = np.array([1000.0, -1e-3])
    found, at_bound = fit_temperature(gaps)
    assert not at_bound
    losses = [pair_scores(gaps / (found * scale))["nll"] for scale in (0.9, 1, 1.1)]
    assert min(losses) == losses[1]


def test_pairs_without_weight_decide_nothing():
    gaps, weights = np.array([1.0, 2.0, -5.0]), np.array([1.0, 1.0, 0.0])
    assert fit_temperature(gaps, weights) == (1.0, True)


def test_what_val_teaches():
    rng = np.random.default_rng(0)
    rewards = rng.normal(3, 2, 500).astype(np.float32)
    found = fit_calibration(rewards, 2 * rewards.astype(float) + 1, 4 * calibrated_gaps(3000))
    assert found.temperature == pytest.approx(4, rel=0.1)
    assert found.pairs == 3000
    assert found.after["nll"] < found.before["nll"]
    assert found.after["ece"] < found.before["ece"]
    assert found.affine == pytest.approx((2, 1))
    assert found.rating(rewards) == pytest.approx(2 * rewards + 1, abs=0.05)
    assert found.linear_rating(np.array([100.0])) == pytest.approx([201])
    assert found.normalised(rewards).mean() == pytest.approx(0, abs=1e-6)
    assert found.normalised(rewards).std() == pytest.approx(1)


def test_isotonic_by_hand():
    """Pool adjacent violators: 3 and 1 share 2."""
    found = Calibration(**rating_maps(np.array([0.0, 1, 2, 3]), np.array([0.0, 3, 1, 4])))
    assert found.rating(np.array([-1.0, 0, 1, 1.5, 2, 2.5, 3, 9])) == pytest.approx(
        [0, 0, 2, 2, 2, 3, 4, 4]
    )


def test_without_pairs_or_ratings_there_is_no_map():
    found = fit_calibration(np.array([1.0, 1.0, 1.0]), NONE, np.zeros(0))
    assert (found.temperature, found.affine, found.isotonic) == (None, None, None)
    assert found.normalised(np.array([1.0])).tolist() == [0]  # a reward that does not vary
    for of in (found.rating, found.linear_rating):
        with pytest.raises(ValueError, match="no ratings"):
            of(np.array([1.0]))
    assert (
        fit_calibration(np.array([1.0, 2.0, 2.0]), np.array([3.0, 3.0, 3.0]), np.zeros(0)).affine
        is None
    )


@pytest.mark.parametrize("ratings", [NONE, np.array([1.0, 5.0, np.nan])])
def test_calibration_goes_through_json(ratings):
    found = fit_calibration(np.array([0.0, 1.0, 2.0]), ratings, np.array([1.0, -0.5]))
    assert Calibration.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_brier_by_hand():
    assert brier_scores(np.array([0.0, np.log(3)])) == pytest.approx([0.25, 0.0625])


def test_the_interval_of_a_calibration_error():
    """It contains the error, and 0 of a calibrated model (of 95% of them)."""
    ones, clusters, zero = np.ones(400), np.arange(400), 0
    for seed in range(20):
        found = calibration_error(calibrated_gaps(400, seed), clusters, ones)
        assert found.value == pytest.approx(reliability(calibrated_gaps(400, seed)).error)
        assert found.low < found.value < found.high < 0.15
        zero += found.low == 0
    assert zero >= 17
    far = calibration_error(3 * calibrated_gaps(400), clusters, ones)
    assert 0 < far.low < far.value < far.high
