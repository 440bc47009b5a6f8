"""Expected values of the best of n: exact over all subsets."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.evaluation.best_of_n import best_of_n_curves, best_of_n_kl, overoptimisation_fit


def brute_force(rewards, values, most):
    """The mean over all subsets of n; tied responses are picked equally often."""
    curve = []
    for n in range(1, most + 1):
        found = []
        for subset in combinations(range(len(rewards)), n):
            top = max(rewards[k] for k in subset)
            found.append(np.mean([values[k] for k in subset if rewards[k] == top]))
        curve.append(np.mean(found))
    return curve


ANSWERS = st.lists(st.tuples(st.integers(0, 3), st.integers(-5, 5)), min_size=3, max_size=7)


@given(st.lists(ANSWERS, min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_curves_are_the_mean_over_all_subsets(prompts, random):
    rows = [(p, *one) for p, answers in enumerate(prompts) for one in answers]
    random.shuffle(rows)
    row, reward, value = np.array(rows).T
    curves = best_of_n_curves(reward, np.stack([value, -2 * value], 1), row, 3)
    assert curves.shape == (len(prompts), 3, 2)
    for answers, curve in zip(prompts, curves, strict=True):
        rewards, values = zip(*answers, strict=True)
        # Tied responses share their mean over the whole prompt: with two or more of equal reward,
        # which of them is in the subset is random too, so the mean over subsets is the same.
        assert curve[:, 0] == pytest.approx(brute_force(rewards, values, 3))
        assert curve[:, 1] == pytest.approx(-2 * curve[:, 0])


def test_the_ends_of_a_curve():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 512))
    (curve,) = best_of_n_curves(rewards, values[:, None], np.zeros(512, dtype=int), 512)[..., 0]
    assert curve[0] == pytest.approx(values.mean())
    assert curve[-1] == pytest.approx(values[rewards.argmax()])
    assert np.isfinite(curve).all()


def test_kl_of_best_of_n():
    assert best_of_n_kl(np.array([1.0, 4.0])) == pytest.approx([0.0, np.log(4) - 0.75])


def test_the_fit_recovers_its_law():
    d = np.sqrt(best_of_n_kl(np.array([2.0, 4.0, 8.0, 16.0, 32.0])))
    gains = np.stack([d * (1.5 - 0.4 * d), d * (0.2 + 0.1 * d)])
    assert overoptimisation_fit(gains, d) == pytest.approx(np.array([[1.5, 0.4], [0.2, -0.1]]))
    assert np.isnan(overoptimisation_fit(gains[:, :1], d[:1])).all()
