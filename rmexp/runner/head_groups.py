"""Jobs of a sweep whose heads train together on one frozen model, in one process."""

import dataclasses
import functools
import json
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from rmexp.config.compose import build, locate
from rmexp.config.schema import HEAD_TARGET
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.runner.job import RemainingWork, attempt_job
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.outcome import raise_disk_full
from rmexp.runner.sweep_plan import Cell, SweepPlan
from rmexp.tracking.run_directory import HEARTBEAT_SECONDS, RunDirectory, first_line
from rmexp.tracking.run_state import read_state
from rmexp.training.multi_head_runs import HeadRun, finish_head, fit_heads
from rmexp.training.trainer import requested_processes

MAY_DIFFER = ("loss", "optim", "seed", "name", "logger", "sweep")
"""Groups and keys that may differ between heads that train together."""


@dataclass(frozen=True)
class HeadGroup:
    """Jobs of a sweep that train together; launchers run them as one job.

    Attributes:
        members: pending jobs of the sweep, in order.
    """

    plan: SweepPlan
    members: Sequence[tuple[Cell, JobSpec]]

    def run(self, reporter: Reporter, marked: bool) -> None:
        """Train the heads, and end the jobs one by one.

        Args:
            marked: what a job says is marked with its number.
        """
        # A launcher may give the group to a second worker, where the first was lost.
        left = [one for one in self.members if self.plan.state(one[0]).status != "done"]
        fresh = [job.directory for _, job in left if not (job.directory / "result.json").exists()]
        with _claimed(fresh):
            works = _fit(left, reporter)
            for (_, job), work in zip(left, works, strict=True):
                reporter.mark = f"{job.number}| " if marked else ""
                reporter.say("", job.title)
                claimed = dataclasses.replace(job, claimed=job.directory in fresh)
                attempt_job(claimed, reporter, work)


def _fit(members: Sequence[tuple[Cell, JobSpec]], reporter: Reporter) -> list[RemainingWork | None]:
    """Train the heads; returns the rest of each job's task, None for all of it.

    If they cannot train together, each job runs alone and reports its own error.
    """
    notes: list[str] = []
    try:
        with collect_fallbacks(notes.append):
            groups = ("model", "template", "data", "tune", "trainer")
            shared = [build(members[0][1].config[group]) for group in groups]
            found = fit_heads([_head_run(*one) for one in members], reporter, *shared)
    except Exception as error:  # a job that runs alone meets it again, and records it
        failed = f"together with others it failed: {first_line(error)}"
        return [
            _by_itself(composed, f"Its head trains by itself: {failed}") for _, composed in members
        ]
    works: list[RemainingWork | None] = []
    for outcome in found:
        if isinstance(outcome, UserError):
            works.append(functools.partial(_refuse, outcome))
        else:
            outcome.notes = [*notes, *outcome.notes]
            works.append(functools.partial(finish_head, outcome))
    return works or [None for _ in members]


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


def head_groups(plan: SweepPlan, cells: Sequence[JobSpec]) -> dict[str, HeadGroup]:
    """Pending jobs of a sweep that can train together, by the directory of each group's first job.

    Args:
        cells: its jobs, in the plan's order.
    """
    if not plan.cells:  # an adaptive sweeper chooses them later
        return {}
    found: dict[str, list[tuple[Cell, JobSpec]]] = {}
    for cell, composed, state in zip(plan.cells, cells, plan.states(), strict=True):
        # A resumable job was started alone, and resumes alone.
        if state.status != "done" and not state.resumable and (key := _key(composed)) is not None:
            found.setdefault(key, []).append((cell, composed))
    several = (members for members in found.values() if len(members) > 1)
    return {members[0][0].directory: HeadGroup(plan, members) for members in several}


def _by_itself(composed: JobSpec, reason: str) -> RemainingWork:
    """The task of a job that runs alone; its run records why."""
    train = locate("task", composed.config.task["_target_"])

    @functools.wraps(train)  # `run_job` reads its signature
    def alone(**arguments: Any) -> dict[str, float]:
        note_fallback(reason)
        return train(**arguments)

    return alone


def _refuse(error: UserError) -> dict[str, float]:
    raise error


def _key(composed: JobSpec) -> str | None:
    """Equal for jobs that can train together; None if the job cannot."""
    config = composed.config
    if composed.choices["task"] != "train" or config.resume is not None:
        return None
    if config.tune["_target_"] != HEAD_TARGET or not config.tune.cache_gib:
        return None
    if requested_processes(config.trainer) > 1:  # processes share the rows of one run
        return None
    content: Any = OmegaConf.to_container(config, resolve=True)
    return json.dumps({k: v for k, v in content.items() if k not in MAY_DIFFER}, sort_keys=True)


def _head_run(cell: Cell, composed: JobSpec) -> HeadRun:
    config = composed.config
    return HeadRun(
        loss=build(config.loss),
        optim=build(config.optim),
        seed=config.seed,
        labels={group: composed.choices[group] for group in ("loss", "data", "model")},
        directory=cell.directory,
    )
