"""Which comparisons share a step: the same whatever the layout, the workers and the epoch."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.batching.collate import BatchLayout, Collate
from rmexp.batching.step_loader import BatchPlan, StepLoader, evaluation_loader
from rmexp.core.errors import UserError
from tests.conftest import result
from tests.helpers.toys import toy_row

TINY = ("model=tiny", "logger=none", "trainer.validations=1")


def plan(units, sizes, batch_size=2, tokens=None, seed=0):
    rows = np.arange(len(units)) + 100
    return BatchPlan(rows, np.array(units), np.array(sizes), batch_size, tokens, seed)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 50)), min_size=1, max_size=60),
    st.integers(1, 7),
    st.one_of(st.none(), st.integers(0, 200)),
    st.integers(0, 3),
)
def test_a_plan_deals_every_row_once_and_never_parts_a_unit(rows, batch_size, extra, epoch):
    units = np.unique([unit for unit, _ in rows], return_inverse=True)[1]
    sizes = np.array([size for _, size in rows])
    biggest = np.bincount(units, weights=sizes).max()
    tokens = None if extra is None else int(biggest) + extra
    made = plan(units, sizes, batch_size, tokens)
    steps = made.steps(epoch)
    assert len(steps) == len(made)
    assert all(steps)
    assert sorted(row for step in steps for row in step) == list(range(100, 100 + len(rows)))
    home = {}
    for number, step in enumerate(steps):
        for row in step:
            assert home.setdefault(units[row - 100], number) == number
    if tokens is None:
        counts = [len({units[row - 100] for row in step}) for step in steps]
        assert counts[:-1] == [batch_size] * (len(counts) - 1)
    else:
        share = sizes.sum() / len(made)
        assert max(sum(sizes[row - 100] for row in step) for step in steps) < share + biggest


def test_epochs_and_seeds_differ_and_repeat():
    rows = list(range(40))
    a = plan(rows, [1] * 40)
    assert a.steps(0) == plan(rows, [1] * 40).steps(0)
    assert a.steps(0) != a.steps(1)
    assert a.steps(0) != plan(rows, [1] * 40, seed=1).steps(0)


class Rows(list):
    """Enough of a data set for the loaders."""

    column_names = ()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("layout", ["tree", "padded"])
def test_neither_layout_nor_workers_change_a_step(workers, layout):
    rows = Rows(toy_row([[n, 1], [n, 2, 3]], row=n) for n in range(10))
    made = BatchPlan(np.arange(10), np.arange(10), np.full(10, 4), 3, None, 0)
    loader = StepLoader(rows, made, Collate(0, 100, BatchLayout(layout)), workers)
    seen = [{item for b in step.batches for item in b.items_N.tolist()} for step in loader]
    assert seen == [set(step) for step in made.steps(0)]


def test_evaluation_keeps_the_rows_of_a_prompt_together():
    """So that a response in many pairs is scored once."""
    rows = Rows(toy_row([[1, n % 3], [1, 9, 8]], row=n) for n in range(7))
    for row in rows:
        row["prompt_key"] = "same"
    indices, prompts = np.arange(7), np.array([0, 0, 0, 0, 0, 1, 1])
    loader = evaluation_loader(
        rows, indices, prompts, np.full(7, 3), Collate(0, 100, BatchLayout("tree")), batch_size=2
    )
    seen = [sorted({i for b in step.batches for i in b.items_N.tolist()}) for step in loader]
    assert seen == [[0, 1, 2, 3, 4], [5, 6]]


def pairs_of_three_prompts(write_rows):
    """Each prompt with every pair of four answers, the better one last in the alphabet."""
    return write_rows(
        {"prompt": f"question {p}", "chosen": f"answer {b} " * p, "rejected": f"answer {a} " * p}
        for p in range(1, 8)
        for b in "bcd"
        for a in "abc"
        if a < b
    )


@pytest.mark.slow
def test_a_run_by_prompt_has_a_step_for_each_prompt(rmexp, write_rows):
    rmexp(
        *TINY, "data=jsonl", f"data.path={pairs_of_three_prompts(write_rows)}",
        "data.group_by_prompt=true", "data.batch_size=1",
    )  # fmt: skip
    assert result(rmexp.runs()[0])["steps"] == 5  # seven prompts: one for val, one for test


@pytest.mark.slow
def test_a_run_by_tokens(rmexp, write_rows):
    words = (*TINY, "data=jsonl", f"data.path={pairs_of_three_prompts(write_rows)}")
    rmexp(*words, "data.tokens_per_batch=1000", "trainer.max_epochs=2")
    steps = result(rmexp.runs()[0])["steps"]
    assert steps % 2 == 0
    assert 2 < steps < 60
    done = rmexp(*words, "data.tokens_per_batch=60", check=False)
    assert done.returncode == 1
    assert "more than data.tokens_per_batch=60: raise it" in done.stderr


def test_a_comparison_above_the_budget_names_itself(tmp_path):
    from tests.helpers.options import from_conf
    from tests.helpers.toys import tiny_tokenizer

    file = tmp_path / "rows.jsonl"
    file.write_text(
        "".join(
            f'{{"id": "r{n}", "prompt": "p{n}", "chosen": "{"x" * n}", "rejected": "y"}}\n'
            for n in range(1, 9)
        )
    )
    data = from_conf(
        "data/jsonl", path=str(file), cache=str(tmp_path), tokens_per_batch=80, val_share=0.2
    )
    data.prepare(tiny_tokenizer(), 0, lambda *_: None)
    limit = int(data.rows["size"][5]) - 1
    data.batching = dataclasses.replace(data.batching, tokens_per_batch=limit)
    with pytest.raises(UserError, match=r"Comparison r\d has \d+ tokens"):
        data.plan()
