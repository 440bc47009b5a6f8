"""A run that another layout of the code made is refused in one sentence."""

import json

import pytest
import yaml

from rmexp import __version__, load
from rmexp.config.schema import register
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
    assert saved_config(run, Trust()) == {"loss": LOSS, "seed": 3}


@pytest.mark.parametrize(
    ("config", "made_by"),
    [
        ({"loss": LOSS}, "before 0.2.0"),
        ({"rmexp_version": "0.3.0", "loss": {"_target_": "rmexp.losses.Gone"}}, "0.3.0"),
        ({"rmexp_version": "0.2.0", "data": [{"_target_": "rmexp.gone.Gone"}]}, "0.2.0"),
    ],
)
def test_a_run_of_another_layout_is_refused(config, made_by, write_run):
    with pytest.raises(UserError) as refused:
        saved_config(write_run(**config), Trust())
    assert f"was made by rmexp {made_by}, whose code has another layout" in str(refused.value)


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
