"""A resumed run ends as if undisturbed: dropout, mid-epoch, between epochs, with loader workers.

What SIGKILL leaves is the run directory of that moment: copies of it, elsewhere, are resumed.
Processes are killed in test_kill.py and in `make soak`.
"""

import datetime
import json
import os
import shutil
import warnings

import pytest
import torch

from rmexp.training.callbacks import BestCheckpoint, ResumeCheckpoint
from rmexp.training.random_state import random_state, set_random_state
from tests.conftest import SHORT_DEMO, CommandLine, result

pytestmark = pytest.mark.slow

SETTINGS = (
    "model=tiny",
    "model.dropout=0.2",
    "logger=none",
    SHORT_DEMO,
    "data.limit=60",
    "data.workers=2",
    "trainer.max_epochs=2",
    "trainer.validations=3",
    "trainer.checkpoint_every=1",
    "trainer.keep=resume",
    "optim.lr=1e-3",
    "data.batch_size=6",
)  # 8 steps an epoch; it validates after 5, 11 and 16
MOMENTS = [(1, "step"), (8, "step"), (10, "step"), (11, "validation"), (16, "validation")]

INTERRUPT = """
import os, signal
from rmexp.training.callbacks import ResumeCheckpoint

before = ResumeCheckpoint._save
def save(self, trainer):
    before(self, trainer)
    if trainer.global_step == 6:
        os.kill(os.getpid(), signal.SIGINT)
ResumeCheckpoint._save = save
"""


def weights(run):
    return torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory, cache):
    """The uninterrupted run, and copies of its directory at some moments."""
    rmexp, copies = CommandLine(tmp_path_factory.mktemp("whole"), cache), {}
    before = ResumeCheckpoint._save

    def save(self, trainer):
        before(self, trainer)
        phase = "validation" if trainer.val_check_batch == 1 else "step"
        if (trainer.global_step, phase) in MOMENTS:
            copy = tmp_path_factory.mktemp("copies") / "run"
            shutil.copytree(self.file.parents[1], copy)
            copies[trainer.global_step, phase] = copy

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResumeCheckpoint, "_save", save)
        rmexp(*SETTINGS)
    return rmexp.runs()[0], copies


@pytest.fixture
def whole(recorded):
    """The uninterrupted run."""
    return recorded[0]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: f"{moment[0]}-{moment[1]}")
def test_a_killed_run_goes_on_to_the_same_weights_and_metrics(moment, recorded, rmexp):
    whole, copies = recorded
    run = copies[moment]
    assert result(run)["status"] == "running"
    rmexp(f"resume={run}")
    assert result(run)["status"] == "done"
    assert (run / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(run)[name]), name
    assert result(run)["metrics"] == result(whole)["metrics"]


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, cache, fork_server):
    """The same run in another process, until Ctrl-C after the first validation."""
    rmexp = CommandLine(tmp_path_factory.mktemp("interrupted"), cache)
    assert fork_server.run(rmexp.folder, SETTINGS, first=INTERRUPT) == 130
    return rmexp


def test_an_interrupted_run_says_how_to_go_on(interrupted):
    (run,) = interrupted.runs()
    said = (interrupted.folder / "out.txt").read_text()
    assert f"python -m rmexp resume={run.relative_to(interrupted.folder)}" in said
    assert "Traceback" not in (interrupted.folder / "err.txt").read_text()
    assert (result(run)["status"], result(run)["error"]) == ("failed", "interrupted")


def test_a_run_at_work_is_not_resumed(rmexp, whole, tmp_path):
    shutil.copytree(whole, tmp_path / "run")
    now = datetime.datetime.now(datetime.UTC).isoformat()
    at_work = result(whole) | {"status": "running", "pid": os.getppid(), "heartbeat": now}
    (tmp_path / "run" / "result.json").write_text(json.dumps(at_work))
    done = rmexp("resume=run", check=False)
    assert "that run is already running" in done.stderr


def test_a_moved_run_keeps_its_best_score_and_touches_nothing_elsewhere(tmp_path):
    old, new = (BestCheckpoint(tmp_path / name, "best", monitor="val/accuracy") for name in "ab")
    file = str(tmp_path / "a" / "best.ckpt")
    old.best_model_path = old.kth_best_model_path = file
    old.best_model_score = old.kth_value = torch.tensor(0.9)
    old.best_k_models = {file: torch.tensor(0.9)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        new.load_state_dict(old.state_dict())
    there = str(tmp_path / "b" / "best.ckpt")
    assert (new.best_model_score, new.best_model_path) == (0.9, there)
    assert (new.kth_best_model_path, new.best_k_models) == (there, {there: 0.9})
    assert new.kth_value == 0.9


def test_the_random_state_is_of_the_device_in_use(monkeypatch):
    states, chosen = [torch.tensor([n], dtype=torch.uint8) for n in range(8)], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: states[5])
    monkeypatch.setattr(torch.cuda, "set_rng_state", chosen.append)
    set_random_state(random_state())
    assert [state.tolist() for state in chosen] == [[5]]


def test_the_same_seed_is_the_same_run(whole, interrupted):
    one, two = ((run / "metrics.jsonl").read_text() for run in (*interrupted.runs(), whole))
    assert len(one.splitlines()) > 6
    assert "val/loss" in one
    assert two.startswith(one)


def test_a_done_run_is_not_resumed(whole, rmexp):
    done = rmexp(f"resume={whole}", check=False)
    assert "that run is finished" in done.stderr


def test_resume_takes_nothing_else(whole, rmexp):
    done = rmexp(f"resume={whole}", "optim.lr=1", check=False)
    assert "leave out optim.lr=1" in done.stderr
