"""A sweep: plan, estimate, run what is left, compare and export."""

import shlex
from collections.abc import Sequence
from typing import Any

from omegaconf import OmegaConf

from rmexp.core.console import Reporter
from rmexp.core.disk_errors import raise_disk_full
from rmexp.core.errors import DiskFull, UserError
from rmexp.runner.announce import announce
from rmexp.runner.executors import Executor, make_executor
from rmexp.runner.finalize import finish_sweep
from rmexp.runner.head_groups import group_heads
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.preflight import PreflightResult
from rmexp.runner.sweep_plan import SweepPlan, make_plan


def run_sweep(checked: PreflightResult, command: Sequence[str]) -> bool:
    """Run the jobs of a sweep that are not done yet.

    Args:
        command: the arguments of `python -m rmexp`.

    Returns:
        Whether all jobs are done.

    Raises:
        UserError: another process runs this sweep, or the disk is full.
    """
    hydra, searches = checked.composed.hydra, checked.search is not None
    plan = make_plan(checked.cells, command, hydra.sweep.dir, searches, checked.left_out)
    hydra.sweep.dir = str(plan.directory)
    settings: Any = OmegaConf.to_container(hydra.launcher, resolve=True)
    reporter = Reporter()
    execute = make_executor(checked.launcher, settings, reporter)
    again = shlex.join(["python", "-m", "rmexp", *command])
    try:
        with raise_disk_full(plan.directory), plan.locked():
            plan.write()
            trials = checked.search.n_trials if checked.search else None
            announce(plan, checked.cells, reporter, checked.launcher, trials)
            if checked.search is None:
                jobs = [plan.place(*one) for one in zip(checked.cells, plan.cells, strict=True)]
                _run_grid(plan, jobs, execute, reporter)
            else:
                jobs, reason = checked.search.run(plan, execute)
                reporter.say(*([reason] if reason else []))
            return finish_sweep(plan, jobs, checked.cells[0].config.sweep.export, reporter)
    except KeyboardInterrupt:
        reporter.say(f"interrupted; resume with: {again}")
        raise
    except DiskFull as error:
        raise UserError(f"{error} Finished jobs are kept; resume with: {again}") from None


def _run_grid(
    plan: SweepPlan, jobs: Sequence[JobSpec], execute: Executor, reporter: Reporter
) -> None:
    """Run the jobs that are not done; heads that train together run as one item."""
    pending = []
    for job, state in zip(jobs, plan.states(), strict=True):
        if state.status == "done":
            reporter.say(f"job {job.number}: done before: reused")
        else:
            pending.append((job, state))
    if pending:
        execute(group_heads(pending))
