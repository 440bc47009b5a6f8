"""Weights learnt from preferences, and metrics of each attribute."""

from dataclasses import replace

import numpy as np

from rmexp.data.text_style import STYLE_NAMES
from rmexp.evaluation.attributes import attribute_metrics, correlations, learn_weights
from rmexp.evaluation.scored_set import ScoredSet


def pairs_of(count, seed=0):
    """A set of pairs (2k, 2k + 1) with the first better, one prompt each."""
    index = np.arange(count)
    return ScoredSet(
        items_C=index,
        subsets_C=np.array(["all"] * count, dtype=object),
        prompts_C=index,
        weights_C=np.ones(count),
        rows_N=np.repeat(index, 2),
        tokens_N=np.random.default_rng(seed).integers(1, 50, 2 * count),
        style_N_S=np.ones((2 * count, len(STYLE_NAMES)), dtype=np.int64),
        ratings_N=np.tile([1.0, 0.0], count),
        levels_N=np.tile([1, 0], count),
        better_P=2 * index,
        worse_P=2 * index + 1,
        weights_P=np.ones(count),
        tied_Q_2=np.zeros((0, 2), dtype=np.int64),
        rewards_N=np.zeros(2 * count, dtype=np.float32),
    )


def test_weights_of_preferences_are_recovered_and_none_is_negative():
    rng, count = np.random.default_rng(0), 3000
    gaps_P_K = rng.normal(size=(count, 3))
    chance_P = 1 / (1 + np.exp(-gaps_P_K @ [1.0, 0.5, -0.7]))
    gaps_P_K *= np.where(rng.random(count) < chance_P, 1, -1)[:, None]
    outputs_N_K = np.zeros((2 * count, 3), dtype=np.float32)
    outputs_N_K[::2] = gaps_P_K
    found = learn_weights(replace(pairs_of(count), outputs_N_K=outputs_N_K))
    # Without the third, whose weight is negative, the others are smaller in logistic regression.
    assert 0.7 < found.weights_K[0] < 1.0
    assert 0.3 < found.weights_K[1] < 0.5
    assert found.weights_K[2] == 0
    low_K, high_K = found.intervals_K_2.T
    assert (low_K <= found.weights_K).all()
    assert (found.weights_K <= high_K).all()
    assert 0.1 < high_K[0] - low_K[0] < 0.3


def test_what_says_nothing_of_the_preferences_has_weight_zero():
    outputs_N_K = np.zeros((8, 2), dtype=np.float32)
    outputs_N_K[::2, 0] = -1.0  # always prefers the worse
    assert learn_weights(replace(pairs_of(4), outputs_N_K=outputs_N_K)).weights_K.tolist() == [
        0.0,
        0.0,
    ]


def test_metrics_are_named_by_attribute():
    right = replace(pairs_of(3), rewards_N=np.tile([2.0, 1.0], 3).astype(np.float32))
    wrong = replace(right, rewards_N=-right.rewards_N)
    found = attribute_metrics({"a": right, "b": wrong}, {}, intervals=False)
    assert found["attributes/a/accuracy"] == 1
    assert found["attributes/b/accuracy"] == 0
    assert found["attributes/a/spearman"] == 1
    assert found["attributes/b/spearman"] == -1
    table = correlations({"a": right, "b": wrong})
    np.testing.assert_allclose(table["outputs"], [[1, -1], [-1, 1]])
    np.testing.assert_allclose(table["ratings"], [[1, 1], [1, 1]])
