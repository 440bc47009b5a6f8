"""A loss that diverges stops its run; one that only moves does not; resumed, it is judged alike."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.training.divergence import DIVERGENCE_FACTOR, DIVERGENCE_WINDOW, Divergence


def steps_until(losses):
    watch = Divergence()
    return next((n for n, loss in enumerate(losses, 1) if watch.add(loss)), None)


def test_a_loss_that_rises_a_hundredfold_is_stopped_once_the_window_says_so():
    assert (
        steps_until([2.0] * DIVERGENCE_WINDOW + [400.0] * DIVERGENCE_WINDOW)
        == 2 * DIVERGENCE_WINDOW
    )
    assert steps_until([2.0] * DIVERGENCE_WINDOW + [200.0] * 100) is None, (
        "exactly a hundred times is not more"
    )


def test_a_loss_near_zero_may_move_up_to_a_hundred():
    assert steps_until([1e-6] * DIVERGENCE_WINDOW + [99.0] * 100) is None
    assert steps_until([1e-6] * DIVERGENCE_WINDOW + [101.0] * 100) == 2 * DIVERGENCE_WINDOW


@given(st.lists(st.floats(0.0, DIVERGENCE_FACTOR), max_size=100))
def test_no_loss_up_to_a_hundred_is_stopped(losses):
    assert steps_until(losses) is None


@pytest.mark.parametrize("cut", [5, DIVERGENCE_WINDOW, DIVERGENCE_WINDOW + 7])
def test_a_resumed_run_is_stopped_at_the_same_step(cut):
    losses = [1.0] * DIVERGENCE_WINDOW + [float(10 * n) for n in range(60)]
    whole, before, after = steps_until(losses), Divergence(), Divergence()
    assert not any(before.add(loss) for loss in losses[:cut])
    after.load(before.state())
    assert cut + next(n for n, loss in enumerate(losses[cut:], 1) if after.add(loss)) == whole
