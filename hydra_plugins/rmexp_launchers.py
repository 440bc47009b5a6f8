"""Launchers of a sweep's jobs in other processes: joblib, Ray and submitit through one frame.

Hydra's own plugins for these engines know nothing of what a worker of ours must do first, or when
its time is up; the one for Ray wants cloudpickle below 3.
"""

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict


class Elsewhere(Launcher):
    """Hands jobs to an engine; workers are made like the process that sweeps (`sweep.workers`).

    Args:
        settings: of the engine, see the option's YAML.
    """

    def __init__(self, **settings: Any) -> None:
        self.settings: Any = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Hydra hands over what it knows, and what of it goes to the workers is wrapped."""
        from rmexp.runner.workers import Loader, WorkerEnv, WorkerTask

        self.config, self.task_function = config, WorkerTask(task_function)
        self.hydra_context = HydraContext(
            config_loader=Loader(hydra_context.config_loader, WorkerEnv.here()),  # type: ignore[arg-type]
            callbacks=hydra_context.callbacks,
        )

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Do all jobs, and wait for them."""
        from rmexp.core.errors import UserError
        from rmexp.runner.workers import check_returns
        from rmexp.tracking.run_directory import first_line

        try:
            returns = self.work(job_overrides, initial_job_idx)
        except Exception as error:  # of the engine: those of jobs are recorded in their directories
            raise UserError(
                f"hydra/launcher={self.config.hydra.runtime.choices['hydra/launcher']}: "
                f"{first_line(error).rstrip('.')}. What is done is kept; the same command goes on."
            ) from error
        check_returns(returns)
        return returns

    def known(self) -> Any:
        """What `_one_job` needs of this process."""
        return self.hydra_context, self.config, self.task_function, Singleton.get_state()

    def work(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """Do all jobs in workers; the first one has the number `first`."""
        raise NotImplementedError


class Joblib(Elsewhere):
    """Several processes of this machine, among which joblib divides its threads."""

    def work(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """A call a job."""
        from joblib import Parallel, delayed

        known, one = self.known(), delayed(_one_job)
        calls = (one(known, list(job), first + n) for n, job in enumerate(jobs))
        returns: list[JobReturn] = Parallel(backend="loky", **self.settings)(calls)
        return returns


class Submitit(Elsewhere):
    """Jobs of a SLURM cluster, or of processes here that are treated as such."""

    def work(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """An array of all jobs; one that submitit gives up leaves its run as it was."""
        from rmexp.tracking.run_directory import first_line

        executor, known, count = self.executor(), self.known(), range(len(jobs))
        begun = executor.map_array(
            Requeued(), [known for _ in count], [*map(list, jobs)], [first + n for n in count]
        )
        print(f"{len(begun)} jobs; what each says: {executor.folder.parent}", flush=True)
        returns = []
        for job in begun:
            try:
                returns.append(job.result())
            except Exception as error:
                print(f"rmexp: submitit gave up job {job.job_id}: {first_line(error)}", flush=True)
                returns.append(_lost())
        return returns

    def executor(self) -> Any:
        """submitit's own, with the option's settings."""
        import submitit

        settings = dict(self.settings)
        cluster = settings.pop("cluster")
        at_first = {f"{cluster}_max_num_timeout": settings.pop("max_num_timeout")}
        executor = submitit.AutoExecutor(settings.pop("folder"), cluster=cluster, **at_first)
        common = executor._valid_parameters()
        executor.update_parameters(
            **{k if k in common else f"{cluster}_{k}": v for k, v in settings.items()}
        )
        return executor


class Requeued:
    """A job that submitit may put into the queue again, where it goes on as its directory says."""

    def __call__(self, known: Any, overrides: list[str], number: int) -> JobReturn:
        """Do the job."""
        return _one_job(known, overrides, number)

    def checkpoint(self, *arguments: Any) -> Any:
        """The same call again."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, *arguments)


class Ray(Elsewhere):
    """Tasks of a Ray cluster. What dies with its node or process is done again on another one."""

    def work(self, jobs: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        """A task a job, in any order; one that Ray gives up leaves its run as dead."""
        os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # jobs say alike things, and all of it counts
        import ray

        from rmexp.tracking.run_directory import first_line

        ray.init(**self.settings["init"])
        try:
            task = ray.remote(**self.settings["remote"])(_one_job)
            known = ray.put(self.known())
            left = {task.remote(known, list(job), first + n): n for n, job in enumerate(jobs)}
            returns = [_lost() for _ in jobs]  # by job, as a sweeper that searches reads them
            while left:
                (done,), _ = ray.wait(list(left), num_returns=1)
                number = left.pop(done)
                try:
                    returns[number] = ray.get(done)
                except ray.exceptions.RayError as error:
                    why = first_line(getattr(error, "cause", None) or error)
                    print(f"rmexp: Ray gave up a job: {why}", flush=True)
            return returns
        finally:
            ray.shutdown()


def _lost() -> JobReturn:
    """What a job without a result gives; its directory says how it stands."""
    return JobReturn(_return_value=None, status=JobStatus.COMPLETED)


def _one_job(known: Any, overrides: list[str], number: int) -> JobReturn:
    """What a worker does; in each engine it is found by its name."""
    context, config, task_function, singletons = known
    setup_globals()
    Singleton.set_state(singletons)
    sweep_config = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(sweep_config):
        sweep_config.hydra.job.id = sweep_config.hydra.job.num = number
    return run_job(
        hydra_context=context,
        task_function=task_function,
        config=sweep_config,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )
