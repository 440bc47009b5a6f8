"""One job: its configuration becomes built objects, a run directory and an outcome."""

import contextlib
import dataclasses
import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.core.utils import env_override
from omegaconf import DictConfig, OmegaConf

from rmexp import __version__
from rmexp.config.compose import build, locate
from rmexp.config.schema import HEAD_TARGET
from rmexp.config.secrets import without_secrets, words_without_secrets
from rmexp.config.task_inputs import build_inputs
from rmexp.config.trust import Trust
from rmexp.config.validate import ENSEMBLE_KEYS, is_implicit, logs_metrics, makes_run
from rmexp.core import distributed
from rmexp.core.console import Reporter, relative_path
from rmexp.core.disk_errors import raise_disk_full
from rmexp.core.errors import collect_fallbacks, note_fallback
from rmexp.core.streams import print_error
from rmexp.runner.closing_table import print_closing
from rmexp.runner.job_spec import JobSpec, WorkItem
from rmexp.runner.launch import launch_processes
from rmexp.runner.outcome import (
    describe_failure,
    library_warnings,
    quieten_libraries,
    record_outcome,
)
from rmexp.runner.settle import decide_resume, settle_config
from rmexp.tracking.mirror import Mirror, RunLabels
from rmexp.tracking.run_directory import RunDirectory
from rmexp.tracking.run_state import read_state
from rmexp.training.trainer import requested_processes

RemainingWork = Callable[..., dict[str, float]]
"""What is left of a task; called, like a task, with what its signature names."""


def run_work(item: WorkItem, reporter: Reporter, marked: bool = False) -> float | None:
    """Run a job of a sweep, or a group.

    Args:
        marked: lines are marked with the job's number, as other jobs print at the same time.

    Returns:
        The best value of the metric that selects weights; None for failures and groups.
    """
    if not isinstance(item, JobSpec):
        item.run(reporter, marked)
        return None
    reporter.say("", item.title)
    attempt_job(item, reporter)
    state = read_state(item.directory)
    return state.result.get("best_score") if state.status == "done" else None


def attempt_job(job: JobSpec, reporter: Reporter, work: RemainingWork | None = None) -> bool:
    """Run a job, or resume it in a sweep; print its error, so that it does not stop a sweep.

    Args:
        work: see `run_job`.

    Returns:
        Whether it is done.

    Raises:
        DiskFull: nothing more can be written.
    """
    try:
        with raise_disk_full(job.directory), _surroundings(job):
            left = job if job.sweep is None or job.claimed else decide_resume(job, reporter)
            if left is not None:
                run_job(left, reporter, work)
    except Exception as error:
        print_error(f"{reporter.mark}rmexp: {describe_failure(error)}")
        return False
    return True


@contextmanager
def _surroundings(job: JobSpec) -> Iterator[None]:
    """Set the environment variables and the working directory that the job asks for."""
    with env_override(dict(job.environment)), contextlib.ExitStack() as stack:
        if job.chdir:
            job.directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(contextlib.chdir(job.directory))
        yield


