"""What the processes of a step tell each other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from rmexp.core import distributed
from rmexp.training.step_terms import GatherTotals, StepTotals

STEPS = [
    ({"pairs": 2.0}, {}),
    ({}, {}),
    ({"pairs": 1.5}, {"pairs": 0.1}),
    ({"pairs": 1.0}, {"ties": 3.0, "pairs": 1e-9}),
    ({"ties": 1.0}, {"pairs": 1.0}),
]


@pytest.fixture
def group(monkeypatch):
    """Two threads that gather as two processes do; counts the pickled gathers."""
    values, barrier, pickled = {}, threading.Barrier(2), []

    def gather(value):
        values[threading.current_thread().name[-1]] = value
        barrier.wait()
        found = [values[name] for name in sorted(values)]
        barrier.wait()
        return found

    def gather_object(value):
        pickled.append(value)
        return gather(value)

    monkeypatch.setattr(distributed, "all_gather_numbers", lambda numbers: gather(list(numbers)))
    monkeypatch.setattr(distributed, "all_gather_object", gather_object)
    return pickled


def test_totals_are_gathered_as_numbers_once_all_terms_are_known(group):
    def process(rank):
        gather = GatherTotals()
        return [gather(StepTotals(step[rank], rank, 2, 3)) for step in STEPS]

    with ThreadPoolExecutor(2, thread_name_prefix="rank") as pool:
        one, other = pool.map(process, range(2))
    assert one == other
    for parts, step in zip(one, STEPS, strict=True):
        first, second = sorted(parts, key=lambda part: part.pairs)
        assert (first.pairs, second.pairs, first.responses, first.batches) == (0, 1, 2, 3)
        found = [{t: w for t, w in part.weights.items() if w} for part in (first, second)]
        assert found == [*step]
    assert len(group) == 2 * 2  # the first step, and the one with a new term


def test_one_process_gathers_from_itself():
    assert distributed.all_gather_numbers([1, 2.5]) == [[1, 2.5]]
    assert (distributed.any_process(True), distributed.any_process(False)) == (True, False)
    totals = StepTotals({"pairs": 1.0}, 1, 2, 1)
    gather = GatherTotals()
    assert [gather(totals), gather(totals)] == [[totals], [totals]]
