"""`make soak`: kills and full disks at random moments; resumed, the results of undisturbed runs.

Each test prints its seed; RMEXP_SOAK_SEED repeats one, RMEXP_SOAK_EVENTS sets the events of each.
"""

import contextlib
import csv
import os
import random
import re
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass

import psutil
import pytest

from rmexp.runner.sweep_plan import SWEEP_FILE, read_plan
from rmexp.tracking.run_state import read_state
from tests.conftest import SHORT_DEMO
from tests.helpers.fork_server import ForkServer
from tests.helpers.run_directories import run_table, sweep_table

pytestmark = [pytest.mark.soak, pytest.mark.slow]

EVENTS = int(os.environ.get("RMEXP_SOAK_EVENTS", 20))
RUN = (
    *(
        "model=tiny",
        "logger=none",
        SHORT_DEMO,
        "data.limit=40",
        "trainer.max_epochs=2",
        "optim.lr=1e-3",
    ),
    *("trainer.validations=2", "trainer.checkpoint_every=2", "trainer.precision=32-true"),
)
KINDS = {
    "single": RUN,
    "sweep": ("-m", *RUN, "model.dropout=0.1", "seed=0,1,2"),
    "joblib": ("-m", *RUN, "seed=0,1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
    "ddp": (*RUN, "trainer=ddp", "trainer.devices=2"),
    "heads": ("-m", *RUN, "tune=head", "seed=0,1", "loss=bradley_terry,contrastive"),
}
DISK = 200 * 2**20
NUMBER = re.compile(r"-?\d+\.\d+(?:e[-+]?\d+)?")
COSTS = ("seconds", "per_second", "memory")


@dataclass(frozen=True)
class Undisturbed:
    """A kind's command: its words, what it finds, and the seconds that it takes."""

    words: tuple[str, ...]
    found: object
    seconds: float


@pytest.fixture(scope="module")
def server(forker, tmp_path_factory):
    """Processes with all imports, so that an event meets the command itself."""
    cache = str(tmp_path_factory.mktemp("cache"))
    return ForkServer(forker, {"RMEXP_CACHE": cache, "OMP_NUM_THREADS": "1", "COLUMNS": "200"})


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """The outcome of each kind's command, which is run when it is first asked for."""
    made = {}

    def run(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            start = time.time()
            assert server.run(folder, KINDS[kind]) == 0, said(folder)
            made[kind] = Undisturbed(KINDS[kind], found_in(folder), time.time() - start)
        return made[kind]

    return run


@pytest.fixture
def draw():
    """Random numbers whose seed a failure shows."""
    seed = int(os.environ.get("RMEXP_SOAK_SEED", random.randrange(10**6)))
    print("RMEXP_SOAK_SEED =", seed)
    return random.Random(seed)


def said(folder):
    """What the commands in a folder printed."""
    return "".join((folder / name).read_text() for name in ("out.txt", "err.txt"))


def sweep_of(folder):
    """The sweep's directory, or None."""
    return next((file.parent for file in folder.glob(f"outputs/sweeps/*/{SWEEP_FILE}")), None)


def single_runs(folder):
    return sorted(file.parent for file in folder.glob("outputs/*/*/result.json"))


def found_in(folder):
    """Metrics, rewards and log of each run that is done, and the comparison of a sweep."""
    if (home := sweep_of(folder)) is None:
        done = [run_table(r) for r in single_runs(folder) if read_state(r).status == "done"]
        assert all(one == done[0] for one in done)  # one killed once it was done leaves two
        return done[0]
    with open(home / "comparison.csv") as file:
        rows = [
            {name: value for name, value in row.items() if not any(cost in name for cost in COSTS)}
            for row in csv.DictReader(file)
        ]
    exports = sorted(export.parent.name for export in home.glob("*/export"))
    return sweep_table(home), rows, exports


def assert_same(kind, found, known):
    """Exactly; heads that train together differ in rounding where a kill leaves fewer of them."""
    if kind != "heads":
        assert found == known
        return
    one, other = repr(found), repr(known)
    assert NUMBER.sub("#", one) == NUMBER.sub("#", other)
    numbers = [[float(number) for number in NUMBER.findall(text)] for text in (one, other)]
    assert numbers[0] == pytest.approx(numbers[1], rel=1e-3, abs=1e-6)


def next_words(folder, words):
    """The command that a user types next: that of a sweep again, or `resume=` of a run."""
    if words[0] == "-m":
        return words
    resumable = [run for run in single_runs(folder) if read_state(run).resumable]
    return (f"resume={resumable[-1]}",) if resumable else words


def finished(folder):
    """When the results of finished runs were written."""
    home = sweep_of(folder)
    states = read_plan(home).states() if home else [read_state(run) for run in single_runs(folder)]
    files = [state.path / "result.json" for state in states if state.status == "done"]
    return {file: file.stat().st_mtime_ns for file in files}


def moment(seconds):
    """Whether this number of seconds is over."""
    end = time.monotonic() + seconds
    return lambda: time.monotonic() > end


def limit(known):
    """Seconds after which a command counts as hung."""
    return 300 + 20 * known.seconds


# ----------------------------------------------------------------------- kills
def kill_some(draw):
    """Kill all processes of a command, its main process, or another one of them."""

    def kill(pid):
        main = psutil.Process(pid)
        others = main.children(recursive=True)
        victims = draw.choice([[main, *others], [main], [draw.choice(others or [main])]])
        for one in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)

    return kill


def left_behind(folder, seconds=120):
    """Processes that still work in a folder so long after their command's end."""
    over = moment(seconds)
    while True:
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, FileNotFoundError):
                if process.cwd() == str(folder):
                    found.append(process.cmdline())
        if not found or over():
            return found
        time.sleep(0.5)


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_and_resumed_it_finds_the_same(kind, server, undisturbed, draw, tmp_path):
    known, kills, number, code = undisturbed(kind), 0, 0, 0
    while kills < EVENTS or code:
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        before = finished(folder)
        when = moment(draw.uniform(0.1, known.seconds)) if kills < EVENTS else lambda: False
        words = next_words(folder, known.words)
        code = server.run(folder, words, event=kill_some(draw), when=when, limit=limit(known))
        # A worker that is killed fails its job, and so the command.
        assert code in (0, 1, -signal.SIGKILL), said(folder)
        assert not left_behind(folder)
        assert before.items() <= finished(folder).items(), "a finished run was run again"
        if code:
            assert kills < EVENTS, said(folder)
            kills += 1
        else:
            assert_same(kind, found_in(folder), known.found)
            number += 1


