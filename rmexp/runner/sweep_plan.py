"""The plan of a sweep: every cell with its number, overrides, directory and fingerprint.

It is made and written before Hydra starts, so that the same command finds the same directory
again, and whoever looks at that knows what it should hold.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import filelock
from omegaconf import DictConfig

from rmexp.config.schema import job_directory, plain_name
from rmexp.core.errors import UserError
from rmexp.runner.fingerprints import config_fingerprint, input_fingerprint, short_hash
from rmexp.tracking.run_state import State, lives, read_state

SWEEP_FILE = "sweep.json"


THIS_HOST = ("basic", "joblib", "submitit_local")
"""Launchers (options of hydra/launcher) whose jobs run on this machine."""


SECONDS_TO_LET_GO = 10.0
"""Workers of a killed sweep may hold its lock for a few seconds."""


@dataclass(frozen=True)
class JobSpec:
    """A cell that was composed and checked.

    config is the job's; choices: group -> option; dirname: its overrides in a word, by Hydra.
    """

    overrides: list[str]
    config: DictConfig
    choices: Mapping[str, str]
    dirname: str


@dataclass(frozen=True)
class Cell:
    """One job of a sweep; `directory` is its name in the sweep's."""

    number: int
    overrides: list[str]
    directory: str
    fingerprint: str


@dataclass(frozen=True)
class SweepPlan:
    """A sweep.

    directory  of the sweep
    command    the words behind `python -m rmexp`
    task       of its jobs
    inputs     fingerprint of data and code
    cells      in order; none where a sweeper of its own kind (Optuna) chooses them as it goes
    left_out   cells that cannot run, each with the reason (sweep.skip_invalid=true)
    """

    directory: Path
    command: list[str]
    task: str
    inputs: str
    cells: list[Cell]
    left_out: list[str] = field(default_factory=list)

    def fingerprint(self, config: DictConfig) -> str:
        """Of a job: its configuration, the data, the code."""
        return short_hash(config_fingerprint(config) + self.inputs)

    def told(self, number: str | int, overrides: Sequence[str]) -> str:
        """What to call a job: its number, and the words in which it differs from others."""
        swept = differing_overrides(overrides, [cell.overrides for cell in self.cells])
        return f"job {number}: {swept or ' '.join(overrides)}"

    def states(self) -> list[State]:
        """How each job stands, in order; of a sweep without planned cells, those that began."""
        if not self.cells:
            begun = (file.parent for file in self.directory.glob("*/result.json"))
            return [read_state(home) for home in sorted(begun, key=_number)]
        return [self.state(cell) for cell in self.cells]

    def state(self, cell: Cell) -> State:
        """How a job stands; what another configuration, data or code left there does not count."""
        found = read_state(self.directory / cell.directory)
        other = found.result.get("fingerprint") != cell.fingerprint
        return State("left", found.path) if found.status == "done" and other else found

    def write(self) -> None:
        """Write `sweep.json`, whole or not at all.

        Raises:
            UserError: the directory holds another sweep.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        file, aside = self.directory / SWEEP_FILE, self.directory / f".{SWEEP_FILE}"
        if file.is_file() and _identity(read_plan(self.directory)) != _identity(self):
            raise UserError(
                f"hydra.sweep.dir={self.directory}: another sweep is in it (other cells, data or "
                "code); name another directory."
            )
        content = asdict(self) | {"directory": str(self.directory)}
        aside.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        os.replace(aside, file)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Be the only one who writes into the directory.

        Raises:
            UserError: another live process does; says which.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        file, owner = filelock.FileLock(self.directory / ".lock"), self.directory / ".owner.json"
        try:
            file.acquire(timeout=SECONDS_TO_LET_GO if _gone(owner) else 0)
        except filelock.Timeout:
            who = json.loads(owner.read_text()) if owner.is_file() else {"pid": "?", "host": "?"}
            raise UserError(
                f"{self.directory}: this sweep is at work already "
                f"(process {who['pid']} on {who['host']})."
            ) from None
        try:
            owner.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
            yield
        finally:
            owner.unlink(missing_ok=True)
            file.release()


def _gone(owner: Path) -> bool:
    """Is the process that took the lock last known to be dead?"""
    try:
        who = json.loads(owner.read_text())
        return not lives(who["pid"], who["host"], owner.stat().st_mtime)
    except (OSError, ValueError):
        return False


def _identity(plan: SweepPlan) -> tuple[str, list[str]]:
    return plan.inputs, [cell.fingerprint for cell in plan.cells]


def _number(home: Path) -> tuple[int, str]:
    first = home.name.split("-")[0]
    return int(first) if first.isdigit() else -1, home.name


def make_plan(
    cells: Sequence[JobSpec],
    command: Sequence[str],
    directory: str | None,
    trials: bool,
    left_out: Sequence[str] = (),
) -> SweepPlan:
    """Number the cells and name the sweep's directory by all that its results depend on.

    Args:
        directory: where the person wants it; None: `outputs/sweeps/NAME-HASH`.
        trials: the cells are only the common part: a sweeper of its own kind makes the jobs.
    """
    first = cells[0]
    inputs = input_fingerprint([cell.config for cell in cells])
    prints = [short_hash(config_fingerprint(cell.config) + inputs) for cell in cells]
    whole = short_hash(" ".join(command if trials else []) + " ".join(prints))
    return SweepPlan(
        directory=Path(directory or f"outputs/sweeps/{label(cells)}-{whole[:8]}"),
        command=list(command),
        task=first.config.task["_target_"].split(".")[-2],
        inputs=inputs,
        left_out=list(left_out),
        cells=[]
        if trials
        else [
            Cell(number, cell.overrides, job_directory(number, cell.dirname), fingerprint)
            for number, (cell, fingerprint) in enumerate(zip(cells, prints, strict=True))
        ],
    )


def differing_overrides(words: Sequence[str], grid: Sequence[Sequence[str]]) -> str:
    """The overrides of a cell that not all cells have."""
    return " ".join(word for word in words if any(word not in other for other in grid))


def label(cells: Sequence[JobSpec]) -> str:
    """What the person calls the sweep, else its file in sweeps/, else its losses and data."""
    first = cells[0]
    given = first.config.name or first.choices.get("sweeps")
    task = first.choices["task"]
    if given is None and task != "train":
        given = task
    if given is None:
        losses, data = ("_".join(dict.fromkeys(c.choices[g] for c in cells)) for g in _LABELS)
        given = f"{losses[:50]}-{data[:30]}"
    return plain_name(str(given))


_LABELS = ("loss", "data")


def read_plan(directory: Path) -> SweepPlan:
    """The plan of a sweep's directory."""
    content = json.loads((directory / SWEEP_FILE).read_text())
    cells = [Cell(**cell) for cell in content.pop("cells")]
    return SweepPlan(**content | {"directory": directory, "cells": cells})
