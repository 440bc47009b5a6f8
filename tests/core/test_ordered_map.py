"""Results come in order, from workers where there are many items, whatever happens to them."""

import os
import signal
import time

import pytest

from rmexp.core.ordered_map import ordered_map

ENVIRONMENT = {"RMEXP_TEST_WORKER": "1"}
KILLER = 10**6


def process_of(item):
    """The item, its process, and a variable of its environment; one item kills a worker."""
    if item == KILLER and "RMEXP_TEST_WORKER" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
    return item, os.getpid(), os.environ.get("RMEXP_TEST_WORKER")


def refuse(item):
    raise ValueError(item)


class Feed:
    """Numbers until a worker has answered, and then `last`."""

    def __init__(self, last):
        self.last, self.answered = last, False

    def __iter__(self):
        number = 0
        while not self.answered:
            yield number
            number += 1
            time.sleep(0.01)
        yield from self.last

    def results(self, alone):
        for result in ordered_map(process_of, self, 2, alone, ENVIRONMENT):
            self.answered |= result[1] != os.getpid()
            yield result


@pytest.mark.slow
def test_workers_take_over_and_keep_the_order():
    found = list(Feed([-3, -2, -1]).results(alone=3))
    items, processes, variables = zip(*found, strict=True)
    assert items == (*range(len(found) - 3), -3, -2, -1)
    assert set(processes[:3]) == {os.getpid()}
    assert os.getpid() not in processes[-3:]
    assert (variables[0], variables[-1]) == (None, "1")


@pytest.mark.slow
def test_what_killed_workers_had_is_done_here():
    found = list(Feed([KILLER, *range(20)]).results(alone=0))
    assert [item for item, _, _ in found[-21:]] == [KILLER, *range(20)]
    assert found[-21][1] == found[-1][1] == os.getpid()


def test_one_worker_or_few_items_stay_in_this_process():
    for workers, items in ((1, 9), (4, 3)):
        found = list(ordered_map(process_of, range(items), workers, 3, ENVIRONMENT))
        assert found == [(n, os.getpid(), None) for n in range(items)]


def test_a_function_that_cannot_be_sent_stays_here_and_is_noted():
    with pytest.warns(UserWarning, match="by one process: workers do not start"):
        found = list(ordered_map(lambda item: item + 1, range(5), 2, 2, ENVIRONMENT))
    assert found == [1, 2, 3, 4, 5]


@pytest.mark.slow
def test_errors_reach_the_caller():
    with pytest.raises(ValueError, match="0"):
        list(ordered_map(refuse, range(5), 2, 0, ENVIRONMENT))
