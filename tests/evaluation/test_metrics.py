"""Metrics against values worked out by hand, and the laws they must obey."""

import math

import datasets
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from rmexp.core.errors import UserError
from rmexp.evaluation.calibration import fit_calibration
from rmexp.evaluation.metric_values import compute_metrics, slow_metrics
from rmexp.evaluation.rank_correlation import area, spearman
from rmexp.evaluation.scored_set import EvalLabels, eval_labels
from rmexp.evaluation.stats import bootstrap
from rmexp.evaluation.stats.bootstrap import clustered_mean


def people(n, pairs, *, rows=None, subsets=None, prompts=None, weights=None, **more):
    """What people said of n responses; each is a comparison of its own where `rows` is None."""
    pairs = np.array(pairs, dtype=int).reshape(-1, 2)
    rows = np.array(range(n) if rows is None else rows)
    count = rows.max() + 1
    weights = np.ones(count) if weights is None else np.array(weights, dtype=float)
    nothing = {
        "tokens_N": [1] * n,
        "style_N_S": np.zeros((n, 4), dtype=int),
        "ratings_N": [np.nan] * n,
        "levels_N": [-1] * n,
        "tied_Q_2": np.zeros((0, 2), dtype=int),
    }
    return EvalLabels(
        items_C=np.arange(count),
        subsets_C=np.array(subsets or ["all"] * count, dtype=object),
        prompts_C=np.array(prompts if prompts is not None else range(count)),
        weights_C=weights,
        rows_N=rows,
        better_P=pairs[:, 0],
        worse_P=pairs[:, 1],
        weights_P=weights[rows[pairs[:, 0]]],
        **{name: np.array(value) for name, value in (nothing | more).items()},
    )


def scored(rewards, pairs, **more):
    found = people(len(rewards), pairs, **more)
    by_row = {row: [] for row in found.items_C.tolist()}
    for row, reward in zip(found.rows_N.tolist(), rewards, strict=True):
        by_row[row].append(reward)
    return found.with_rewards(by_row)


def test_accuracy_ties_and_margin_by_hand():
    s = scored([3.0, 1.0, 1.0, 0.0], [(0, 1), (1, 2), (3, 0), (1, 3)], tied_Q_2=[(1, 2)])
    found = compute_metrics(s)
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
        compute_metrics(scored([np.nextafter(np.float32(9), np.float32(10)), 9.0], [(0, 1)]))[
            "tie_rate"
        ]
        == 0
    )


def test_subsets_and_rating_gaps():
    s = scored(
        [2.0, 1.0, 0.0, 3.0],
        [(1, 0), (2, 0), (3, 2)],
        rows=[0, 0, 0, 1],
        ratings_N=[1.0, 3.0, 5.0, 5.5],
        subsets=["a", "b"],
    )
    found = compute_metrics(s)
    assert (found["a/accuracy"], found["b/accuracy"], found["gap_2plus/accuracy"]) == (0, 1, 0)
    near = scored([1.0, 0.0], [(0, 1)], ratings_N=[2.0, 1.0])
    assert "gap_2plus/accuracy" not in compute_metrics(near)


def test_weights_of_rows_by_hand():
    """Two rows of weight 3 and 1, one of 0; a weight counts as that number of copies."""
    rewards, rows = [1.0, 0.0, 0.0, 1.0, 5.0, 0.0], [0, 0, 1, 1, 2, 2]
    pairs, ratings = [(0, 1), (2, 3), (4, 5)], [2.0, 1.0, 2.0, 1.0, 9.0, 8.0]
    weighed = scored(
        rewards, pairs, rows=rows, weights=[3, 1, 0], ratings_N=ratings, subsets=[*"aab"]
    )
    found = slow_metrics(weighed) | compute_metrics(weighed)
    assert (found["accuracy"], found["a/accuracy"]) == (0.75, 0.75)
    assert "b/accuracy" not in found  # its rows have no weight
    assert found["kendall_within"] == pytest.approx((3 * 1 + 1 * -1) / 4)
    three = [rewards[0], rewards[1]] * 3 + rewards[2:4]
    copied = scored(
        three,
        [(0, 1), (2, 3), (4, 5), (6, 7)],
        rows=[0, 0, 1, 1, 2, 2, 3, 3],
        prompts=[0, 0, 0, 1],
        ratings_N=[2.0, 1.0] * 4,
    )
    again = compute_metrics(copied) | slow_metrics(copied)
    names = (
        "accuracy accuracy_low accuracy_high tie_rate auc auc_low spearman spearman_high kendall"
    )
    for name in [*names.split(), "margin", "nll", "brier"]:
        assert found[name] == pytest.approx(again[name]), name


