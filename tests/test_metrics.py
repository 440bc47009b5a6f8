"""Metrics against values worked out by hand, and the laws they must obey."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.metrics import (
    Scored,
    auc,
    evaluate,
    expected_calibration_error,
    length_baseline,
    ranks,
)
from rmexp.statistics import clustered_correlation, clustered_interval


def scored(rewards, pairs, tokens=None, ratings=None, prompts=None, subsets=None, tied=()):
    pairs = np.array(pairs).reshape(-1, 2)
    n, p = len(rewards), len(pairs)
    return Scored(
        rewards_N=np.array(rewards, dtype=np.float32),
        tokens_N=np.array(tokens or [1] * n),
        ratings_N=np.array(ratings or [np.nan] * n),
        prompts_N=np.array(prompts or range(n)),
        better_P=pairs[:, 0],
        worse_P=pairs[:, 1],
        subsets_P=np.array(subsets or ["all"] * p, dtype=object),
        tied_Q_2=np.array(tied).reshape(-1, 2),
    )


def test_accuracy_ties_and_margin_by_hand():
    s = scored([3.0, 1.0, 1.0, 0.0], [(0, 1), (1, 2), (3, 0), (1, 3)], tied=[(1, 2)])
    found = evaluate(s)
    assert found["pairs"] == 4
    assert found["human_ties"] == 1
    assert found["accuracy"] == 0.5  # 3>1 and 1>0; equal rewards are no win
    assert found["tie_rate"] == 0.25
    assert found["margin"] == (2 + 0 - 3 + 1) / 4
    assert found["margin_standardised"] == pytest.approx(0.0)
    assert found["reward_std"] == pytest.approx(np.std([3, 1, 1, 0]))
    assert found["nll"] == pytest.approx(np.mean([math.log1p(math.exp(-g)) for g in (2, 0, -3, 1)]))
    assert found["brier"] == pytest.approx(
        np.mean([(1 - 1 / (1 + math.exp(-g))) ** 2 for g in (2, 0, -3, 1)])
    )


def test_a_gap_below_fp32_resolution_of_the_difference_is_not_a_tie():
    assert (
        evaluate(scored([np.nextafter(np.float32(9), np.float32(10)), 9.0], [(0, 1)]))["tie_rate"]
        == 0
    )


def test_subsets_and_rating_gaps():
    s = scored(
        [2.0, 1.0, 0.0], [(0, 1), (0, 2), (1, 2)], ratings=[1.0, 3.0, 5.0], subsets=["a", "a", "b"]
    )
    s.better_P[:], s.worse_P[:] = [1, 2, 2], [0, 0, 1]
    found = evaluate(s)
    assert (found["a/accuracy"], found["b/accuracy"], found["gap_2plus/accuracy"]) == (0, 0, 0)
    assert "gap_2plus/accuracy" not in evaluate(scored([1.0, 0.0], [(0, 1)], ratings=[2.0, 1.0]))


def test_length_baseline_counts_equal_lengths_half():
    s = scored([0.0] * 4, [(0, 1), (1, 0), (2, 3), (0, 3)], tokens=[5, 3, 2, 2])
    assert length_baseline(s) == (1 + 0 + 0.5 + 1) / 4


def test_spearman_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4: 1 - 3 of the 5 that the deviations allow."""
    found = evaluate(scored([0.0, 1.0, 1.0, 9.0], [], ratings=[2.0, 1.0, 3.0, 4.0]))
    x, y = np.array([1, 2.5, 2.5, 4]), np.array([2.0, 1, 3, 4])
    assert found["spearman"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert "spearman" not in evaluate(scored([0.0, 1.0], [], ratings=[2.0, 2.0]))
    assert ranks(np.array([5.0, 3.0, 5.0])).tolist() == [2.5, 1.0, 2.5]


def test_the_interval_of_a_correlation_covers_it_and_respects_clusters():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=(2, 20)), 10, axis=1)
    x, y = shared + 0.1 * rng.normal(size=(2, 200))
    y = 0.7 * x + y
    clusters = np.repeat(np.arange(20), 10)
    whole, low, high = clustered_correlation(x, y, clusters)
    assert whole == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert low < whole < high
    _, narrow_low, narrow_high = clustered_correlation(x, y, np.arange(200))
    assert high - low > 1.5 * (narrow_high - narrow_low)


def test_auc_by_hand():
    assert auc(np.array([3.0, 1.0]), np.array([1.0, 0.0])) == (1 + 1 + 0.5 + 1) / 4


@given(
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30),
    st.floats(0.5, 3),
    st.floats(-4, 4),
)
def test_ranks_do_not_change_under_an_increasing_map(rewards, scale, shift):
    pairs = [(i, i + 1) for i in range(len(rewards) - 1)]
    rewards = [round(r, 2) for r in rewards]
    one, two = (
        evaluate(scored(rewards, pairs)),
        evaluate(scored([round(r, 2) * 4 + 8 for r in rewards], pairs)),
    )
    for name in ("accuracy", "tie_rate", "auc"):
        assert one[name] == pytest.approx(two[name])


def test_calibrated_gaps_have_no_calibration_error():
    rng = np.random.default_rng(0)
    strength = rng.normal(0, 2, 200_000)
    wins = rng.random(strength.size) < 1 / (1 + np.exp(-np.abs(strength)))
    assert expected_calibration_error(np.where(wins, 1, -1) * np.abs(strength)) < 0.005
    assert expected_calibration_error(np.full(100, -1e3)) == pytest.approx(1.0)


def test_no_pairs_gives_only_what_needs_none():
    assert set(evaluate(scored([1.0, 2.0], []))) == {
        "pairs",
        "human_ties",
        "reward_mean",
        "reward_std",
    }


def test_interval_covers_clustered_data():
    """A 95% interval over clusters covers the truth as often; one over pairs does not."""
    rng, hits, naive, studies = np.random.default_rng(0), 0, 0, 200
    for study in range(studies):
        chance = rng.beta(4, 2, 60)
        values = (rng.random((60, 8)) < chance[:, None]).astype(float).ravel()
        low, high = clustered_interval(values, np.repeat(np.arange(60), 8), seed=study)
        hits += low <= 4 / 6 <= high
        low, high = clustered_interval(values, np.arange(480), seed=study)
        naive += low <= 4 / 6 <= high
    assert 0.90 <= hits / studies <= 0.99
    assert naive < hits


def test_interval_of_one_cluster_is_unknown():
    assert np.isnan(clustered_interval(np.ones(3), np.zeros(3))).all()
