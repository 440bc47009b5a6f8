"""What a sweep says before it starts: the grid, what is done, how long, how much disk."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from rich.table import Table

from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.runner.estimate import MeasuredJob, measure
from rmexp.runner.job import quieten_libraries, relative_path
from rmexp.runner.sweep_plan import THIS_HOST, JobSpec, SweepPlan
from rmexp.tracking.run_directory import first_line


def announce(plan: SweepPlan, cells: Sequence[JobSpec], reporter: Reporter, launcher: str) -> None:
    """Print the grid and what will be done; measure a step of what there is to train.

    Args:
        launcher: the option of hydra/launcher; nothing is measured for jobs of other machines.

    Raises:
        UserError: the disk cannot hold the sweep.
    """
    reporter.say(f"sweep {relative_path(plan.directory)}")
    if swept := levels([cell.overrides for cell in cells]):
        table = Table("swept", "values", box=None, padding=(0, 2, 0, 0))
        for key, values in swept.items():
            table.add_row(key, ", ".join(values))
        reporter.console.print(table)
    reporter.say(*(f"left out: {sentence}" for sentence in plan.left_out))
    states = plan.states()
    open_ = [cell for cell, state in zip(cells, states, strict=False) if state.status != "done"]
    reporter.say(_count(plan, [state.status for state in states]))
    if plan.task != "train" or not open_:
        return
    if launcher not in THIS_HOST:
        reporter.say(
            f"no estimate of time and disk: hydra/launcher={launcher} has its own machines"
        )
        return
    quieten_libraries()
    alone = launcher == "basic" and all(c.config.trainer.strategy == "single" for c in open_)
    try:
        found = measure(open_, reporter)
    except Exception as error:  # the job will meet it again, and record it
        reporter.say(f"no estimate: {first_line(error)}")
        return
    finally:
        torch.cuda.empty_cache()  # other processes may train on that device; without one, nothing
    how = "on this machine, one run after the other" if alone else "of one device's work"
    how = how if plan.cells else f"a run {how}"
    reporter.say(*_lines(found, open_, how))
    _check_disk(found.disk([cell.config for cell in open_]), plan.directory, reporter)


def levels(cells: Sequence[Sequence[str]]) -> Mapping[str, list[str]]:
    """The keys in which cells differ -> their values, in order."""
    found: dict[str, dict[str, None]] = {}
    for words in cells:
        for word in words:
            key, _, value = word.partition("=")
            found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items() if len(values) > 1}


def _count(plan: SweepPlan, states: Sequence[str]) -> str:
    if not plan.cells:
        return f"runs: as many as the sweeper asks for; {states.count('done')} done before"
    words = [f"{states.count('done')} done before" if "done" in states else ""]
    for status in ("interrupted", "dead", "failed", "broken", "running"):
        words.append(f"{states.count(status)} {status}" if status in states else "")
    said = ", ".join(word for word in words if word)
    return f"runs: {len(plan.cells)}" + (f" ({said})" if said else "")


def _lines(found: MeasuredJob, cells: Sequence[JobSpec], how: str) -> list[str]:
    seconds = sum(found.seconds(cell.config) for cell in cells)
    return [
        f"time: about {duration(seconds)} {how} "
        f"({found.step_seconds:.2g} s a step, {found.epoch_steps} steps an epoch)",
        "shared: imports, tokenised rows"
        + (", the states under what trains" if found.kept else ""),
        *([found.kept] if found.kept else []),
    ]


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, with two digits or so."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _check_disk(needed: int, folder: Path, reporter: Reporter) -> None:
    free = shutil.disk_usage(folder).free
    where = relative_path(folder)
    said = f"up to {needed / 2**30:.1f} GiB in {where}, {free / 2**30:.1f} GiB are free"
    if free < needed:
        raise UserError(
            f"The sweep may need {said}: free some, or keep less (trainer.keep, sweep.export)."
        )
    reporter.say(f"disk: {said}")
