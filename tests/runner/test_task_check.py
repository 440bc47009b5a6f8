"""A task brings its own check and completion, which the check of a job finds beside it."""

import sys
from types import ModuleType

import pytest
from omegaconf import OmegaConf

from rmexp.config.grid import Composer
from rmexp.config.schema import register
from rmexp.core.errors import UserError
from rmexp.runner.check_job import JobChecker

register()


@pytest.fixture
def task(monkeypatch, tmp_path):
    """A module with a task, and its YAML in a directory of the user's own."""
    (tmp_path / "task").mkdir()
    (tmp_path / "task" / "greet.yaml").write_text("name: greet\n_target_: my_tasks.greet\n")
    module = ModuleType("my_tasks")

    def greet(reporter: object) -> dict[str, float]:
        return {}

    module.greet = greet
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    return module


@pytest.fixture
def checked(task, tmp_path):
    """Check a job of the task."""
    words = ["task=greet"]
    return lambda: JobChecker("basic").check(Composer(str(tmp_path))(words), words)


def test_a_task_without_a_check_is_accepted(checked):
    assert checked().config.seed == 0


def test_the_check_beside_a_task_refuses(task, checked):
    def check_greet(config):
        raise UserError(f"no greeting for seed={config.seed}")

    task.check_greet = check_greet
    with pytest.raises(UserError, match="no greeting for seed=0"):
        checked()


def test_a_task_completes_the_configuration_that_was_checked(task, checked):
    def complete_greet(config, overrides):
        return OmegaConf.merge(config, {"seed": len(overrides)}), {"labels": {"loss": "given"}}

    seen = []
    task.complete_greet, task.check_greet = complete_greet, lambda config: seen.append(config.seed)
    job = checked()
    assert (job.config.seed, job.inherited, seen) == (1, {"labels": {"loss": "given"}}, [0])
