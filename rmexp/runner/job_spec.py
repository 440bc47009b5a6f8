"""What there is to know of a job before it runs; picklable, for workers and other machines."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from omegaconf import DictConfig

from rmexp.core.console import Reporter


@dataclass(frozen=True)
class JobSpec:
    """A job that was composed and checked.

    Attributes:
        config: its configuration, without Hydra's node; with a checkpoint, that of its run fills in
            what the command line leaves open.
        overrides: what it was composed from.
        choices: group -> option.
        inherited: facts about the checkpoint's run, see `inherit_config`, or about merged ones.
        directory: its run directory; absolute.
        sweep, number, fingerprint: the sweep it belongs to, its number there, and the hash of its
            configuration, data and code; None for a single run.
        differing: the overrides that not all jobs of the sweep have.
        chdir: run in its directory (hydra.job.chdir).
        environment: variables to set while it runs (hydra.job.env_set).
        claimed: the directory belongs to this job already.
    """

    config: DictConfig
    overrides: list[str]
    choices: Mapping[str, str]
    inherited: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    directory: Path = Path()
    sweep: str | None = None
    number: int | None = None
    fingerprint: str | None = None
    differing: Sequence[str] = ()
    chdir: bool = False
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    claimed: bool = False

    @property
    def title(self) -> str:
        """`job 3: loss.margin=1.0 seed=0`."""
        return f"job {self.number}: {' '.join(self.differing or self.overrides)}"


class JobGroup(Protocol):
    """Jobs that run together."""

    def run(self, reporter: Reporter, marked: bool) -> None:
        """Run them; if `marked`, each line with the number of its job."""


WorkItem = JobSpec | JobGroup
"""What an executor runs in one piece."""
