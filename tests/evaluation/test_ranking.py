"""Best of K and rank agreement: by hand, and against scipy and scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from bench.coverage import band
from rmexp.evaluation.best_of_n import best_of_k
from rmexp.evaluation.rank_correlation import (
    kendall,
    label_auc,
    spearman,
    within_means,
    within_prompts,
)
from rmexp.evaluation.stats.bootstrap import (
    clustered,
    clustered_mean,
    clustered_variance,
    ratio,
    stratified,
)

nan = math.nan


def test_best_of_k_by_hand():
    rewards = np.array([3, 1, 2, 5, 5, 1, 2, 2, 7, 0, 9.0])
    levels = np.array([2, 0, 1, 1, 0, 0, 1, 1, 0, 1, -1])
    rows = np.array([0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 3])
    told, values, chances = best_of_k(rewards, levels, rows)
    assert told.tolist() == [0, 1, 3]  # in row 2 both are equally good
    assert values.tolist() == [1, 0.5, 0]  # row 3: the unjudged 9 is no candidate
    assert chances.tolist() == [1 / 3, 1 / 3, 1 / 2]


def test_best_of_k_of_nothing():
    told, values, chances = best_of_k(np.zeros(2), np.array([-1, -1]), np.zeros(2))
    assert len(told) == len(values) == len(chances) == 0


@given(st.integers(0, 2**32 - 1))
def test_within_prompts_as_scipy_has_it(seed):
    rng = np.random.default_rng(seed)
    prompts = rng.integers(0, 6, 30)
    rewards, ratings = np.round(rng.normal(size=30), 0), rng.integers(1, 4, 30).astype(float)
    ratings[rng.random(30) < 0.2] = nan
    groups, kendall, spearman = within_prompts(rewards, ratings, prompts)
    for group, tau, rho in zip(groups, kendall, spearman, strict=True):
        here = (prompts == group) & ~np.isnan(ratings)
        if len(set(rewards[here])) == 1:
            assert tau == rho == 0
            continue
        assert tau == pytest.approx(stats.kendalltau(rewards[here], ratings[here]).statistic)
        assert rho == pytest.approx(stats.spearmanr(rewards[here], ratings[here]).statistic)
    told = {p for p in set(prompts) if len(set(ratings[(prompts == p) & ~np.isnan(ratings)])) > 1}
    assert set(groups) == told


def test_overall_and_within_differ_where_prompts_do():
    """Each prompt's order is turned around, yet better prompts have higher rewards."""
    prompts = np.repeat(np.arange(20), 3)
    ratings = prompts * 10.0 + np.tile([0, 1, 2], 20)
    rewards = prompts * 10.0 - np.tile([0, 1, 2], 20)
    found = within_means(rewards, ratings, prompts, np.ones(60))
    assert found["kendall_within"].value == found["spearman_within"].value == -1
    assert spearman(rewards, ratings, prompts).value > 0.99
    tau = kendall(rewards, ratings, prompts)
    assert tau.value == pytest.approx(stats.kendalltau(rewards, ratings).statistic)
    assert tau.low <= tau.value <= tau.high


@given(st.integers(0, 2**32 - 1))
def test_correlations_as_scipy_has_them_and_weights_as_copies(seed):
    rng = np.random.default_rng(seed)
    x, y = np.round(rng.normal(size=25), 1), rng.integers(1, 5, 25).astype(float)
    clusters, weights = rng.integers(0, 8, 25), rng.integers(1, 4, 25)
    copies = [np.repeat(column, weights) for column in (x, y, clusters)]
    for ours, theirs in ((spearman, stats.spearmanr), (kendall, stats.kendalltau)):
        assert ours(x, y, clusters).value == pytest.approx(theirs(x, y).statistic)
        assert ours(x, y, clusters, weights.astype(float)) == pytest.approx(ours(*copies))
    good = (y > 2).astype(float)
    if 0 < good.sum() < 25:
        copied = label_auc(copies[0], np.repeat(good, weights), copies[2])
        assert label_auc(x, good, clusters, weights.astype(float)) == pytest.approx(copied)
    mean = clustered_mean(x, clusters, weights.astype(float))
    assert mean == pytest.approx(clustered_mean(copies[0], copies[2]))


def test_what_does_not_vary_has_no_correlation():
    for of in (spearman, kendall):
        assert math.isnan(of(np.arange(3.0), np.ones(3), np.arange(3)).value)


def test_single_responses_have_no_order_within_prompts():
    one = np.arange(4.0)
    assert kendall(one, one, one).value == spearman(one, one, one).value == 1
    assert within_means(one, one, one, np.ones(4)) == {}


def test_prompts_weigh_the_mean_of_their_responses():
    ratings, prompts = np.array([0.0, 1, 0, 1, 2]), np.array([0, 0, 1, 1, 1])
    rewards, weights = np.array([0.0, 1, 2, 1, 0]), np.array([3.0, 3, 1, 1, 1])
    assert within_means(rewards, ratings, prompts, weights)["kendall_within"].value == 0.5
    assert within_means(rewards, ratings, prompts, np.ones(5))["kendall_within"].value == 0


