"""A run that another layout of the code made is refused in one sentence."""

import json

import pytest
import yaml

from rmexp import __version__, load
from rmexp.config.schema import LINEAR_TARGET, register
from rmexp.config.trust import Trust
from rmexp.core.errors import UserError
from rmexp.inference.checkpoint import saved_config

register()
LOSS = {"_target_": "rmexp.losses.Contrastive", "margin": 1.0}


@pytest.fixture
def write_run(tmp_path):
    """Write what a run directory must have to be one; its path."""

    def write(**config):
        run = tmp_path / "run"
        (run / "checkpoints").mkdir(parents=True, exist_ok=True)
        (run / "checkpoints" / "last.ckpt").touch()
        (run / "checkpoints" / "best.ckpt").touch()
        facts = {"status": "failed", "interrupted": True, "task": "train"}
        (run / "result.json").write_text(json.dumps(facts))
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        return run

    return write


def test_a_run_of_this_version_is_read_without_its_version(write_run):
    run = write_run(rmexp_version=__version__, loss=LOSS, seed=3)
    head = {"_target_": LINEAR_TARGET}  # of runs from before head was a group
    assert saved_config(run, Trust()) == {"loss": LOSS, "seed": 3, "head": head}


def test_a_run_of_another_layout_is_refused(write_run):
    run = write_run(loss=LOSS)
    with pytest.raises(UserError) as refused:
        saved_config(run, Trust())
    assert str(refused.value) == (
        f"{run} was made by rmexp before 0.2.0, whose code has another layout than this version's "
        f"({__version__}): use that version, or train again."
    )


GONE = {"_target_": "rmexp.losses.Gone"}


@pytest.mark.parametrize(
    ("config", "commit", "missing", "maker"),
    [
        (
            {"rmexp_version": "0.0.9", "loss": GONE},
            "abc123",
            "loss._target_=rmexp.losses.Gone: rmexp.losses has no Gone.",
            "rmexp 0.0.9",
        ),
        (
            {"rmexp_version": __version__, "loss": GONE},
            "abc123",
            "loss._target_=rmexp.losses.Gone: rmexp.losses has no Gone.",
            f"another state of rmexp {__version__}, commit abc123",
        ),
        (
            {"rmexp_version": __version__, "data": [{"_target_": "rmexp.gone.Gone"}]},
            None,
            "data[0]._target_=rmexp.gone.Gone cannot be imported (No module named 'rmexp.gone').",
            f"another state of rmexp {__version__}",
        ),
    ],
)
def test_a_class_that_this_code_does_not_have_is_named(config, commit, missing, maker, write_run):
    run = write_run(**config)
    (run / "environment.json").write_text(json.dumps({"git_commit": commit}))
    with pytest.raises(UserError) as refused:
        saved_config(run, Trust())
    assert str(refused.value) == (
        f"{run}/config.yaml: {missing} The run was made by {maker}: use that, or train again."
    )


@pytest.mark.parametrize(
    "words", [["task=evaluate", "checkpoint=run"], ["task=export", "checkpoint=run", "out=x"]]
)
def test_tasks_that_need_its_objects_refuse_it(words, write_run, rmexp):
    write_run(loss=LOSS)
    done = rmexp(*words, "logger=none", check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("rmexp: run was made by rmexp before 0.2.0")
    assert "Traceback" not in done.stderr


def test_resume_and_load_refuse_it(write_run, rmexp):
    run = write_run(loss=LOSS)
    done = rmexp("resume=run", check=False)
    assert done.stderr.startswith("rmexp: run was made by rmexp before 0.2.0")
    with pytest.raises(UserError, match="was made by rmexp before"):
        load(run)
