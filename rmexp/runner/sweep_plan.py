"""The plan of a sweep: every cell with its number, overrides, directory and fingerprint.

It is written before a job starts, so that the same command finds the same directory again.
"""

import dataclasses
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock

from rmexp.config.grid import directory_label
from rmexp.config.schema import job_directory, plain_name
from rmexp.core.atomic_file import replace_file
from rmexp.core.disk_errors import raise_unwritable
from rmexp.core.errors import UserError
from rmexp.runner.fingerprints import config_fingerprint, input_fingerprint, short_hash
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_state import State, lives, read_state

SWEEP_FILE = "sweep.json"

LOCK_TIMEOUT = 10.0
"""Seconds; workers of a killed sweep may hold its lock a little longer."""


@dataclass(frozen=True)
class Cell:
    """One job of a sweep; `directory` is its name within the sweep's directory."""

    number: int
    overrides: list[str]
    directory: str
    fingerprint: str


@dataclass(frozen=True)
class SweepPlan:
    """A sweep, as `sweep.json` has it.

    Attributes:
        directory: of the sweep.
        command: the arguments of `python -m rmexp`.
        task: of its jobs.
        inputs: fingerprint of data and code.
        cells: in order; none where Optuna proposes the jobs.
        left_out: cells that cannot run, each with the reason (sweep.skip_invalid=true).
    """

    directory: Path
    command: list[str]
    task: str
    inputs: str
    cells: list[Cell]
    left_out: list[str] = field(default_factory=list)

    def place(self, job: JobSpec, cell: Cell) -> JobSpec:
        """A checked job with its place in the sweep."""
        return dataclasses.replace(
            job,
            directory=self.directory.absolute() / cell.directory,
            sweep=self.directory.name,
            number=cell.number,
            fingerprint=cell.fingerprint,
        )

    def states(self) -> list[State]:
        """The state of each job, in order; of a search, of those that have started."""
        if not self.cells:
            started = (file.parent for file in self.directory.glob("*/result.json"))
            return [read_state(home) for home in sorted(started, key=_number)]
        return [job_state(self.directory / one.directory, one.fingerprint) for one in self.cells]

    def write(self) -> None:
        """Write `sweep.json` atomically.

        Raises:
            UserError: the directory holds another sweep.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        file = self.directory / SWEEP_FILE
        if file.is_file() and _identity(read_plan(self.directory)) != _identity(self):
            raise UserError(
                f"hydra.sweep.dir={self.directory}: another sweep is in it (other cells, data or "
                "code); name another directory."
            )
        content = asdict(self) | {"directory": str(self.directory)}
        with replace_file(file) as temporary:
            temporary.write_text(
                json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
            )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only process that writes into the directory.

        Raises:
            UserError: another process does, which the message names.
        """
        file, owner = filelock.FileLock(self.directory / ".lock"), self.directory / ".owner.json"
        try:
            with raise_unwritable(self.directory, "give hydra.sweep.dir=DIRECTORY"):
                self.directory.mkdir(parents=True, exist_ok=True)
                file.acquire(timeout=LOCK_TIMEOUT if _is_dead(owner) else 0)
        except filelock.Timeout:
            who = json.loads(owner.read_bytes()) if owner.is_file() else {"pid": "?", "host": "?"}
            raise UserError(
                f"{self.directory}: this sweep is already running "
                f"(process {who['pid']} on {who['host']})."
            ) from None
        try:
            owner.write_text(
                json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8"
            )
            yield
        finally:
            owner.unlink(missing_ok=True)
            file.release()


def _is_dead(owner: Path) -> bool:
    """Whether the process that took the lock last is known to be dead."""
    try:
        who = json.loads(owner.read_bytes())
        return not lives(who["pid"], who["host"], owner.stat().st_mtime)
    except (OSError, ValueError):
        return False


def _identity(plan: SweepPlan) -> tuple[str, list[str]]:
    return plan.inputs, [cell.fingerprint for cell in plan.cells]


def job_state(home: Path, fingerprint: str | None) -> State:
    """The state of a job; a run of another configuration, data or code does not count."""
    found = read_state(home)
    other = found.result.get("fingerprint") != fingerprint
    return State("pending", home) if found.status == "done" and other else found


def _number(home: Path) -> tuple[int, str]:
    first = home.name.split("-")[0]
    return int(first) if first.isdigit() else -1, home.name


def make_plan(
    jobs: Sequence[JobSpec],
    command: Sequence[str],
    directory: str,
    searches: bool,
    left_out: Sequence[str] = (),
) -> SweepPlan:
    """Number the cells and name the sweep's directory by all that its results depend on.

    Args:
        jobs: the checked cells of the grid; of a search, one with what its jobs share.
        command: the arguments of `python -m rmexp`.
        directory: where the user wants it; empty: `outputs/sweeps/NAME-HASH`.
        searches: Optuna proposes the jobs.
    """
    inputs = input_fingerprint([job.config for job in jobs])
    cells = [make_cell(number, job, inputs) for number, job in enumerate(jobs)]
    prints = " ".join(cell.fingerprint for cell in cells)
    whole = short_hash(" ".join(command if searches else []) + prints)
    return SweepPlan(
        directory=Path(directory or f"outputs/sweeps/{_sweep_name(jobs)}-{whole[:8]}"),
        command=list(command),
        task=jobs[0].config.task.name,
        inputs=inputs,
        cells=[] if searches else cells,
        left_out=list(left_out),
    )


def make_cell(number: int, job: JobSpec, inputs: str) -> Cell:
    """The directory's name and the fingerprint of a job; `inputs`: see `SweepPlan`."""
    name = job_directory(number, directory_label(job.differing))
    fingerprint = short_hash(config_fingerprint(job.config) + inputs)
    return Cell(number, job.overrides, name, fingerprint)


def shared_overrides(grid: Sequence[Sequence[str]]) -> set[str]:
    """The overrides that all cells have; the others tell a cell from the rest."""
    return set.intersection(*map(set, grid))


def _sweep_name(jobs: Sequence[JobSpec]) -> str:
    """The name that the user gave, or that of the file in sweeps/, or the losses and the data."""
    first = jobs[0]
    name = first.config.name or first.choices.get("sweeps")
    if name is None and first.config.task.name != "train":
        name = first.config.task.name
    if name is None:
        loss, data = ("_".join(dict.fromkeys(j.choices[g] for j in jobs)) for g in ("loss", "data"))
        name = f"{loss[:50]}-{data[:30]}"
    return plain_name(str(name))


def headline(state: State) -> str:
    """The main test metric of a job, or the first line of its error."""
    if state.status == "done":
        metrics = state.result["metrics"]
        name = next((n for n in ("test/accuracy", "test/spearman") if n in metrics), None)
        return f"{name} {metrics[name]:.4f}" if name else ""
    return str(state.result.get("error") or "").split("\n", 1)[0]


def read_plan(directory: Path) -> SweepPlan:
    """The plan of a sweep's directory."""
    content = json.loads((directory / SWEEP_FILE).read_bytes())
    cells = [Cell(**cell) for cell in content.pop("cells")]
    return SweepPlan(**content | {"directory": directory, "cells": cells})
