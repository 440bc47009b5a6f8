"""What a sweep prints before it starts: the grid, what is done already, time and disk space."""

from collections.abc import Mapping, Sequence

import torch
from rich.table import Table

from rmexp.core.console import Reporter, format_duration, relative_path
from rmexp.core.disk_errors import check_free_space
from rmexp.runner.estimate import MeasuredJob, measure
from rmexp.runner.executors import LAUNCHERS
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.outcome import quieten_libraries
from rmexp.runner.sweep_plan import SweepPlan
from rmexp.tracking.run_directory import first_line


def announce(
    plan: SweepPlan,
    cells: Sequence[JobSpec],
    reporter: Reporter,
    launcher: str,
    trials: int | None = None,
) -> None:
    """Print the grid and how many jobs there are; measure a step, and estimate time and disk.

    Args:
        cells: its jobs; of a search, one job that represents all.
        launcher: the option of hydra/launcher; nothing is measured for other machines.
        trials: how many jobs a search proposes.

    Raises:
        DiskFull: the disk cannot hold the sweep.
    """
    reporter.say(f"sweep {relative_path(plan.directory)}")
    if swept := levels([cell.overrides for cell in cells]):
        table = Table("swept", "values", box=None, padding=(0, 2, 0, 0))
        for key, values in swept.items():
            table.add_row(key, ", ".join(values))
        reporter.console.print(table)
    reporter.say(*(f"left out: {sentence}" for sentence in plan.left_out))
    statuses = [state.status for state in plan.states()]
    reporter.say(_count(statuses, trials))
    if trials is None:
        left = [c for c, status in zip(cells, statuses, strict=True) if status != "done"]
    else:
        left = [cells[0]] * (trials - statuses.count("done"))
    if plan.task != "train" or not left:
        return
    if not LAUNCHERS[launcher].on_this_host:
        reporter.say(
            f"no estimate of time and disk: hydra/launcher={launcher} has its own machines"
        )
        return
    quieten_libraries()
    try:
        measured = measure(left, reporter)
    except Exception as error:  # the job will meet it again, and record it
        reporter.say(f"no estimate: {first_line(error)}")
        return
    finally:
        torch.cuda.empty_cache()  # for other processes that train on this device
    alone = launcher == "basic" and all(c.config.trainer.strategy == "single" for c in left)
    how = "on this machine, one run after the other" if alone else "of one device's work"
    reporter.say(*_lines(measured, left, how))
    needed = measured.disk([cell.config for cell in left])
    fix = "keep less with trainer.keep and sweep.export"
    reporter.say(f"disk: {check_free_space(plan.directory, needed, 'the sweep', fix)}")


def levels(cells: Sequence[Sequence[str]]) -> Mapping[str, list[str]]:
    """The keys in which cells differ -> their values, in order."""
    found: dict[str, dict[str, None]] = {}
    for overrides in cells:
        for override in overrides:
            key, _, value = override.partition("=")
            found.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in found.items() if len(values) > 1}


def _count(statuses: Sequence[str], trials: int | None) -> str:
    if trials is not None:
        return f"runs: up to {trials}, proposed by Optuna; {statuses.count('done')} done before"
    parts = [f"{statuses.count('done')} done before"] if "done" in statuses else []
    for status in ("interrupted", "dead", "failed", "broken", "running"):
        if status in statuses:
            parts.append(f"{statuses.count(status)} {status}")
    return f"runs: {len(statuses)}" + (f" ({', '.join(parts)})" if parts else "")


def _lines(measured: MeasuredJob, cells: Sequence[JobSpec], how: str) -> list[str]:
    seconds = sum(measured.seconds(cell.config) for cell in cells)
    shared = "shared: imports, tokenised rows"
    return [
        f"time: about {format_duration(seconds)} {how} "
        f"({measured.step.step_seconds:.2g} s a step, {measured.step.epoch_steps} steps an epoch)",
        shared + (", the frozen layers' activations" if measured.kept else ""),
        *([measured.kept] if measured.kept else []),
    ]
