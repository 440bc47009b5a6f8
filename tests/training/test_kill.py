"""SIGKILL at any moment, the same command again: the table of a sweep that nobody disturbed."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time

import pyarrow.parquet
import pytest

from rmexp.runner.sweep_plan import SWEEP_FILE, read_plan
from tests.conftest import ROOT, result

KILLS = 20 if os.environ.get("HYPOTHESIS_PROFILE") == "soak" else 3
GRID = (
    *("-m", "model=tiny", "model.dropout=0.1", "logger=none", "data.limit=30"),
    *("trainer.max_epochs=2", "trainer.validations=2", "trainer.checkpoint_every=2"),
    *("optim.lr=1e-3", "seed=0,1,2"),
)

NURSERY = """
import os, sys
import rmexp.runner.sweep  # everything heavy, once for all processes
from rmexp.__main__ import main

sys.argv = ["rmexp", *sys.argv[1:]]
for folder in sys.stdin:
    child = os.fork()
    if not child:
        os.chdir(folder.strip())
        os.setpgid(0, 0)
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        code = 1
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Nursery:
    """Processes that have all imports when they begin, so that a kill meets the sweep itself."""

    def __init__(self, cache):
        self.process = subprocess.Popen(
            [sys.executable, "-c", NURSERY, *GRID],
            env=os.environ | {"PYTHONPATH": str(ROOT), "RMEXP_CACHE": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, folder, signal_=None, when=lambda: True):
        """Start the sweep in a folder, send it the signal when it is time; its exit status."""
        print(folder, file=self.process.stdin, flush=True)
        child = int(self.process.stdout.readline())
        if signal_ is not None:
            while not when():
                time.sleep(0.005)
                if not os.path.exists(f"/proc/{child}"):
                    break
            with contextlib.suppress(ProcessLookupError):  # done before its time
                os.kill(child, signal_)
        return int(self.process.stdout.readline())


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    """A cache of its own: the first sweep tokenises."""
    nursery = Nursery(tmp_path_factory.mktemp("cache"))
    yield nursery
    nursery.process.communicate("")


@pytest.fixture(scope="module")
def whole(nursery, tmp_path_factory):
    """The uninterrupted sweep, and how long it took from its plan to its end."""
    folder = tmp_path_factory.mktemp("whole")
    assert nursery.run(folder) == 0, (folder / "err.txt").read_text()
    (home,) = folder.glob("outputs/sweeps/*")
    return home, time.time() - (home / SWEEP_FILE).stat().st_mtime


def finished(home):
    """Result files of the runs that are done, and when they were written."""
    states = read_plan(home).states() if (home / SWEEP_FILE).is_file() else []
    files = (state.path / "result.json" for state in states if state.status == "done")
    return {file: file.stat().st_mtime_ns for file in files}


def table(home):
    """All that a sweep found."""
    found = {}
    for cell in read_plan(home).cells:
        run = home / cell.directory
        rewards = [
            pyarrow.parquet.read_table(run / "predictions" / f"{name}.parquet").to_pydict()
            for name in ("val", "test")
        ]
        log = (run / "metrics.jsonl").read_text()
        found[cell.directory] = (result(run)["metrics"], rewards, log)
    return found


def test_killed_at_random_and_started_again_it_finds_the_same(nursery, whole, tmp_path):
    reference, seconds = whole
    home = tmp_path / "outputs" / "sweeps" / reference.name
    seed = random.randrange(10**6)
    print("seed", seed)  # pytest shows it where this fails
    draw = random.Random(seed)
    for _ in range(KILLS):
        before = finished(home)
        end = time.time() + draw.uniform(0.2, 0.6 * seconds + 0.2)
        code = nursery.run(tmp_path, signal.SIGKILL, lambda end=end: time.time() > end)
        assert code in (0, -signal.SIGKILL), (tmp_path / "err.txt").read_text()
        assert before.items() <= finished(home).items(), "a finished run was run again"
    before = finished(home)
    assert nursery.run(tmp_path) == 0, (tmp_path / "err.txt").read_text()
    assert before.items() <= finished(home).items()
    assert table(home) == table(reference)
    exports = [[run.parent.name for run in one.glob("*/export")] for one in (home, reference)]
    assert exports[0] == exports[1]
    assert len(exports[0]) == 1


def test_ctrl_c_saves_ends_the_sweep_and_says_how_to_go_on(nursery, whole, tmp_path):
    reference, _ = whole
    home = tmp_path / "outputs" / "sweeps" / reference.name
    second = home / read_plan(reference).cells[1].directory / "metrics.jsonl"
    assert nursery.run(tmp_path, signal.SIGINT, second.exists) == 130
    said = (tmp_path / "out.txt").read_text()
    assert "interrupted; resume with: python -m rmexp -m model=tiny" in said
    assert "Traceback" not in (tmp_path / "err.txt").read_text()
    states = read_plan(home).states()
    assert [state.status for state in states] == ["done", "interrupted", "pending"]
    assert states[1].resumable
    assert nursery.run(tmp_path) == 0, (tmp_path / "err.txt").read_text()
    assert (
        "interrupted before: resumes from its last checkpoint" in (tmp_path / "out.txt").read_text()
    )
    assert table(home) == table(reference)