def test_best_of_k_by_hand():
    levels = [2, 1, 0, 1, 0, 0, 0, 0]
    rows = [0, 0, 0, 1, 1, 2, 2, 2]  # of the third all are equally good: left out
    rewards = [3.0, 1.0, 2.0, 0.0, 1.0, 1.0, 2.0, 3.0]
    found = compute_metrics(scored(rewards, [], rows=rows, levels_N=levels))
    assert found["best_of_k"] == 0.5
    assert found["best_of_k_chance"] == pytest.approx((1 / 3 + 1 / 2) / 2)
    assert {"best_of_k_low", "best_of_k_high"} <= set(found)
    weighed = compute_metrics(scored(rewards, [], rows=rows, levels_N=levels, weights=[3, 1, 1]))
    assert weighed["best_of_k"] == 0.75
    pairs_only = scored([1.0, 0.0], [(0, 1)], rows=[0, 0], levels_N=[1, 0])
    assert "best_of_k" not in compute_metrics(pairs_only)


def test_comparisons_without_finite_rewards_are_left_out_and_counted():
    pairs, rows = [(0, 1), (2, 3), (4, 5)], [0, 0, 1, 1, 2, 2]
    s = scored([1.0, 0.0, np.nan, 0.0, 0.0, 2.0], pairs, rows=rows, tied_Q_2=[(2, 3), (4, 5)])
    found = compute_metrics(s)
    assert (found["pairs"], found["responses"], found["not_finite"]) == (2, 4, 1)
    assert (found["accuracy"], found["human_ties"], found["margin"]) == (0.5, 1, -0.5)
    assert s.items_C.tolist() == [0, 2]
    assert s.rows_N.tolist() == [0, 0, 1, 1]
    assert (s.better_P.tolist(), s.worse_P.tolist(), s.tied_Q_2.tolist()) == (
        [0, 2],
        [1, 3],
        [[2, 3]],
    )
    with pytest.raises(UserError, match="Every comparison has a reward that is NaN or infinite"):
        scored([np.nan, np.inf], [(0, 1)])


def test_calibrated_metrics_by_hand():
    rng = np.random.default_rng(0)
    strength = rng.normal(0, 2, 2000)
    flip = rng.random(2000) > 1 / (1 + np.exp(-np.abs(strength)))
    gaps = np.where(flip, -1, 1) * np.abs(strength) * 3  # three times too sure
    rewards = np.stack([gaps, np.zeros(2000)], 1).ravel()
    pairs, rows = np.arange(4000).reshape(-1, 2), np.arange(4000) // 2
    s = scored(rewards, pairs, rows=rows, ratings_N=2 * rewards + 1)
    found = compute_metrics(s, fit_calibration(s.rewards_N, s.ratings_N, s.gaps_P))
    assert found["nll_calibrated"] < found["nll"]
    assert found["ece"] > 0.1 > 0.03 > found["ece_calibrated"]
    assert found["rating_rmse"] == pytest.approx(0, abs=1e-4)
    assert not {name for name in compute_metrics(s) if "calibrated" in name or "rmse" in name}


def test_thorough_has_intervals_of_the_whole_and_of_subsets():
    rng = np.random.default_rng(0)
    good = np.tile([1.0, 0.0], 60)
    rewards, rows = good + rng.normal(size=120), np.arange(120) // 2
    pairs = np.arange(120).reshape(-1, 2)
    subsets = ["a"] * 40 + ["b"] * 20
    s = scored(rewards, pairs, rows=rows, ratings_N=good, subsets=subsets)
    found, quick = slow_metrics(s), compute_metrics(s)
    assert found["label_auc"] == pytest.approx(quick["auc"])
    assert found["label_auc_low"] < found["label_auc"] < found["label_auc_high"]
    assert found["b/accuracy"] == quick["b/accuracy"]
    assert found["b/accuracy_high"] - found["b/accuracy_low"] > (
        found["a/accuracy_high"] - found["a/accuracy_low"]
    )
    assert found["a/kendall_low"] < found["a/kendall"] < found["a/kendall_high"]
    assert quick["kendall_within_low"] < quick["kendall_within"] < quick["kendall_within_high"]
    assert not {"spearman_low", "spearman"} & set(found)  # `evaluate` has them
    assert {"a/spearman", "a/spearman_low"} <= set(found)


def test_a_set_is_read_from_the_columns_of_a_data_set():
    rows = datasets.Dataset.from_list(
        [
            row("a", "p", [[5, 0], [3, 1], [3, 1]], [2.0, None, 1.0], [2, 1, 0], [(0, 2, 1)], 2.0),
            row("b", "q", [[9, 9]], [4.0], [-1], [], 1.0),
            row("a", "p", [[7, 7], [8, 8]], [None] * 2, [0, 1], [(0, 1, 0), (1, 0, 1)], 0.5),
        ]
    )
    found = eval_labels(rows, np.array([2, 0, 1]))
    assert found.items_C.tolist() == [2, 0, 1]
    assert found.rows_N.tolist() == [0, 0, 1, 1, 1, 2]
    assert found.tokens_N.tolist() == [7, 8, 5, 3, 3, 9]
    assert found.subsets_C.tolist() == ["a", "a", "b"]
    assert found.prompts_C[0] == found.prompts_C[1] != found.prompts_C[2]
    assert (found.better_P.tolist(), found.worse_P.tolist()) == ([1, 2], [0, 4])
    assert found.tied_Q_2.tolist() == [[0, 1]]
    assert found.weights_P.tolist() == [0.5 * 0.5, 2 * 0.5]
    assert np.isnan(found.ratings_N).tolist() == [True, True, False, True, False, False]
    assert found.levels_N.tolist() == [0, 1, 2, 1, 0, -1]
    assert found.style_N_S[:, 1].tolist() == [7, 8, 0, 1, 1, 9]


