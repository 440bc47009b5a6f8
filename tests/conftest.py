"""What all tests share: no network, little noise, a cache of their own, a tiny model."""

import os

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
if os.environ.get("RMEXP_TEST_DEVICE") != "cuda":  # tests marked gpu
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

import atexit
import functools
import gc
import io
import json
import pickle
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import omegaconf
import pytest
from hydra._internal import defaults_list
from hypothesis import HealthCheck, settings
from omegaconf import OmegaConf, grammar_parser

from rmexp.config import grid
from rmexp.config.compose import compose_config
from tests.helpers.fork_server import NO_REPORTS, ForkServer, start_forker

settings.register_profile(
    "default", deadline=None, max_examples=50, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile(
    "soak", deadline=None, max_examples=2000, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

ROOT = Path(__file__).parent.parent
SHARED = ROOT.parent / "shared" / "data"
HH = SHARED / "hh_rlhf_harmless_base_test" / "raw" / "test.jsonl.gz"


SHORT_DEMO = f"data.path={ROOT}/tests/helpers/short_demo.jsonl"
"""Rows of the demo data, with a few characters of each text: a tiny run takes a second."""


SLOW_FILES = (
    *("runner/test_launchers.py", "runner/test_command_line.py", "training/test_devices.py"),
    *("data/test_supervision.py", "runner/test_sweep.py", "training/test_planning.py"),
    *("training/test_heads.py", "tracking/test_wandb.py", "batching/test_trees.py"),
    *("tasks/test_improve.py", "training/test_tune.py", "config/test_config.py"),
    *("inference/test_scoring.py", "tasks/test_evaluate.py", "training/test_resume.py"),
)


@pytest.hookimpl(tryfirst=True)  # before what `-m` leaves out is known
def pytest_collection_modifyitems(items):
    """Put the slow files first, so that no worker ends with one of them alone.

    And `-m "not slow"` takes the place of the -m in pyproject.toml, which leaves out soak and gpu.
    """
    for item in items:
        if any(item.get_closest_marker(name) for name in ("soak", "long", "gpu")):
            item.add_marker("slow")
    places = {file: place for place, file in enumerate(SLOW_FILES)}
    items.sort(key=lambda item: places.get("/".join(item.path.parts[-2:]), len(places)))


gc.disable()  # collecting garbage during imports takes seconds, and at the end
atexit.register(gc.freeze)


FORKER = pytest.StashKey[Connection]()


def pytest_collection_finish(session):
    """What imports left stays: no garbage collection looks through it again."""
    gc.freeze()
    if any("forker" in item.fixturenames for item in session.items):
        session.config.stash[FORKER] = start_forker()
    gc.set_threshold(20_000)
    gc.enable()


def read_once():
    """Hydra reads the same files of conf/, and the same `${...}` in them, for each composition.

    That is half of what a composition costs; what is cached depends on the text alone. And it makes
    a configuration of all choices for each default, for the few that name one (`${loss}`).
    """
    load, parse = OmegaConf.load, grammar_parser.parse

    @functools.lru_cache(500)
    def loaded(text):
        return pickle.dumps(load(io.StringIO(text)))

    def load_once(file):
        text = file.read() if hasattr(file, "read") else Path(file).read_text("utf-8")
        return pickle.loads(loaded(text))

    OmegaConf.load = staticmethod(load_once)
    parsed = functools.lru_cache(500)(parse)
    for module in (grammar_parser, omegaconf.base, omegaconf._utils):
        module.parse = parsed
    known_choices = defaults_list._create_interpolation_map

    def choices_if_named(overrides, defaults, *more):
        named = any(default.is_interpolation() for default in defaults)
        return known_choices(overrides, defaults, *more) if named else None

    defaults_list._create_interpolation_map = choices_if_named


read_once()

NO_GC = SimpleNamespace(**dict.fromkeys(("disable", "enable", "freeze", "unfreeze"), lambda: None))
"""For `main`, which would thaw what is frozen above."""


@functools.cache
def _composed(overrides):
    return pickle.dumps(compose_config(overrides))


def compose_once(overrides, config_dir=None):
    """`compose_config`, which is most of what a refusal costs, once for the same words."""
    if config_dir is not None:
        return compose_config(overrides, config_dir)
    config = pickle.loads(_composed(tuple(overrides)))
    config.hydra.runtime.cwd = os.getcwd()
    return config


@pytest.fixture(scope="session", autouse=True)
def composed_once():
    """All grids and single runs share what their choices compose to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "compose_config", compose_once)
        yield


def needs(path: Path) -> pytest.MarkDecorator:
    """Skip, by name, where a file of ../shared is not there."""
    return pytest.mark.skipif(not path.exists(), reason=f"{path} is not there")


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    """A cache directory of the session's own."""
    return tmp_path_factory.mktemp("cache")


@dataclass
class Outcome:
    """What a command printed, and its exit status."""

    returncode: int
    stdout: str
    stderr: str


MEASURED = SimpleNamespace(step_seconds=0.01, seconds=lambda trainer: 1.0)


class CommandLine:
    """Runs the entry point in a directory of its own: here, or in a process of its own.

    Args:
        reports: write the reports of runs and evaluations, draw plots, and measure a step for the
            expected time: they take more than half of the time of a tiny run.
    """

    def __init__(self, folder: Path, cache: Path, reports: bool = False) -> None:
        self.folder, self.reports = folder, reports
        threads = os.environ.get("OMP_NUM_THREADS", "2")
        self.environment = {"RMEXP_CACHE": str(cache), "OMP_NUM_THREADS": threads, "COLUMNS": "200"}

    def __call__(self, *words: str, check: bool = True) -> Outcome:
        """Call `main()` as the console script does, in this process: the imports are paid once."""
        from rmexp.__main__ import main

        out, err, code = io.StringIO(), io.StringIO(), 0
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", ["rmexp", *words])
            patch.setattr("rmexp.__main__.gc", NO_GC)
            if not self.reports:
                patch.setattr("rmexp.tasks.train.measure_step", lambda *_: MEASURED)
                patch.setattr("rmexp.training.finish.write_run_report", lambda *_: None)
                patch.setattr("rmexp.tasks.evaluate.write_report", lambda *_: None)
                patch.setattr("rmexp.analysis.report.plots.published", lambda *_: [])
                patch.setattr("rmexp.analysis.report.plots._done", lambda axes: axes.get_figure())
            for name, value in self.environment.items():
                patch.setenv(name, value)
            with redirect_stdout(out), redirect_stderr(err):
                try:
                    main()
                except SystemExit as stop:
                    code = int(stop.code or 0)
        done = Outcome(code, out.getvalue(), err.getvalue())
        assert not check or code == 0, done.stdout + done.stderr
        return done

    def process(
        self, *words: str, program: tuple[str, ...] = ("-m", "rmexp"), **more: str
    ) -> Outcome:
        """Run it in a process of its own, as a person would."""
        done = subprocess.run(
            [sys.executable, *program, *words],
            cwd=self.folder,
            env=os.environ | self.environment | {"PYTHONPATH": str(ROOT)} | more,
            capture_output=True,
            text=True,
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def runs(self) -> list[Path]:
        """The run directories made here, oldest first."""
        return sorted(
            (f.parent for f in self.folder.rglob("result.json")), key=lambda d: d.stat().st_ctime
        )


@pytest.fixture(scope="session")
def forker(pytestconfig):
    """The process that was forked before the first test, see `start_forker`."""
    return pytestconfig.stash[FORKER]


@pytest.fixture(scope="session")
def fork_server(forker, cache):
    """Runs commands in processes of their own that have all imports."""
    return ForkServer(forker, CommandLine(Path(), cache).environment, NO_REPORTS)


@pytest.fixture
def rmexp(tmp_path, cache):
    """The command line, in a fresh directory."""
    return CommandLine(tmp_path, cache)


def result(run: Path) -> dict:
    """A run's result.json."""
    return json.loads((run / "result.json").read_text())


@pytest.fixture
def write_rows(tmp_path):
    """Write rows as JSON lines and return the path."""

    def write(rows, name="rows.jsonl"):
        file = tmp_path / name
        file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
        return str(file)

    return write
