"""SIGKILL at any moment, the same command again: the table of a sweep that nobody disturbed.

`make soak` kills more of them, and other kinds of runs.
"""

import functools
import os
import random
import signal
import time

import pytest

from rmexp.runner.sweep_plan import SWEEP_FILE, read_plan
from tests.conftest import SHORT_DEMO
from tests.helpers.run_directories import sweep_table

pytestmark = pytest.mark.slow

KILLS = 3
GRID = (
    *("-m", "model=tiny", "model.dropout=0.1", "logger=none", SHORT_DEMO, "data.limit=30"),
    *("trainer.max_epochs=2", "trainer.validations=2", "trainer.checkpoint_every=2"),
    *("optim.lr=1e-3", "seed=0,1,2"),
)


@pytest.fixture(scope="module")
def run(fork_server, tmp_path_factory):
    """Run a command with a cache of its own: the first sweep tokenises."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return functools.partial(fork_server.run, environment={"RMEXP_CACHE": cache})


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    """The uninterrupted sweep, and how long it took from its plan to its end."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(folder, GRID) == 0, (folder / "err.txt").read_text()
    (home,) = folder.glob("outputs/sweeps/*")
    return home, time.time() - (home / SWEEP_FILE).stat().st_mtime


def finished(home):
    """Result files of the runs that are done, and when they were written."""
    states = read_plan(home).states() if (home / SWEEP_FILE).is_file() else []
    files = (state.path / "result.json" for state in states if state.status == "done")
    return {file: file.stat().st_mtime_ns for file in files}


def kill(pid):
    os.kill(pid, signal.SIGKILL)


def interrupt(pid):
    os.kill(pid, signal.SIGINT)


@pytest.mark.soak
def test_killed_at_random_and_started_again_it_finds_the_same(run, whole, tmp_path):
    reference, seconds = whole
    home = tmp_path / "outputs" / "sweeps" / reference.name
    seed = random.randrange(10**6)
    print("seed", seed)  # pytest shows it where this fails
    draw = random.Random(seed)
    for _ in range(KILLS):
        before = finished(home)
        end = time.time() + draw.uniform(0.2, 0.6 * seconds + 0.2)
        code = run(tmp_path, GRID, event=kill, when=lambda end=end: time.time() > end)
        assert code in (0, -signal.SIGKILL), (tmp_path / "err.txt").read_text()
        assert before.items() <= finished(home).items(), "a finished run was run again"
    before = finished(home)
    assert run(tmp_path, GRID) == 0, (tmp_path / "err.txt").read_text()
    assert before.items() <= finished(home).items()
    assert sweep_table(home) == sweep_table(reference)
    exports = [[run.parent.name for run in one.glob("*/export")] for one in (home, reference)]
    assert exports[0] == exports[1]
    assert len(exports[0]) == 1


def test_ctrl_c_saves_ends_the_sweep_and_says_how_to_go_on(run, whole, tmp_path):
    reference, _ = whole
    home = tmp_path / "outputs" / "sweeps" / reference.name
    second = home / read_plan(reference).cells[1].directory / "metrics.jsonl"
    assert run(tmp_path, GRID, event=interrupt, when=second.exists) == 130
    said = (tmp_path / "out.txt").read_text()
    assert "interrupted; resume with: python -m rmexp -m model=tiny" in said
    assert "Traceback" not in (tmp_path / "err.txt").read_text()
    states = read_plan(home).states()
    assert [state.status for state in states] == ["done", "interrupted", "pending"]
    assert states[1].resumable
    assert run(tmp_path, GRID) == 0, (tmp_path / "err.txt").read_text()
    assert (
        "interrupted before: resumes from its last checkpoint" in (tmp_path / "out.txt").read_text()
    )
    assert sweep_table(home) == sweep_table(reference)