def row(subset, prompt, sizes, ratings, levels, pairs, weight):
    return {
        "subset": subset,
        "prompt_key": prompt,
        "lengths": [length for length, _ in sizes],
        "style": [[0, marks, 0, 0] for _, marks in sizes],
        "ratings": ratings,
        "rank_levels": levels,
        "pairs": [list(pair) for pair in pairs],
        "weights": [0.5] * len(pairs),
        "weight": weight,
    }


def test_spearman_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 2, 1, 3, 4: 1 - 3 of the 5 that the deviations allow."""
    found = compute_metrics(scored([0.0, 1.0, 1.0, 9.0], [], ratings_N=[2.0, 1.0, 3.0, 4.0]))
    x, y = np.array([1, 2.5, 2.5, 4]), np.array([2.0, 1, 3, 4])
    assert found["spearman"] == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert "spearman" not in compute_metrics(scored([0.0, 1.0], [], ratings_N=[2.0, 2.0]))


def test_the_interval_of_a_correlation_covers_it_and_respects_clusters():
    rng = np.random.default_rng(0)
    shared = np.repeat(rng.normal(size=(2, 20)), 10, axis=1)
    x, y = shared + 0.1 * rng.normal(size=(2, 200))
    y = 0.7 * x + y
    clusters = np.repeat(np.arange(20), 10)
    whole, low, high = spearman(x, y, clusters)
    assert whole == pytest.approx(stats.spearmanr(x, y).statistic)
    assert low < whole < high
    _, narrow_low, narrow_high = spearman(x, y, np.arange(200))
    assert high - low > 1.5 * (narrow_high - narrow_low)


def test_auc_by_hand():
    better, worse = (np.array(rewards) for rewards in ([3.0, 1.0], [1.0, 0.0]))
    ones, prompts = np.ones(2), np.arange(2)
    assert area((better, prompts, ones), (worse, prompts, ones)).value == (1 + 1 + 0.5 + 1) / 4


@pytest.mark.slow
@given(
    st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=30),
    st.floats(0.5, 3),
    st.floats(-4, 4),
)
def test_ranks_do_not_change_under_an_increasing_map(rewards, scale, shift):
    pairs = [(i, i + 1) for i in range(len(rewards) - 1)]
    rewards = [round(r, 2) for r in rewards]
    one, two = (
        compute_metrics(scored(rewards, pairs)),
        compute_metrics(scored([round(r, 2) * 4 + 8 for r in rewards], pairs)),
    )
    for name in ("accuracy", "tie_rate", "auc"):
        assert one[name] == pytest.approx(two[name])


def test_no_pairs_gives_only_what_needs_none():
    assert set(compute_metrics(scored([1.0, 2.0], [], tokens_N=[1, 3]))) == {
        "pairs",
        "human_ties",
        "responses",
        "reward_mean",
        "reward_std",
        "length_r2",
        "position_correlation",
    }


def test_interval_of_one_cluster_is_unknown():
    assert np.isnan(clustered_mean(np.ones(3), np.zeros(3)).interval).all()


def test_without_intervals_nothing_is_resampled_and_values_are_the_same(monkeypatch):
    rng = np.random.default_rng(0)
    rewards, rows = rng.normal(size=90), np.arange(90) // 3
    s = scored(
        rewards,
        [(3 * row, 3 * row + k) for row in range(30) for k in (1, 2)],
        rows=rows,
        ratings_N=rng.integers(5, size=90).astype(float),
        levels_N=np.tile([1, 0, 0], 30),
        subsets=["a", "b"] * 15,
    )
    full = compute_metrics(s)
    monkeypatch.setattr(bootstrap, "_totals", None)
    quick = compute_metrics(s, intervals=False)
    bounds = {f"{name}_{end}" for name in quick for end in ("low", "high")}
    assert quick == {name: value for name, value in full.items() if name not in bounds}
    assert {"accuracy_low", "best_of_k_low", "spearman_within_low", "auc_low"} <= bounds & set(full)


def test_a_set_without_rows_is_one_sentence():
    none = EvalLabels(**people(2, [(0, 1)]).part(np.zeros(2, dtype=bool)))
    with pytest.raises(UserError, match="There is no comparison to evaluate"):
        none.with_rewards({})
