"""Bias probes: exact values on toys; planted biases are found, and absent ones are not."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.linear_model import LogisticRegression

from rmexp.data.text_style import text_style
from rmexp.evaluation.bias_probes import explained
from rmexp.evaluation.bias_warnings import bias_warnings, sensitivity_warnings
from rmexp.evaluation.length_control import PENALTY, length_controlled_accuracy
from rmexp.evaluation.metric_values import compute_metrics
from tests.conftest import SHARED, needs
from tests.evaluation.test_metrics import scored

UKP = SHARED / "ukp_convarg1" / "pairs.jsonl.gz"


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


def probes(rewards, tokens, style=None, rows=None, pairs=()):
    """All metrics of responses of these lengths (without intervals)."""
    style = np.zeros((len(tokens), 4), dtype=int) if style is None else np.array(style)
    found = scored(rewards, pairs, rows=rows, tokens_N=tokens, style_N_S=style)
    return compute_metrics(found, intervals=False)


def test_preferences_by_hand():
    style = [[9, 1, 0, 0], [9, 0, 0, 0], [9, 0, 0, 0], [9, 0, 2, 1]]
    pairs = [(0, 1), (1, 0), (2, 3), (0, 3)]
    found = probes([1.0, 2.0, 0.0, 0.0], [5, 3, 2, 2], style, [0, 0, 1, 1], pairs)
    assert found["length_baseline"] == (1 + 0 + 0.5 + 1) / 4
    # longer: 0 in all three pairs that differ; preferred in the last only
    assert found["longer_preferred"] == pytest.approx(1 / 3)
    assert found["formatted_pairs"] == 4
    assert found["formatting_baseline"] == 1 / 4  # more marks: 0, 0, 3, 3; better in the first
    assert found["formatting_preferred"] == (0 + 0 + 0.5 + 0) / 4  # equal rewards are half


def test_correlations_are_within_comparisons():
    """Prompts that ask for more headers have higher rewards, the answers with them lower ones."""
    rows = np.repeat(np.arange(10), 2)
    headers = rows + np.tile([0, 1], 10)
    rewards = rows * 10.0 - np.tile([0, 1], 10)
    counts = np.stack([headers, headers, headers * 0, headers * 0], axis=1)
    found = probes(rewards, rows * 0 + 5, counts, rows)
    assert found["headers_correlation"] < -0.5
    assert "lists_correlation" not in found  # nothing varies
    assert "position_correlation" not in found
    alone = probes(rewards, rows * 0 + 5, counts)  # each its own comparison
    assert alone["headers_correlation"] > 0.5


def test_explained_by_hand():
    y = np.array([0.0, 1, 2, 3])
    assert explained(y, np.array([[0.0], [1], [2], [3]])) == pytest.approx(1)
    assert explained(y, np.array([[1.0], [-1], [-1], [1]])) == pytest.approx(0)
    assert explained(np.ones(3), np.array([[0.0], [1], [2]])) is None
    assert explained(y, np.ones((4, 2))) == 0


# ------------------------------------------------- accuracy at equal lengths
def controlled(gaps, longer, **more):
    longer = np.array(longer)
    found = length_controlled_accuracy(np.array(gaps), longer, np.arange(len(longer)), **more)
    return found.value


def test_length_controlled_accuracy_as_scikit_learn_has_it():
    """Two bins of |longer|, with 15 and 5 pairs of a kind, then 12 and 8; weights 3.75 and 4.8."""
    rng = np.random.default_rng(0)
    longer = np.repeat([20, -20, 50, -50], [15, 5, 12, 8])
    right = rng.random(40) < 1 / (1 + np.exp(-0.3 - longer / 40))
    x = np.tanh(longer / np.sqrt(np.square(longer).mean()))[:, None]
    weights = np.repeat([3.75 / 15, 3.75 / 5, 4.8 / 12, 4.8 / 8], [15, 5, 12, 8])
    model = LogisticRegression(C=1 / (PENALTY * weights.sum()), tol=1e-9, max_iter=1000)
    expected = model.fit(x, right, weights).predict_proba(np.zeros((1, 1)))[0, 1]
    assert controlled(np.where(right, 1.0, -2.0), longer) == pytest.approx(expected, abs=1e-5)


@given(st.integers(0, 2**32 - 1), st.floats(0.3, 0.95))
def test_where_length_does_not_matter_it_is_the_accuracy(seed, rate):
    """Every difference comes with the same share of right pairs, and of ties."""
    rng = np.random.default_rng(seed)
    longer = np.append(rng.integers(-50, 50, 38), [7, -7])
    gaps = np.tile(np.where(np.arange(20) < rate * 18, 1.0, -1.0), 40)
    gaps[::20] = 0  # equal rewards are not right, as in the accuracy
    assert controlled(gaps, np.repeat(longer, 20)) == pytest.approx((gaps > 0).mean(), abs=1e-6)


def uniform(rng, share):
    sizes = rng.integers(1, 100, 2000)
    return np.where(rng.random(2000) < share, sizes, -sizes)


def sure_where_far(rng, way):
    sizes = rng.exponential(50, 2000)
    return np.where(rng.random(2000) < 1 / (1 + np.exp(-way * sizes / 40)), sizes, -sizes)


LENGTHS = {
    "half": lambda rng: uniform(rng, 0.5),
    "three quarters": lambda rng: uniform(rng, 0.77),
    "nearly all": lambda rng: uniform(rng, 0.95),
    "normal, 75%": lambda rng: rng.normal(0.674, 1, 2000) * 100,
    "normal, 87%": lambda rng: rng.normal(1.126, 1, 2000) * 100,
    "lognormal": lambda rng: rng.lognormal(4.5, 0.7, 2000) - rng.lognormal(4, 0.7, 2000),
    "more often where far": lambda rng: sure_where_far(rng, 1),
    "less often where far": lambda rng: sure_where_far(rng, -1),
    "60 pairs": lambda rng: rng.normal(0.7, 1, 60),
}


@pytest.mark.parametrize("way", [1, -1])
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
def test_a_model_that_is_length_alone_has_a_half(lengths, way):
    longer = lengths(np.random.default_rng(1))
    assert controlled(way * longer, longer) == pytest.approx(0.5, abs=1e-6)


@needs(UKP)
@pytest.mark.parametrize("size", [len, lambda text: len(text.split())])
def test_length_alone_has_a_half_on_ukp(size):
    """Where .77 are longer, the more so the more they differ; 1% of the pairs are equally long."""
    with gzip.open(UKP) as lines:
        rows = [row for row in map(json.loads, lines) if row["strict"]]
    longer = np.array([size(row["chosen"]) - size(row["rejected"]) for row in rows])
    decided = (longer != 0).mean()
    assert controlled(longer, longer) == pytest.approx(decided / 2, abs=1e-6)
    assert controlled(-longer, longer) == pytest.approx(decided / 2, abs=1e-6)


@pytest.mark.parametrize(
    ("gaps", "longer", "expected"),
    [
        ([1, 1, -1], [0, 0, 0], 2 / 3),
        ([1, 1], [3, -3], 1),
        ([-1, -1], [3, -3], 0),
        ([0, 0], [3, -3], 0),
        ([1], [5], np.nan),  # no pair whose better response is shorter
    ],
)
def test_length_controlled_accuracy_where_there_is_nothing_to_fit(gaps, longer, expected):
    assert controlled(gaps, longer) == pytest.approx(expected, nan_ok=True, abs=1e-9)


@given(st.lists(st.tuples(st.integers(-1, 1), st.integers(-(10**6), 10**6)), min_size=1))
def test_length_controlled_accuracy_is_always_a_share(pairs):
    found = controlled(*zip(*pairs, strict=True))
    assert np.isnan(found) or 0 <= found <= 1


@pytest.mark.slow
def test_the_interval_of_length_controlled_accuracy_covers_the_truth():
    """The gap is 0.8 + 0.7 longer + noise, 76% are longer, 4 pairs a prompt: truth is Phi(0.8)."""
    rng, hits = np.random.default_rng(3), 0
    for _ in range(100):
        longer, noise = rng.normal(0.7, 1, 400), rng.normal(size=400)
        prompts = np.arange(400) // 4
        found = length_controlled_accuracy(0.8 + 0.7 * longer + noise, longer, prompts)
        hits += found.low <= stats.norm.cdf(0.8) <= found.high
    assert hits >= 89  # a chance of 0.4% below 95%


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
    rows, pairs = np.repeat(np.arange(count), 2), np.stack([better, worse], axis=1)
    return bias_warnings(probes(rewards, tokens, marks, rows, pairs))


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


@pytest.mark.parametrize(
    ("model", "correlation", "expected"),
    [
        (0.8, 0.5, "goes with lists (correlation +0.50 within a prompt), more than people do."),
        (0.4, -0.5, "goes against lists (correlation -0.50 within a prompt), more than people do."),
        (0.4, 0.5, None),  # less than people do
        (0.8, -0.5, None),
        (None, 0.5, "goes with lists (correlation +0.50 within a prompt)."),  # no human figure
    ],
)
def test_formatting_is_compared_with_people(model, correlation, expected):
    metrics = {"lists_correlation": correlation, "pairs": 500, "responses": 1000}
    if model is not None:
        metrics |= {"formatting_preferred": model, "formatting_baseline": 0.6}
    assert bias_warnings(metrics) == ([f"The reward {expected}"] if expected else [])


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
