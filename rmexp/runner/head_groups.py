"""Jobs of a sweep whose heads train together on one frozen model, in one process."""

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rmexp.config.compose import build, locate
from rmexp.config.schema import HEAD_TARGET
from rmexp.core.console import Reporter
from rmexp.core.disk_errors import raise_disk_full
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.runner.job import RemainingWork, attempt_job
from rmexp.runner.job_spec import JobSpec, WorkItem
from rmexp.runner.sweep_plan import job_state
from rmexp.tracking.run_directory import HEARTBEAT_SECONDS, RunDirectory, first_line
from rmexp.tracking.run_state import State, read_state
from rmexp.training.multi_head_runs import HeadRun, fit_heads
from rmexp.training.trainer import requested_processes

MAY_DIFFER = ("loss", "head", "optim", "seed", "name", "logger", "sweep")
"""Groups and keys that may differ between heads that train together."""


@dataclass(frozen=True)
class HeadGroup:
    """Pending jobs of a sweep that train together; launchers run them as one job."""

    members: Sequence[JobSpec]

    def run(self, reporter: Reporter, marked: bool) -> None:
        """Train the heads, and end the jobs one by one; see `JobGroup`."""
        # A launcher may give the group to a second worker, where the first was lost.
        left = [
            job
            for job in self.members
            if job_state(job.directory, job.fingerprint).status != "done"
        ]
        fresh = [job.directory for job in left if not (job.directory / "result.json").exists()]
        with _claimed(fresh):
            for job, work in zip(left, _fit(left, reporter), strict=True):
                reporter.mark = f"{job.number}| " if marked else ""
                reporter.say("", job.title)
                claimed = dataclasses.replace(job, claimed=job.directory in fresh)
                attempt_job(claimed, reporter, work)


def _fit(jobs: Sequence[JobSpec], reporter: Reporter) -> list[RemainingWork | None]:
    """Train the heads; returns the remaining work of each job, None for the whole task.

    If they cannot train together, each job runs alone and reports its own error.
    """
    notes: list[str] = []
    try:
        with collect_fallbacks(notes.append):
            groups = ("model", "template", "data", "tune", "trainer")
            shared = [build(jobs[0].config[group]) for group in groups]
            found = fit_heads([_head_run(job) for job in jobs], reporter, *shared)
    except Exception as error:  # a job that runs alone meets it again, and records it
        failed = f"together with others it failed: {first_line(error)}"
        return [_by_itself(job, f"Its head trains by itself: {failed}") for job in jobs]
    works: list[RemainingWork | None] = []
    for outcome in found:
        if isinstance(outcome, UserError):
            works.append(functools.partial(_refuse, outcome))
        else:
            outcome.notes = [*notes, *outcome.notes]
            works.append(outcome.finish)
    return works or [None for _ in jobs]


@contextmanager
def _claimed(homes: Sequence[Path]) -> Iterator[None]:
    """Claim the directories as running within the block; release those not started (Ctrl-C).

    Raises:
        DiskFull: a directory cannot be written.
    """
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT_SECONDS):
            for home in homes:
                with suppress(OSError):
                    os.utime(home / "result.json")

    try:
        for home in homes:
            with raise_disk_full(home):
                RunDirectory.claim(home)
        threading.Thread(target=beat, daemon=True).start()
        yield
    finally:
        over.set()
        for home in homes:
            if read_state(home).status == "dead" and not (home / "config.yaml").exists():
                (home / "result.json").unlink()


def group_heads(jobs: Iterable[tuple[JobSpec, State]]) -> list[WorkItem]:
    """Pending jobs as work items; those that can train together are one, in place of the first."""
    found: dict[str, list[JobSpec]] = {}
    for job, state in jobs:
        # A resumable job was started alone, and resumes alone.
        key = None if state.resumable else _key(job)
        found.setdefault(key or job.directory.name, []).append(job)
    return [HeadGroup(some) if len(some) > 1 else some[0] for some in found.values()]


def _by_itself(job: JobSpec, reason: str) -> RemainingWork:
    """The task of a job that runs alone; its run records why."""
    train = locate("task", job.config.task["_target_"])

    @functools.wraps(train)  # `run_job` reads its signature
    def alone(**arguments: Any) -> dict[str, float]:
        note_fallback(reason)
        return train(**arguments)

    return alone


def _refuse(error: UserError) -> dict[str, float]:
    raise error


def _key(job: JobSpec) -> str | None:
    """Equal for jobs that can train together; None if the job cannot."""
    config = job.config
    if job.choices["task"] != "train" or config.resume is not None:
        return None
    if config.tune["_target_"] != HEAD_TARGET or not config.tune.cache_gib:
        return None
    if requested_processes(config.trainer) > 1:  # processes share the rows of one run
        return None
    content: Any = OmegaConf.to_container(config, resolve=True)
    return json.dumps({k: v for k, v in content.items() if k not in MAY_DIFFER}, sort_keys=True)


def _head_run(job: JobSpec) -> HeadRun:
    return HeadRun(
        loss=build(job.config.loss),
        head=build(job.config.head),
        optim=build(job.config.optim),
        seed=job.config.seed,
        labels={group: job.choices[group] for group in ("loss", "data", "model")},
        directory=job.directory.name,
    )
