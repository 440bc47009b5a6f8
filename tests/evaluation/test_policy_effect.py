"""Before and after on the same prompts: numbers worked out by hand, and the verdict in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.evaluation.policy_effect import (
    Change,
    Measured,
    changes,
    distinct_n,
    gain_at_equal_length,
    policy_effect,
    verdict,
    win_rate,
)
from rmexp.evaluation.stats.bootstrap import Estimate
from rmexp.evaluation.stats.significance import Difference

NAN = float("nan")


def measured(prompts, **values):
    return Measured(np.array(prompts), {n: np.array(v, dtype=float) for n, v in values.items()})


def test_changes_pair_the_means_of_a_prompt():
    before = measured([0, 0, 1, 1, 2, 2], gold=[1, 3, 0, 0, NAN, NAN])
    after = measured([0, 0, 1, 1, 2, 2], gold=[4, NAN, 1, 1, 5, 5])
    (change,) = changes(before, after)
    # Prompt 2 has no value before. Means 2 and 0 before, 4 and 1 after.
    assert (change.before.value, change.after.value) == (1.0, 2.5)
    assert (change.difference.value, change.difference.prompts) == (1.5, 2)


def test_win_rate_counts_pairs_of_a_prompt_and_ties_half():
    before = measured([0, 0, 1], r=[1, 2, 0])
    after = measured([0, 0, 1], r=[2, 0, 1])
    # Prompt 0: 2>1, 2=2, 0<1, 0<2: 1.5 of 4. Prompt 1: 1 of 1.
    assert win_rate(before, after, "r").value == pytest.approx((1.5 / 4 + 1) / 2)


@given(st.integers(0, 10**6), st.floats(-2, 2), st.floats(-0.5, 0.5))
def test_a_gain_that_is_all_length_is_none_at_equal_length(seed, gain, slope):
    rng = np.random.default_rng(seed)
    prompts = np.repeat(np.arange(5), 4)
    lengths = rng.integers(1, 60, (2, 20)).astype(float)
    base = np.repeat(rng.normal(size=5), 4)
    before = Measured(prompts, {"r": base + slope * lengths[0], "tokens": lengths[0]})
    after = Measured(prompts, {"r": base + gain + slope * lengths[1], "tokens": lengths[1]})
    found = gain_at_equal_length(before, after, "r", "tokens")
    assert found.value == pytest.approx(gain, abs=1e-6)


def test_with_equal_lengths_the_gain_is_the_whole_gain():
    same = {"tokens": [8, 8, 8, 8]}
    before = measured([0, 0, 1, 1], r=[0, 1, 0, 1], **same)
    after = measured([0, 0, 1, 1], r=[1, 1, 2, 1], **same)
    assert gain_at_equal_length(before, after, "r", "tokens").value == pytest.approx(0.75)


def test_distinct_pairs_of_tokens():
    assert distinct_n([[1, 2, 3], [1, 2, 4]]) == 3 / 4
    assert np.isnan(distinct_n([[1], []]))


def test_metrics_have_bounds_and_leave_out_what_is_undefined():
    before = measured([0, 1, 2], proxy=[0, 0, 1], tokens=[3, 4, 5])
    after = measured([0, 1, 2], proxy=[1, 2, 2], tokens=[3, 4, 5])
    found = policy_effect(before, after, ["proxy"], np.array([0.1, 0.2, 0.3])).metrics("test")
    assert found["test/proxy_change"] == pytest.approx(4 / 3)
    assert found["test/proxy_change_low"] <= 4 / 3 <= found["test/proxy_change_high"]
    assert found["test/kl"] == pytest.approx(0.2)
    assert found["test/proxy_win_rate"] == 1.0
    assert all(value == value for value in found.values())


def change(name, value, p, prompts=40):
    exact = Estimate(0.0, lambda: (0.0, 0.0))
    found = Difference(value, value - 0.1, value + 0.1, p, "sign flips", prompts, prompts, 0.01)
    return Change(name, exact, exact, found)


@pytest.mark.parametrize(
    ("proxy", "gold", "words"),
    [
        ((0.5, 0.001), (0.3, 0.01), "and gold rose too"),
        ((0.5, 0.001), (0.1, 0.4), "and gold did not"),
        ((0.5, 0.001), (-0.3, 0.01), "the policy is overoptimised, and worse than before"),
        ((0.1, 0.6), (0.05, 0.7), "Neither the proxy"),
        ((0.1, 0.6), (0.3, 0.01), "The proxy did not move significantly"),
        ((0.1, 0.6), (-0.3, 0.01), "the training did harm"),
        ((-0.5, 0.01), (0.3, 0.01), "The proxy fell (-0.500 [-0.600, -0.400], p 0.01), but gold"),
        ((-0.5, 0.01), (0.0, 0.9), "the training did not optimise it"),
        ((-0.5, 0.01), (-0.3, 0.01), "and gold too"),
    ],
)
def test_the_verdict_says_what_proxy_and_gold_did(proxy, gold, words):
    (sentence,) = verdict(change("proxy", *proxy), change("gold", *gold), control=False)
    assert words in sentence


def test_the_verdict_without_gold_with_few_prompts_and_of_a_control():
    risen = change("proxy", 0.5, 0.001)
    (alone,) = verdict(risen, None, control=False)
    assert "no gold tells whether the answers are better" in alone
    few = verdict(change("proxy", 0.5, 0.5, prompts=4), None, control=False)
    assert few[1].startswith("4 held-out prompts cannot show a change")
    assert "no effect of the reward" in verdict(risen, None, control=True)[-1]
    still = verdict(change("proxy", 0.0, 0.9), None, control=True)
    assert "there was nothing to learn" in still[-1]
