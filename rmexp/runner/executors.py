"""Executors run the jobs of a sweep: in this process, or in workers of joblib, Ray or submitit."""

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.core.console import Reporter
from rmexp.core.errors import DiskFull, UserError
from rmexp.runner.job_spec import WorkItem


@dataclass(frozen=True)
class Launcher:
    """An option of hydra/launcher, or of hydra/sweeper.

    Attributes:
        package: that it needs; extra: of rmexp, which installs it.
        on_this_host: its jobs run on this machine.
    """

    package: str
    extra: str
    on_this_host: bool


LAUNCHERS = {
    "basic": Launcher("hydra", "", True),
    "joblib": Launcher("joblib", "joblib", True),
    "ray": Launcher("ray", "ray", False),
    "submitit_local": Launcher("submitit", "slurm", True),
    "submitit_slurm": Launcher("submitit", "slurm", False),
}


def check_installed(group: str, option: str) -> None:
    """Check that what an option of hydra/launcher or hydra/sweeper needs is installed.

    Raises:
        UserError: it is not; the message has the command that installs it.
    """
    one = LAUNCHERS.get(option, Launcher(option, option, True))
    if importlib.util.find_spec(one.package) is None:
        raise UserError(f"{group}={option} is not installed: pip install 'rmexp[{one.extra}]'.")


Executor = Callable[[Sequence[WorkItem]], list[float | None]]
"""Runs all items, and returns the best value of each job's metric; None for failures and groups."""


class InlineExecutor:
    """One after the other, in this process.

    Args:
        reporter: shared by all jobs, so that lines common to all are printed once.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter

    def __call__(self, items: Sequence[WorkItem]) -> list[float | None]:
        """Run all items."""
        from rmexp.runner.job import run_work

        return [run_work(item, self.reporter) for item in items]


class WorkerExecutor:
    """Base of the executors that run jobs in other processes.

    Attributes:
        children: whether these are children of this process, and end with it.

    Args:
        launcher: the option of hydra/launcher.
        settings: `hydra.launcher`, see the option's YAML.
    """

    children = False

    def __init__(self, launcher: str, settings: dict[str, Any]) -> None:
        self.launcher, self.settings = launcher, settings

    def __call__(self, items: Sequence[WorkItem]) -> list[float | None]:
        """Run all items.

        Raises:
            UserError: the engine failed; errors of jobs are recorded in their directories.
            DiskFull: a job could not write.
        """
        from rmexp.runner.sweep_worker import WorkerEnv, run_in_worker
        from rmexp.tracking.run_directory import first_line

        env = WorkerEnv.here(self.children)
        try:
            found = self.submit(run_in_worker, env, items)
        except Exception as error:
            raise UserError(
                f"hydra/launcher={self.launcher}: {first_line(error).rstrip('.')}. Finished jobs "
                "are kept; run the same command again to continue."
            ) from error
        for one in found:
            if isinstance(one, DiskFull):
                raise one
        return found

    def submit(self, run: Callable[..., Any], env: Any, items: Sequence[WorkItem]) -> list[Any]:
        """`run(env, item)` in a worker for each item; the results in their order."""
        raise NotImplementedError


class JoblibExecutor(WorkerExecutor):
    """Processes of this machine, among which joblib divides its threads."""

    children = True

    def submit(self, run: Callable[..., Any], env: Any, items: Sequence[WorkItem]) -> list[Any]:
        """One call per item."""
        from joblib import Parallel, delayed

        calls = (delayed(run)(env, item) for item in items)
        return list(Parallel(backend="loky", **self.settings)(calls))


class SubmititExecutor(WorkerExecutor):
    """Jobs of a SLURM cluster, or local processes that are treated alike."""

    def submit(self, run: Callable[..., Any], env: Any, items: Sequence[WorkItem]) -> list[Any]:
        """One array of jobs; None for a job that submitit gives up."""
        from rmexp.tracking.run_directory import first_line

        executor = self.engine()
        jobs = executor.map_array(Requeueable(run), [env] * len(items), list(items))
        print(f"{len(jobs)} jobs; their output: {executor.folder.parent}", flush=True)
        found: list[Any] = []
        for job in jobs:
            try:
                found.append(job.result())
            except Exception as error:
                print(f"rmexp: submitit gave up job {job.job_id}: {first_line(error)}", flush=True)
                found.append(None)
        return found

    def engine(self) -> Any:
        """submitit's executor with these settings."""
        import submitit

        settings = dict(self.settings)
        cluster = settings.pop("cluster")
        initial = {f"{cluster}_max_num_timeout": settings.pop("max_num_timeout")}
        executor = submitit.AutoExecutor(settings.pop("folder"), cluster=cluster, **initial)
        common = executor._valid_parameters()
        executor.update_parameters(
            **{k if k in common else f"{cluster}_{k}": v for k, v in settings.items()}
        )
        return executor


@dataclass(frozen=True)
class Requeueable:
    """A call that submitit may queue again; the job then resumes from its directory."""

    run: Callable[..., Any]

    def __call__(self, env: Any, item: WorkItem) -> Any:
        """Run it."""
        return self.run(env, item)

    def checkpoint(self, *arguments: Any) -> Any:
        """The same call again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


class RayExecutor(WorkerExecutor):
    """Tasks of a Ray cluster; those that die with their node or process run again elsewhere."""

    def submit(self, run: Callable[..., Any], env: Any, items: Sequence[WorkItem]) -> list[Any]:
        """One task per item; None for a task that Ray gives up."""
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # jobs print similar lines, and all count
        import ray

        from rmexp.tracking.run_directory import first_line

        ray.init(**self.settings["init"])
        try:
            task = ray.remote(**self.settings["remote"])(run)
            left = {task.remote(env, item): n for n, item in enumerate(items)}
            found: list[Any] = [None] * len(items)
            while left:
                (done,), _ = ray.wait(list(left), num_returns=1)
                number = left.pop(done)
                try:
                    found[number] = ray.get(done)
                except ray.exceptions.RayError as error:
                    reason = first_line(getattr(error, "cause", None) or error)
                    print(f"rmexp: Ray gave up a job: {reason}", flush=True)
            return found
        finally:
            ray.shutdown()


def make_executor(launcher: str, settings: dict[str, Any], reporter: Reporter) -> Executor:
    """The executor of an option of hydra/launcher."""
    if launcher == "basic":
        return InlineExecutor(reporter)
    kinds = {"joblib": JoblibExecutor, "ray": RayExecutor}
    return kinds.get(launcher, SubmititExecutor)(launcher, settings)
