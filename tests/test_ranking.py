"""Best of K and rank agreement: by hand, and against scipy and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.metrics import roc_auc_score

from rmexp.best_of import best_of_k, best_of_n_curve
from rmexp.bootstrap import recomputed, stratified
from rmexp.ranking import label_auc, rank_agreement, within_prompts

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


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=2, max_size=6))
def test_the_curve_is_the_mean_over_all_subsets(candidates):
    rewards, ratings = np.array(candidates, dtype=float).T
    size = len(candidates)
    curve = best_of_n_curve(rewards, ratings, np.zeros(size, dtype=int), size)
    for n in range(1, size + 1):
        # Equal rewards share the mean rating of all that have it, and not of the subset's.
        shared = np.array([ratings[rewards == r].mean() for r in rewards])
        expected = np.mean(
            [
                shared[max(s, key=lambda k: rewards[k])]
                for s in itertools.combinations(range(size), n)
            ]
        )
        assert curve[n - 1] == pytest.approx(expected)


def test_the_curve_begins_with_the_mean_and_ends_with_the_pick():
    rewards, ratings = np.array([1.0, 2, 3, 1, 2]), np.array([1.0, 5, 3, nan, 4])
    rows = np.array([0, 0, 0, 1, 1])
    assert best_of_n_curve(rewards, ratings, rows, 3) == pytest.approx([3, 11 / 3, 3])
    assert np.isnan(best_of_n_curve(rewards, ratings, rows, 4)).all()


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
    found = rank_agreement(rewards, ratings, prompts)
    assert found["kendall_within"].value == found["spearman_within"].value == -1
    assert found["spearman"].value > 0.99
    assert found["kendall"].value == pytest.approx(stats.kendalltau(rewards, ratings).statistic)
    assert found["kendall"].low <= found["kendall"].value <= found["kendall"].high


def test_ratings_that_do_not_vary_tell_nothing():
    assert rank_agreement(np.arange(3.0), np.array([1.0, 1, nan]), np.arange(3)) == {}


def test_single_responses_have_no_order_within_prompts():
    found = rank_agreement(np.arange(4.0), np.array([1.0, 2, 3, 4]), np.arange(4))
    assert found["kendall"].value == 1
    assert "kendall_within" not in found


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
    assert np.isnan(recomputed(lambda drawn: 1.0, np.zeros(3), (0, 1))[1:]).all()


def test_whole_clusters_are_drawn():
    clusters = np.array([3, 1, 3, 2])
    for_each = []
    recomputed(lambda drawn: float(for_each.append(drawn) or 0), clusters, (0, 1), resamples=50)
    for drawn in for_each[1:]:
        counts = np.bincount(drawn, minlength=4)
        assert counts[0] == counts[2]
        assert counts[0] + counts[1] + counts[3] == 3


def composite(rates):
    return {"score": (rates["a"][..., 0] + rates["b"][..., 0]) / 2}


def coverage(studies):
    """How often a 95% interval of a composite of two subsets holds the truth; clustered rows."""
    rng, hits = np.random.default_rng(0), 0
    strata = np.repeat(["a", "b"], [200, 200])
    clusters = np.arange(400) // 4
    for study in range(studies):
        chance = np.repeat(np.concatenate([rng.beta(4, 2, 50), rng.beta(2, 2, 50)]), 4)
        values = (rng.random(400) < chance).astype(float)[:, None]
        score = stratified(values, strata, clusters, composite, seed=study)["score"]
        hits += score.low <= (4 / 6 + 1 / 2) / 2 <= score.high
    return hits / studies


def test_intervals_of_composites_cover():
    assert 0.90 <= coverage(200) <= 0.99


def test_the_interval_of_a_rank_correlation_covers():
    """Spearman's of prompts with levels of their own; the truth is that of a large sample."""
    rng, hits, studies = np.random.default_rng(0), 0, 60

    def sample(count):
        prompts = np.repeat(np.arange(count), 4)
        level = np.repeat(rng.normal(size=count), 4)
        ratings = level + rng.normal(size=4 * count)
        return ratings + rng.normal(size=4 * count), ratings, prompts

    x, y, _ = sample(50_000)
    truth = stats.spearmanr(x, y).statistic
    for _ in range(studies):
        x, y, prompts = sample(50)

        def spearman(drawn, x=x, y=y):
            return stats.spearmanr(x[drawn], y[drawn]).statistic

        found = recomputed(spearman, prompts, (-1, 1), resamples=100)
        hits += found.low <= truth <= found.high
    assert hits / studies >= 0.88
