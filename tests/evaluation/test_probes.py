"""Bias probes: exact values on toys; planted biases are found, and absent ones are not."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from rmexp.data.text_style import text_style
from rmexp.evaluation.bias_probes import Traits, explained, length_controlled_accuracy, probe_biases
from rmexp.evaluation.bias_warnings import bias_warnings, sensitivity_warnings


def said(text):
    return text_style([{"role": "assistant", "content": text}])


def test_style_by_hand():
    text = "# Title\n\n- one\n* **two**\n1. three\n  2) four\n\n### Sub\nplain #no - no\n__five__"
    assert said(text) == [len(text), 2, 4, 2]
    assert said("2 * 3 * 4 = 24, -5\n---\n**") == [25, 0, 0, 0]
    assert said("1、苹果\n2、梨") == [8, 0, 2, 0]
    assert said("") == [0, 0, 0, 0]


def test_style_of_parts_and_turns():
    response = [
        {"role": "assistant", "content": [{"type": "text", "text": "- a"}]},
        {"role": "tool", "content": None},
        {"role": "assistant", "content": "# b"},
    ]
    assert text_style(response) == [8, 1, 1, 0]


def traits(tokens, style=None, rows=None, pairs=()):
    n = len(tokens)
    pairs = np.array(pairs, dtype=int).reshape(-1, 2)
    return Traits(
        tokens_N=np.array(tokens),
        style_N_S=np.zeros((n, 4), dtype=int) if style is None else np.array(style),
        rows_N=np.arange(n) if rows is None else np.array(rows),
        better_P=pairs[:, 0],
        worse_P=pairs[:, 1],
    )


def test_preferences_by_hand():
    style = [[9, 1, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [9, 0, 2, 1]]
    t = traits([5, 3, 2, 2], style, [0, 0, 1, 1], [(0, 1), (1, 0), (2, 3), (0, 3)])
    found = probe_biases(t, np.array([1.0, 2.0, 0.0, 0.0]))
    assert found["length_baseline"] == (1 + 0 + 0.5 + 1) / 4
    # longer: 0 in all three pairs that differ; preferred in the last only
    assert found["longer_preferred"] == 1 / 3
    assert found["formatted_pairs"] == 4
    assert found["formatting_baseline"] == 1 / 4  # more marks: 0, 0, 3, 3; better in the first
    assert found["formatting_preferred"] == (0 + 0 + 0.5 + 0) / 4  # equal rewards are half


def test_correlations_are_within_comparisons():
    """Prompts that ask for more headers have higher rewards, the answers with them lower ones."""
    rows = np.repeat(np.arange(10), 2)
    headers = rows + np.tile([0, 1], 10)
    rewards = rows * 10.0 - np.tile([0, 1], 10)
    counts = np.stack([headers, headers, headers * 0, headers * 0], axis=1)
    found = probe_biases(traits(rows * 0 + 5, counts, rows), rewards)
    assert found["headers_correlation"] < -0.5
    assert "lists_correlation" not in found  # nothing varies
    assert "position_correlation" not in found
    alone = probe_biases(traits(rows * 0 + 5, counts), rewards)  # each its own comparison
    assert alone["headers_correlation"] > 0.5


def test_explained_by_hand():
    y = np.array([0.0, 1, 2, 3])
    assert explained(y, np.array([[0.0], [1], [2], [3]])) == pytest.approx(1)
    assert explained(y, np.array([[1.0], [-1], [-1], [1]])) == pytest.approx(0)
    assert explained(np.ones(3), np.array([[0.0], [1], [2]])) is None
    assert explained(y, np.ones((4, 2))) == 0


# ------------------------------------------------- accuracy at equal lengths
def test_length_controlled_accuracy_as_scikit_learn_has_it():
    rng = np.random.default_rng(0)
    longer = rng.normal(20, 60, 400)
    right = rng.random(400) < 1 / (1 + np.exp(-0.3 - longer / 60))
    x = np.tanh(longer / np.sqrt((longer**2).mean()))[:, None]
    more = (longer > 0).mean()
    weights = np.where(longer > 0, 0.5 / more, 0.5 / (1 - more))
    fitted = LogisticRegression(C=1.0, tol=1e-8, max_iter=1000).fit(x, right, weights)
    expected = fitted.predict_proba(np.zeros((1, 1)))[0, 1]
    assert length_controlled_accuracy(right, longer) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.95))
def test_where_length_does_not_matter_it_is_the_accuracy(seed, rate):
    """Every gap comes with the same share of right pairs."""
    rng = np.random.default_rng(seed)
    gaps = rng.integers(-50, 50, 40).astype(float)
    right = np.tile(np.arange(20) < rate * 20, 40)
    found = length_controlled_accuracy(right, np.repeat(gaps, 20))
    assert found == pytest.approx(right.mean(), abs=1e-6)


@pytest.mark.parametrize("share", [0.5, 0.77, 0.95])
def test_a_model_that_takes_the_longer_one_has_a_half(share):
    rng = np.random.default_rng(1)
    sizes = rng.integers(1, 100, 2000)
    longer = np.where(rng.random(2000) < share, sizes, -sizes)
    assert length_controlled_accuracy(longer > 0, longer) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("right", "longer", "expected"),
    [([1, 1, 0], [0, 0, 0], 2 / 3), ([1, 1], [3, -3], 1), ([0, 0], [3, -3], 0), ([1], [5], 1)],
)
def test_length_controlled_accuracy_where_there_is_nothing_to_fit(right, longer, expected):
    found = length_controlled_accuracy(np.array(right), np.array(longer))
    assert found == pytest.approx(expected)


@given(st.lists(st.tuples(st.booleans(), st.integers(-(10**6), 10**6)), min_size=1, max_size=30))
def test_length_controlled_accuracy_is_always_a_share(pairs):
    right, longer = map(np.array, zip(*pairs, strict=True))
    assert 0 <= length_controlled_accuracy(right, longer) <= 1


# ------------------------------------------------------------- planted biases
def study(people_like=0.0, model_likes=0.0, mark=None, count=600, seed=0):
    """Pairs in which people and a model prefer quality, and length (or a mark) by so much."""
    rng = np.random.default_rng(seed)
    quality, length = rng.normal(size=2 * count), rng.normal(size=2 * count)
    marks = np.zeros((2 * count, 4), dtype=int)
    tokens = np.exp(4 + length / 2).astype(int)
    marks[:, 0] = tokens * 5
    if mark is not None:
        marks[:, mark] = rng.poisson(1.5, 2 * count)
        length = marks[:, mark] - 1.5
        tokens = rng.integers(40, 60, 2 * count)
    people = (quality + people_like * length).reshape(-1, 2)
    first = np.arange(0, 2 * count, 2)
    better = first + people.argmax(1)
    worse = first + people.argmin(1)
    rewards = quality + model_likes * length + rng.normal(0, 0.8, 2 * count)
    t = Traits(tokens, marks, np.repeat(np.arange(count), 2), better, worse)
    found = probe_biases(t, rewards)
    accuracy = float((rewards[better] > rewards[worse]).mean())
    return bias_warnings(found | {"accuracy": accuracy, "pairs": count, "responses": 2 * count})


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_length_bias_is_found(seed):
    found = " ".join(study(model_likes=2.0, seed=seed))
    assert "prefers the longer response" in found
    assert "Length explains" in found


@pytest.mark.parametrize("seed", range(5))
def test_a_bias_towards_short_answers_is_found(seed):
    assert "prefers the longer response in 1" in " ".join(study(model_likes=-2.0, seed=seed))


@pytest.mark.parametrize("mark", [1, 2, 3])
def test_a_planted_formatting_bias_is_found(mark):
    name = ("markdown headers", "lists", "bold text")[mark - 1]
    found = " ".join(study(model_likes=1.0, mark=mark))
    assert f"goes with {name}" in found
    assert "the more formatted response" in found


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("count", [60, 600])
def test_absent_biases_are_not_found(seed, count):
    assert study(seed=seed, count=count) == []
    assert study(seed=seed, count=count, mark=1) == []


def test_what_people_like_too_is_no_formatting_bias():
    assert study(people_like=0.6, model_likes=0.6, mark=2) == []


def test_a_model_that_is_length_alone_is_told():
    metrics = {"accuracy": 0.76, "length_baseline": 0.77, "pairs": 1000}
    assert "shows no more than length does" in bias_warnings(metrics)[0]
    assert (
        '"the shorter one is better"' in bias_warnings({"accuracy": 0.5, "length_baseline": 0.3})[0]
    )
    lost = bias_warnings({"accuracy": 0.8, "length_controlled_accuracy": 0.6, "pairs": 1000})
    assert lost == ["Between equally long responses accuracy would be 60.0%, not 80.0%."]


def test_position_and_calibration_are_told():
    found = bias_warnings({"position_correlation": -0.7, "ece_calibrated": 0.2, "pairs": 1000})
    assert "-0.70" in found[0]
    assert "still 0.20 off" in found[1]
    assert bias_warnings({}) == []


def test_sensitivity_in_words():
    found = sensitivity_warnings(
        {
            "white_space": {"shift": 0.3, "flipped": 0.01},
            "polite_prefix": {"shift": 0.1, "flipped": 0.06},
            "trailing_newline": {"shift": 0.0},
        }
    )
    assert [sentence.split("(")[1].split(")")[0] for sentence in found] == [
        "white space",
        "polite prefix",
    ]


def test_all_probes_of_ten_thousand_responses_take_little_time():
    rng = np.random.default_rng(0)
    n = 10_000
    t = Traits(
        rng.integers(10, 500, n),
        rng.integers(0, 9, (n, 4)),
        np.arange(n) // 2,
        np.arange(0, n, 2),
        np.arange(1, n, 2),
    )
    rewards = rng.normal(size=n).astype(np.float32)
    probe_biases(t, rewards)
    started = time.perf_counter()
    probe_biases(t, rewards)
    assert time.perf_counter() - started < 0.2