def test_good_against_bad():
    rewards, ratings = np.array([3.0, 1, 1, 0, 9]), np.array([1.0, 1, 0, 0, nan])
    found = label_auc(rewards, ratings, np.arange(5))
    assert found.value == (1 + 1 + 0.5 + 1) / 4
    with pytest.raises(ValueError, match="not 3"):
        label_auc(rewards, np.array([1.0, 2, 3, 1, 1]), np.arange(5))


@given(st.integers(0, 2**32 - 1))
def test_good_against_bad_as_scikit_learn_has_it(seed):
    rng = np.random.default_rng(seed)
    rewards, good = np.round(rng.normal(size=20), 1), np.arange(20) % 3 == 0
    found = label_auc(rewards, good.astype(float), rng.integers(0, 5, 20))
    assert found.value == pytest.approx(roc_auc_score(good, rewards))


# ------------------------------------------------------------------- bootstrap
def test_strata_keep_their_size_and_missing_numbers_stay_out():
    values = np.array([[1, nan], [0, 4], [1, nan], [1, 2]])
    strata, clusters = np.array(["a", "a", "b", "b"]), np.arange(4)

    def combine(means):
        return {"a": means["a"][..., 0], "last": (means["a"] + means["b"])[..., 1]}

    found = stratified(values, strata, clusters, combine)
    assert (found["a"].value, found["a"].low, found["a"].high) == (0.5, 0, 1)
    assert found["last"].value == 6


def test_weights_are_those_of_units():
    found = stratified(
        np.array([[1.0], [0.0]]),
        np.array([0, 0]),
        np.arange(2),
        lambda means: {"x": means[0][..., 0]},
        weights_U=np.array([3.0, 1.0]),
    )
    assert found["x"].value == 0.75


def test_one_cluster_has_no_interval():
    one = stratified(
        np.ones((3, 1)), np.zeros(3), np.zeros(3), lambda means: {"x": means[0.0][..., 0]}
    )["x"]
    assert one.value == 1
    assert np.isnan([one.low, one.high]).all()
    assert np.isnan(clustered_mean(np.ones(3), np.zeros(3))[1:]).all()


def test_whole_clusters_are_drawn_one_fewer_than_there_are():
    """Sums of 1 in clusters of 2, 1 and 1: two of them drawn, on the scale of three."""
    seen = []

    def total(sums):
        seen.append(sums)
        return sums[..., 0]

    found = clustered(np.ones((4, 1)), np.array([3, 1, 3, 2]), total)
    assert (found.value, len(found.interval)) == (4, 2)
    assert set(seen[1][:, 0]) == {3.0, 4.5, 6.0}
    assert seen[1].mean() == pytest.approx(4, abs=0.1)


def test_the_interval_of_two_clusters_is_all_that_there_is():
    """Student's t of one degree of freedom is 12.7: beyond every resample."""
    assert clustered_mean(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 1])) == (2 / 3, 0, 1)


def test_a_strata_of_one_cluster_leaves_the_others_their_interval():
    values, strata = np.array([[0.0], [1.0], [1.0]]), np.array(["a", "a", "b"])

    def combine(means):
        return {"a": means["a"][..., 0], "both": means["a"][..., 0] + means["b"][..., 0]}

    found = stratified(values, strata, np.arange(3), combine)
    assert found["a"] == (0.5, 0, 1)
    assert found["both"].value == 1.5
    assert math.isnan(found["both"].low)


def composite(rates):
    return {"score": (rates["a"][..., 0] + rates["b"][..., 0]) / 2}


def test_intervals_of_composites_cover():
    """Of two subsets of 12 prompts with 4 rows each."""
    rng, hits, studies = np.random.default_rng(0), 0, 200
    strata = np.repeat(["a", "b"], [48, 48])
    for study in range(studies):
        chance = np.repeat(np.concatenate([rng.beta(4, 2, 12), rng.beta(2, 2, 12)]), 4)
        values = (rng.random(96) < chance).astype(float)[:, None]
        score = stratified(values, strata, np.arange(96) // 4, composite, seed=study)["score"]
        hits += score.low <= (4 / 6 + 1 / 2) / 2 <= score.high
    low, high = band(0.95, studies)
    assert low <= hits / studies <= high


def test_the_variance_is_that_of_the_sandwich():
    """With few clusters as well: n - 1 are drawn."""
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=40), np.arange(40) // 8
    seen = []

    def mean(sums):
        seen.append(ratio(sums[..., 0], sums[..., 1]))
        return seen[-1]

    found = clustered(np.stack([values, np.ones(40)], 1), clusters, mean)
    assert found.low < found.high
    assert seen[1].var() == pytest.approx(clustered_variance(values, clusters), rel=0.1)
