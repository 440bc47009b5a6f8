"""Paired tests: published and hand-made values, brute force, and how often they are wrong."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from bench.coverage import seeded
from rmexp.evaluation.stats.bootstrap import clustered_variance
from rmexp.evaluation.stats.seed_replicates import contrast
from rmexp.evaluation.stats.significance import (
    Difference,
    holm_correction,
    mcnemar_midp,
    needed_items,
    paired_difference,
    sign_flip,
)

SUMS = st.lists(st.integers(-4, 4), min_size=2, max_size=9)
CHANCES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


def enumerated(sums):
    """The sign-flip p by its definition."""
    flips = [np.dot(s, sums) for s in itertools.product((-1, 1), repeat=len(sums))]
    return np.mean(np.abs(flips) >= abs(sum(sums)))


def test_mcnemar_by_the_example_of_its_paper_and_by_hand():
    assert mcnemar_midp(1, 7) == pytest.approx(0.0391, abs=5e-5)  # Fagerland 2013, airways
    assert mcnemar_midp(7, 1) == mcnemar_midp(1, 7)
    assert mcnemar_midp(0, 5) == 2**-5
    assert mcnemar_midp(4, 4) == mcnemar_midp(0, 0) == 1
    assert 0 < mcnemar_midp(5_000, 5_400) < 1e-3


def test_holm_by_hand():
    assert holm_correction([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.01, 0.04], family=10) == pytest.approx([0.1, 0.36])
    assert holm_correction([]) == []
    assert holm_correction([0.5, math.nan]) == [1, 1]


@given(CHANCES, st.integers(0, 5))
def test_holm_keeps_the_order_and_never_lowers_a_p(chances, more):
    found = holm_correction(chances)
    assert all(p <= q <= 1 for p, q in zip(chances, found, strict=True))
    assert [found[i] for i in np.argsort(chances, kind="stable")] == sorted(found)
    assert all(
        q <= r for q, r in zip(found, holm_correction(chances, len(chances) + more), strict=True)
    )
    bonferroni = [min(1, len(chances) * p) for p in chances]
    assert all(q <= b for q, b in zip(found, bonferroni, strict=True))


@given(SUMS)
def test_few_prompts_are_enumerated(sums):
    prompts = np.arange(len(sums))
    assert sign_flip(np.array(sums), prompts) == pytest.approx(enumerated(sums))


def test_many_prompts_are_drawn():
    sums = np.random.default_rng(3).integers(-3, 5, 16)
    drawn = sign_flip(sums, np.arange(16))
    assert drawn == pytest.approx(enumerated(sums), abs=0.015)
    assert sign_flip(np.ones(500), np.arange(500)) == 1 / 10_000, "never 0"


@given(SUMS, st.integers(1, 4))
def test_prompts_that_tell_nothing_apart_change_nothing(sums, silent):
    d, prompts = np.array(sums + [0] * silent), np.arange(len(sums) + silent)
    assert sign_flip(d, prompts) == sign_flip(np.array(sums), np.arange(len(sums)))


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=4, max_size=40))
def test_the_sides_are_alike(wins):
    a, b = np.array(wins, dtype=float).T
    prompts = np.arange(len(a)) // 2
    one, other = paired_difference(a, b, prompts), paired_difference(b, a, prompts)
    assert one.p == other.p
    assert one.value == -other.value
    assert one.low == pytest.approx(-other.high)


def test_mcnemar_only_where_each_prompt_has_one_pair():
    a, b = np.array([1.0] * 9 + [0]), np.array([0.0] * 8 + [1, 1])
    assert paired_difference(a, b, np.arange(10)).method == "mid-p McNemar"
    assert paired_difference(a, b, np.arange(10)).p == mcnemar_midp(8, 1)
    assert paired_difference(a, b, np.arange(10) // 2).method == "sign flips of prompts"
    assert paired_difference(a / 2, b, np.arange(10)).method == "sign flips of prompts"


def test_the_variance_counts_prompts():
    values = np.array([0.0, 1, 1, 0, 1])
    alone = clustered_variance(values, np.arange(5))
    assert alone == pytest.approx(values.var(ddof=1) / 5)
    assert clustered_variance(np.repeat(values, 7), np.repeat(np.arange(5), 7)) == pytest.approx(
        alone
    ), "the same said seven times is no more than once"
    assert math.isnan(clustered_variance(values, np.zeros(5)))


def difference(**facts):
    base = Difference(0.0, -0.1, 0.1, 0.5, "a test", 100, 100, 0.0025)
    return replace(base, **facts)


def test_needed_items_by_hand():
    # (1.959964 + 0.841621)^2 = 7.84888; 100 x 0.0025 x 7.84888 / 0.01^2
    assert needed_items(difference()) == (19_623, 1)
    assert needed_items(difference(variance=0.0)) == (None, 1)
    assert needed_items(difference(variance=math.nan)) == (None, 1)
    bearable = 0.01**2 / 7.848879
    items, more = needed_items(difference(seeds_variance=bearable / 2))
    assert (items, more) == (pytest.approx(2 * 19_623, abs=2), 1)
    items, more = needed_items(difference(seeds_variance=3 * bearable))
    assert (items, more) == (pytest.approx(2 * 19_623, abs=2), pytest.approx(6))


def test_that_many_items_are_enough():
    """At the size named, a difference that is there is seen four times out of five."""
    rng, effect = np.random.default_rng(1), 0.1

    def study(prompts):
        chance = rng.beta(4, 2, (prompts, 1)) * (1 - effect)
        lift = rng.random((prompts, 3)) < effect
        b = rng.random((prompts, 3)) < chance
        a = (rng.random((prompts, 3)) < chance) | lift
        d = a.astype(float) - b
        return d.ravel(), np.repeat(np.arange(prompts), 3)

    d, prompts = study(100_000)
    pilot = difference(items=len(d), variance=clustered_variance(d, prompts))
    items, _ = needed_items(pilot, d.mean())
    seen = 0
    for _ in range(400):
        d, prompts = study(items // 3)
        seen += sign_flip(d, prompts, 999) <= 0.05
    assert 0.74 <= seen / 400 <= 0.86


def test_a_checkpoints_verdict_is_none_of_a_setting():
    """It takes the seed for the setting far more often than one in twenty times."""
    rng, alarms = np.random.default_rng(2), 0
    for _ in range(200):
        (a, b), prompts = seeded(rng, 1, (0.3, 0.3))
        alarms += sign_flip((a - b)[0], prompts, 199) <= 0.05
    assert alarms / 200 > 0.12


def test_weights_are_copies_in_every_test():
    rng = np.random.default_rng(0)
    a, b = (rng.random(60) < 0.7 for _ in range(2))
    a, b, prompts, weights = (
        a.astype(float),
        b.astype(float),
        np.arange(60) // 3,
        rng.integers(1, 4, 60),
    )
    one = paired_difference(a, b, prompts, weights.astype(float))
    other = paired_difference(*(np.repeat(x, weights) for x in (a, b, prompts)))
    assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high))
    assert (one.p, one.variance) == pytest.approx((other.p, other.variance))
    settings = [np.stack([a, b, a]), np.stack([b, 1 - a, b])]
    copied = [np.repeat(x, weights, axis=1) for x in settings]
    found = contrast(settings, [1, -1], prompts, weights.astype(float))
    again = contrast(copied, [1, -1], np.repeat(prompts, weights))
    assert (found.value, found.low, found.p) == pytest.approx((again.value, again.low, again.p))


def test_weighted_pairs_are_never_counted_by_mcnemar():
    a, b = np.array([1.0] * 9 + [0]), np.array([0.0] * 8 + [1, 1])
    found = paired_difference(a, b, np.arange(10), np.arange(1.0, 11))
    assert found.method == "sign flips of prompts"
    assert found.value == pytest.approx((sum(range(1, 9)) - 10) / 55)


def test_seeds_alone_give_welchs_test():
    """Where prompts do not matter."""
    a, b = [0.6, 0.8, 0.7], [0.5, 0.2]
    settings = [np.repeat(np.array(means)[:, None], 20, 1) for means in (a, b)]
    found = contrast(settings, [1, -1], np.arange(20))
    expected = stats.ttest_ind(a, b, equal_var=False)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_prompts_alone_give_the_paired_t_test():
    """Where all seeds say the same."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 25), rng.normal(0, 1, 25)
    settings = [np.stack([x, x, x]) for x in (a, b)]
    found, expected = contrast(settings, [1, -1], np.arange(25)), stats.ttest_rel(a, b)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx(tuple(expected.confidence_interval()))


def test_no_variance_is_no_certainty():
    """Five items of which all seeds say the same: sign flips of five prompts never reach 5%."""
    one = np.ones((2, 5))
    assert contrast([one, one * 0], [1, -1], np.arange(5)).p == 2**-4
    crossed = np.array([[1.0, 0, 1, 1], [0.0, 1, 1, 1]])  # other items, the same mean
    found = contrast([crossed, np.zeros((2, 4))], [1, -1], np.arange(4))
    assert found.low < found.value == 0.75 < found.high
    assert found.p >= 2**-3


def test_what_cannot_be_told_is_not_told():
    one = np.ones((2, 3))
    assert math.isnan(contrast([one, one * 0], [1, -1], np.zeros(3)).p), "one prompt"
    assert contrast([one, one], [1, -1], np.arange(3)).p == 1, "no difference at all"
    assert paired_difference(one[0], one[0] * 0, np.zeros(3)).p == 1, "one prompt"
