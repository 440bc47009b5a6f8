"""Reliability, temperature and the maps to ratings: exact values, and what they must recover."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.calibration import calibration_curve

from rmexp.evaluation.calibration import Calibration, fit_calibration, fit_temperature, rating_maps
from rmexp.evaluation.reliability import brier, pair_scores, reliability

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
    assert found.accuracy_B.tolist() == [0, 1]
    assert found.counts_B.tolist() == [2, 2]
    assert found.error == pytest.approx(((0.5 + one) / 2 + 1 - (two + three) / 2) / 2)


def test_bins_are_those_of_scikit_learn():
    gaps = calibrated_gaps(1000)
    found = reliability(gaps)
    right, sure = calibration_curve(
        gaps > 0, 1 / (1 + np.exp(-np.abs(gaps))), n_bins=10, strategy="quantile"
    )
    assert found.confidence_B == pytest.approx(sure, abs=0.01)
    assert found.accuracy_B == pytest.approx(right, abs=0.02)


def test_fewer_pairs_than_bins():
    assert len(reliability(np.array([1.0, -1.0])).counts_B) == 2


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
    ("gaps", "temperature"), [([1.0, 2.0, 0.1], 1.0), ([0.0, 0.0, 0.0], 1.0), ([-1.0, -2.0], 1500)]
)
def test_where_no_temperature_is_best_it_is_said(gaps, temperature):
    found, at_bound = fit_temperature(np.array(gaps))
    assert at_bound
    assert found == pytest.approx(temperature, rel=0.01)
    assert np.isfinite(pair_scores(np.array(gaps) / found)["nll"])


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
    assert brier(np.array([0.0, np.log(3)])) == pytest.approx((0.25 + 0.0625) / 2)
