"""How often rows are drawn: exact expectations, and what an epoch really has."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.batching.step_loader import BatchPlan
from rmexp.data import sampling


def plan(times, batch_size=4, units=None):
    count = len(times)
    units = np.arange(count) if units is None else units
    rows = np.arange(count) + 100
    return BatchPlan(
        rows, units, np.ones(count), batch_size, None, seed=3, sampling_rate=np.asarray(times)
    )


def test_balanced_groups_come_equally_often():
    assert sampling.balanced(["a", "a", "a", "b"]).tolist() == pytest.approx([2 / 3] * 3 + [2.0])
    found = sampling.balanced(["a", "a", "a", "b", None])
    assert found.tolist() == pytest.approx([2 / 3] * 3 + [2.0, 1.0])  # no group: as it is


def test_sources_have_their_shares():
    times = sampling.by_source(np.array([0, 0, 0, 1]), [1, 3])
    assert times.tolist() == pytest.approx([1 / 3] * 3 + [3.0])
    within = np.array([1.0, 1.0, 2.0, 1.0])
    assert sampling.by_source(np.array([0, 0, 0, 1]), [0.5, 0.5], within).tolist() == pytest.approx(
        [0.5, 0.5, 1.0, 2.0]
    )


def test_temperature_lifts_small_sources():
    assert sampling.tempered([900, 100], 1.0) == pytest.approx([0.9, 0.1])
    assert sampling.tempered([900, 100], 2.0) == pytest.approx([0.75, 0.25])


@given(st.lists(st.floats(0.1, 9.0), min_size=1, max_size=40), st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_draws_each_row_its_times(weights, batch_size, epoch):
    times = np.array(weights) / np.mean(weights)
    steps = plan(times, batch_size).steps(epoch)
    drawn = Counter(row for step in steps for row in step)
    assert sum(drawn.values()) == len(times)
    assert [len(step) for step in steps[:-1]] == [batch_size] * (len(steps) - 1)
    for index, expected in enumerate(times):
        assert abs(drawn[index + 100] - expected) < 1 + 1e-9


def test_the_mean_over_epochs_is_exact_enough_and_epochs_differ():
    times = sampling.balanced(["a"] * 30 + ["b"] * 10)
    epochs = [plan(times).steps(epoch) for epoch in range(200)]
    found = Counter(row for steps in epochs for step in steps for row in step)
    assert found[100] / 200 == pytest.approx(2 / 3, abs=0.1)
    assert found[139] / 200 == pytest.approx(2.0, abs=0.1)
    assert epochs[0] != epochs[1]
    assert epochs[0] == plan(times).steps(0)


def test_rows_of_a_unit_stay_together():
    units = np.array([0, 0, 1, 1, 2, 2])
    steps = plan([1.5, 1.5, 1.0, 1.0, 0.5, 0.5], batch_size=1, units=units).steps(0)
    assert {tuple(step) for step in steps} <= {(100, 101), (102, 103), (104, 105)}
    assert len(steps) == 3


def test_a_cap_keeps_some_rows_of_each_key():
    keys = np.array([0, 0, 0, 1, 1, 2])
    keep = sampling.capped(keys, 2, seed=0)
    assert Counter(keys[keep].tolist()) == {0: 2, 1: 2, 2: 1}
    assert keep.tolist() == sampling.capped(keys, 2, seed=0).tolist()


def test_shares_are_told_by_group():
    found = sampling.shares_of(["en", "en", "zh"], np.array([0.75, 0.75, 1.5]))
    assert found == {"en": (pytest.approx(2 / 3), 0.5), "zh": (pytest.approx(1 / 3), 0.5)}