# ------------------------------------------------------------------- full disk
@pytest.fixture
def small_disk(tmp_path):
    """A file system of 200 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk may be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk, left):
    """Take the free space of a disk but for `left` bytes; the file that takes it."""
    file = disk / "filler"
    with open(file, "wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(b"\0" * 2**20):
            pass
    size = file.stat().st_size
    os.truncate(file, max(0, size - left))
    return file


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_fills_at_random_loses_nothing(
    kind, server, undisturbed, draw, small_disk, tmp_path
):
    known, fills, number, code = undisturbed(kind), 0, 0, 0
    environment = {"RMEXP_CACHE": str(small_disk / "cache"), "TMPDIR": str(small_disk)}
    while fills < EVENTS or code:
        folder, output = small_disk / f"work-{number}", tmp_path / f"output-{number}"
        folder.mkdir(exist_ok=True)
        output.mkdir(exist_ok=True)
        before = finished(folder)
        left = int(10 ** draw.uniform(0, 6))
        when = moment(draw.uniform(0, known.seconds)) if fills < EVENTS else lambda: False
        words = next_words(folder, known.words)
        code = server.run(
            folder, words, environment, output=output, limit=limit(known),
            event=lambda _, left=left: fill(small_disk, left), when=when,
        )  # fmt: skip
        (small_disk / "filler").unlink(missing_ok=True)
        assert code in (0, 1), said(output)
        assert before.items() <= finished(folder).items(), "a finished run was run again"
        assert "Traceback" not in said(output), said(output)
        if code:
            assert fills < EVENTS, said(output)
            assert "is full: free some space" in said(output), said(output)
            fills += 1
        else:
            assert_same(kind, found_in(folder), known.found)
            number += 1
            shutil.rmtree(folder)
