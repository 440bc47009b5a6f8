"""The report: what it shows of every kind of run, and that a row's text stays text."""

import math
import re

import numpy as np
import pytest

from rmexp.analysis.report.eval_section import MAX_TEXT_LENGTH, Shown, eval_section, surely_wrong
from rmexp.evaluation.scored_set import ScoredSet
from tests.conftest import result


def toy_set(gaps, tokens=None, subsets=None):
    """A set with one pair a prompt: rewards (gap, 0), and the page's view of it."""
    count = len(gaps)
    rewards = np.stack([np.array(gaps, dtype=np.float32), np.zeros(count, dtype=np.float32)], 1)
    sides = np.arange(2 * count).reshape(-1, 2)
    scored = ScoredSet(
        items_C=np.arange(count),
        subsets_C=np.array(subsets or ["all"] * count, dtype=object),
        prompts_C=np.arange(count),
        weights_C=np.ones(count),
        rows_N=np.repeat(np.arange(count), 2),
        tokens_N=np.array(tokens or [[3, 3]] * count).reshape(-1),
        style_N_S=np.zeros((2 * count, 4), dtype=np.int64),
        ratings_N=np.full(2 * count, np.nan),
        levels_N=np.tile([1, 0], count),
        better_P=sides[:, 0],
        worse_P=sides[:, 1],
        weights_P=np.ones(count),
        tied_Q_2=np.zeros((0, 2), dtype=np.int64),
        rewards_N=rewards.reshape(-1),
    )
    rows = [{"id": f"row-{n}", "texts": [f"ask {n}\nyes", f"ask {n}\nno"]} for n in range(count)]
    return Shown("test", scored, rows, temperature=2.0)


def test_the_surest_errors_come_first_with_what_differs():
    found = list(
        surely_wrong(toy_set([1.0, -1.0, -3.0, 0.0], tokens=[[3, 3], [5, 3], [1, 9], [2, 2]]))
    )
    assert [one["id"] for one in found] == ["row-2", "row-1"], "neither ties nor wins are wrong"
    assert found[0]["sure"] == pytest.approx(1 / (1 + math.exp(-3 / 2)))
    assert found[0]["longer"] == -8
    assert found[0]["prompt"] == "ask 2\n"
    assert found[0]["texts"] == ["yes", "no"]


def test_a_long_text_keeps_its_ends():
    one = toy_set([-1.0])
    one.rows[0]["texts"] = ["a" * MAX_TEXT_LENGTH + "z", "b"]
    (found,) = surely_wrong(one)
    better, worse = found["texts"]
    assert better.startswith("aaa")
    assert "[... 1 characters ...]" in better
    assert better.endswith("az")
    assert worse == "b"


def test_subsets_and_length_gaps_have_a_row_each():
    tokens = [[3 + n % 4, 3] for n in range(80)]
    one = toy_set([(-1.0) ** (n % 4 == 0) for n in range(80)], tokens, ["a", "b"] * 40)
    found = eval_section(one, {"test/accuracy": 0.75})
    assert [(row["name"], row["pairs"], row["value"]) for row in found["subsets"]] == [
        ("a", 40, 0.5),  # of 0, 2, 4, ... half are multiples of four
        ("b", 40, 1.0),
    ]
    assert [plot.name for plot in found["figures"]] == [
        "test-rewards", "test-reliability", "test-length", "test-subsets",
    ]  # fmt: skip
    (axes,) = found["figures"][2].figure.axes
    labels = [label.get_text() for label in axes.get_xticklabels()]
    assert labels == ["0", "+1", "+2", "+3"], "equal gaps share a bin"
    heights = axes.lines[-1].get_ydata()
    assert list(heights) == [0.0, 1.0, 1.0, 1.0]


@pytest.mark.slow
def test_a_run_shows_its_numbers_and_escapes_text(rmexp, write_rows):
    rmexp.reports = True
    rows = [
        {"prompt": f"<script>alert({n})</script>", "chosen": f"yes {n}", "rejected": f"no {n}"}
        for n in range(40)
    ]
    path = write_rows(rows)
    rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={path}", "name='<b>bold</b>'")
    (run,) = rmexp.runs()
    page = (run / "report.html").read_text()
    assert page.count("<script>") == 1, "the page's own"
    assert "&lt;script&gt;alert" in page
    assert "<b>bold" not in page
    found = result(run)
    assert f"{found['metrics']['test/nll']:.4f}" in page
    assert f"Selected: the weights of step {found['best_step']}, by val/accuracy" in page
    assert not re.search(r"(?:src|href)=.https?:", page), "one file, no network"
    pictures = {file.stem for file in (run / "plots").iterdir()}
    assert {"loss-by-step", "accuracy-by-step", "test-rewards", "test-reliability"} <= pictures
    assert page.count("<svg") == len(pictures)


@pytest.mark.slow
def test_an_evaluation_shows_each_set_and_links_to_the_run(rmexp, write_rows):
    rmexp.reports = True
    rows = [
        {"prompt": f"ask {n}", "chosen": f"yes {n}", "rejected": f"no {n}", "id": f"r{n}"}
        for n in range(30)
    ]
    path = write_rows(rows)
    rewards = [
        {"id": f"r{n}", "response": k, "reward": float((n + k) % 3)}
        for n in range(30)
        for k in range(2)
    ]
    scores = write_rows(rewards, "scores.jsonl")
    rmexp("model=tiny", "logger=none", "data=jsonl", f"data.path={path}")
    (trained,) = rmexp.runs()
    several = [
        f"{word}"
        for name in ("ours", "theirs")
        for word in (f"+eval@eval.sets.{name}=judgebench", f"eval.sets.{name}.path={path}")
    ]
    rmexp(
        "task=evaluate", f"checkpoint={trained}", "eval=several", *several,
        f"eval.sets.theirs.scores={scores}", "logger=none", "task.probes=false",
    )  # fmt: skip
    run = rmexp.runs()[-1]
    page = (run / "report.html").read_text()
    assert "<h2>On ours</h2>" in page
    assert "<h2>On theirs</h2>" in page
    assert f">{trained}</a>" in page
    assert f"the rewards of {scores}." in page
    link = re.search(r'href="([^"]+)"', page).group(1)
    assert (run / link).resolve() == (trained / "report.html").resolve()
    metrics = result(run)["metrics"]
    for name in ("ours", "theirs"):
        assert f"{metrics[f'{name}/accuracy']:.4f} [" in page
        assert (run / "plots" / f"{name}-reliability.png").is_file()
    assert "characters, better - worse" in page

    rmexp("task=evaluate", "data=jsonl", f"data.path={path}", f"eval.scores={scores}")
    alone = (rmexp.runs()[-1] / "report.html").read_text()
    assert "<h2>On all</h2>" in alone
    assert "<pre>ask 1</pre>" in alone, "the prompt stands with the texts"