def run_job(
    job: JobSpec, reporter: Reporter, work: RemainingWork | None = None
) -> dict[str, float]:
    """Build what the task's signature names, run it, and record the outcome.

    A run on several devices is started here, in its own processes; if a launcher such as torchrun
    started this process, it joins them.

    Args:
        work: the remaining part of the task, if the rest ran together with other jobs.

    Returns:
        The metrics.

    Raises:
        DiskFull: nothing more can be written.
        Exception: of the task, after it was recorded in `result.json` and `error.txt`.
    """
    quieten_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not makes_run(job.config):
        facts = {name: job.config[name] for name in ("runs", "source", "out")}
        return _call(job.config, facts | {"reporter": reporter})
    config, facts = settle_config(job)
    if facts["task"] == "train" and (count := requested_processes(config.trainer)) > 1:
        if distributed.launcher_env() is None:
            run = _open(job, config)
            claimed = dataclasses.replace(job, directory=run.path, claimed=True)
            launch_processes(claimed, run.path, count, reporter.mark)
            return {}
        distributed.init_process_group(gpu=build(config.trainer).resolved_accelerator() == "gpu")
    run = _open(job, config)
    if not distributed.is_rank_zero():
        reporter = Reporter(quiet=True)
    fallbacks: list[str] = []

    def record(sentence: str) -> None:
        fallbacks.append(sentence)
        run.update(fallbacks=fallbacks)
        reporter.say(f"note: {sentence}")

    settings: Any = OmegaConf.to_container(config, resolve=True)
    content = without_secrets(settings)
    known = {key: facts[key] for key in ("task", "name", "labels", "sweep", "fingerprint")}
    run.start(
        {"rmexp_version": __version__} | content,
        words_without_secrets(job.overrides),
        **known,
        fallbacks=fallbacks,
        interrupted=False,
    )
    mirrors: list[Mirror] = []
    exit_code = 1
    try:
        words = [f"resume={relative_path(run.path)}", *Trust.of(config).words()]
        again = shlex.join(["python", "-m", "rmexp", *words]) if job.sweep is None else None
        with record_outcome(run, reporter, again):
            with collect_fallbacks(record), library_warnings(run.notes):
                heads = facts["sweep"] and config.tune["_target_"] == HEAD_TARGET
                if heads and distributed.world_size() > 1:
                    note_fallback("On several devices the heads of a sweep train one by one.")
                if logs_metrics(config) and distributed.is_rank_zero():
                    name, task = facts["name"], facts["task"]
                    about = RunLabels(name, facts["sweep"], task, facts["labels"], content)
                    mirrors = build(config.logger).start(run, about)
                offered = facts | {
                    "run": run,
                    "reporter": reporter,
                    "loggers": mirrors,
                    "seed": config.seed,
                    "resume": config.resume,
                    "out": config.out,
                    "hub": job.config.hub,
                    "source": job.config.source,
                    "runs": job.config.runs,
                    **_ensemble(job.config),
                    "policy": config.policy,
                    "implicit": build(config.model) if is_implicit(config) else None,
                    "cache": config.cache,
                    "trust": Trust.of(config),
                    "exports": facts["sweep"] is None or config.sweep.export == "all",
                }
                metrics = _call(config, offered, work)
                for mirror in mirrors:
                    reporter.say(*mirror.show(run, metrics))
            run.finish("done", metrics=metrics)
        exit_code = 0
    finally:
        for message in [mirror.close(exit_code) for mirror in mirrors]:
            with contextlib.suppress(OSError):  # a full disk: the error that was raised counts
                if message:
                    record(message)
    print_closing(run, metrics, reporter, brief=job.sweep is not None)
    return metrics


def _ensemble(config: DictConfig) -> dict[str, Any]:
    content: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, list(ENSEMBLE_KEYS)))
    return dict(content)


def _call(
    config: DictConfig, offered: Mapping[str, Any], work: RemainingWork | None = None
) -> dict[str, float]:
    """Call the task with the built groups and facts that its signature names."""
    task = work or locate("task", config.task["_target_"])

    def resolve(name: str) -> Any:
        if name in config.task and name != "name":  # its own key counts: task.runs
            return config.task[name]
        if name in offered:
            return offered[name]
        return build(config[name])

    return task(**build_inputs(task, config.checkpoint is not None, resolve))


def _open(job: JobSpec, config: DictConfig) -> RunDirectory:
    """The run's directory; a process that does not write gets the path from rank 0."""
    if not distributed.is_rank_zero():
        return RunDirectory(distributed.broadcast_from_rank0(None), writes=False)
    if config.resume is not None:
        run = RunDirectory.reopen(Path(config.resume))
    else:
        run = RunDirectory(job.directory) if job.claimed else RunDirectory.claim(job.directory)
    distributed.broadcast_from_rank0(run.path)
    return run
