"""From the command line to checked jobs; nothing is loaded, and nothing is written."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.types import RunMode
from omegaconf import DictConfig

from rmexp.config.grid import Composer, expand_grid, is_sweep, parse_override
from rmexp.config.validate import makes_run
from rmexp.core.errors import UserError
from rmexp.runner.check_job import JobChecker
from rmexp.runner.executors import check_installed
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.optuna_search import Search
from rmexp.runner.sweep_plan import shared_overrides


@dataclass(frozen=True)
class PreflightResult:
    """What a command asks for.

    Attributes:
        composed: the configuration without what is swept, with Hydra's node.
        cells: the jobs of a sweep that can run; of a single run, that one; of a search, one job
            with the overrides that all of its jobs share.
        left_out: the cells that cannot run, and why (sweep.skip_invalid=true).
        search: proposes the jobs of a sweep; None: a grid or a single run.
    """

    composed: DictConfig
    multirun: bool
    cells: list[JobSpec]
    left_out: list[str]
    search: Search | None = None

    @property
    def launcher(self) -> str:
        """The option of hydra/launcher."""
        return str(self.composed.hydra.runtime.choices["hydra/launcher"])


def preflight(overrides: list[str], multirun: bool, config_dir: str | None) -> PreflightResult:
    """Compose and check every job of the command.

    Raises:
        UserError: a job cannot run. Of a sweep, every such job is named.
    """
    compose = Composer(config_dir)
    fixed = [override for override in overrides if not is_sweep(override)]
    composed = compose(fixed)
    choices = composed.hydra.runtime.choices
    launcher, sweeper = choices["hydra/launcher"], choices["hydra/sweeper"]
    if not multirun and composed.hydra.mode != RunMode.MULTIRUN:
        if launcher != "basic":
            raise UserError(f"hydra/launcher={launcher} is for the jobs of a sweep: add -m.")
        single = compose(overrides)
        job = JobChecker(launcher).check(single, overrides)
        home = Path(single.hydra.run.dir).absolute()
        return PreflightResult(single, False, [dataclasses.replace(job, directory=home)], [])
    if any(override.startswith("resume=") for override in overrides):
        raise UserError("resume continues a single run: leave out -m.")
    if sweeper not in ("basic", "optuna"):
        raise UserError(f"hydra/sweeper={sweeper} is not supported: leave it out, or take optuna.")
    check_installed("hydra/launcher", launcher)
    checker = JobChecker(launcher)
    asked = [o for o in overrides if not parse_override(o).is_hydra_override()]
    if sweeper == "optuna":
        check_installed("hydra/sweeper", sweeper)
        search = Search(composed.hydra.sweeper, asked, compose, checker)
        return PreflightResult(composed, True, [_makes_run(search.shared_job())], [], search)
    params = composed.hydra.sweeper.get("params") or {}
    grid = expand_grid([*(f"{key}={value}" for key, value in params.items()), *asked])
    shared = shared_overrides(grid)
    cells, refused = [], list[tuple[str, str]]()
    for cell in grid:
        try:
            cells.append(checker.check(compose(cell), cell, shared))
        except UserError as error:
            name = " ".join(override for override in cell if override not in shared)
            refused.append((str(error), name or " ".join(cell)))
    if refused and not (cells and cells[0].config.sweep.skip_invalid):
        raise UserError(_refusal(refused, len(grid)))
    _makes_run(cells[0])
    left_out = [f"{name}: {reason}" for reason, name in refused]
    return PreflightResult(composed, True, cells, left_out)


def _makes_run(job: JobSpec) -> JobSpec:
    if not makes_run(job.config):
        task = job.config.task.name
        raise UserError(f"task={task} makes no run, so there is nothing to sweep: leave out -m.")
    return job


def _refusal(refused: Sequence[tuple[str, str]], total: int) -> str:
    """Every reason with the cells that it applies to."""
    jobs: dict[str, list[str]] = {}
    for reason, name in refused:
        jobs.setdefault(reason, []).append(name)
    reasons = " ".join(f"{reason} (job {', '.join(names)})" for reason, names in jobs.items())
    advice = "; sweep.skip_invalid=true leaves them out" if len(refused) < total else ""
    return f"{reasons} {len(refused)} of {total} jobs cannot run, so none was started{advice}."
