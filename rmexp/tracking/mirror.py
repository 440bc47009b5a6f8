"""The base of all loggers: they mirror a run directory, and never fail or stop a run."""

import importlib.util
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from lightning.pytorch.loggers import Logger

from rmexp.core.errors import UserError, note_fallback
from rmexp.tracking.run_directory import RunDirectory, first_line
from rmexp.tracking.run_media import Media, read_run_media


@dataclass(frozen=True)
class RunLabels:
    """What a dashboard knows of a run from its start.

    Attributes:
        name: of the run.
        group: name of its sweep, or None.
        job_type: the task.
        labels: config group -> chosen option, for tags.
        config: the resolved configuration, of plain types.
    """

    name: str
    group: str | None
    job_type: str
    labels: Mapping[str, str]
    config: Mapping[str, Any]


@dataclass(frozen=True)
class RunResults:
    """What a dashboard shows of a finished run, under names that were not logged before.

    Attributes:
        best: val's metrics with the best weights, as `best/val/...`.
        media: see `run_media`.
        numbers: those of result.json, as `run/...`.
    """

    best: Mapping[str, float]
    media: Mapping[str, Media]
    numbers: Mapping[str, float]


class Mirror(Logger):
    """Lightning logger that copies a run to a dashboard.

    The first error is recorded as a fallback and ends the copying: the rest of the run is in its
    directory only.

    Args:
        table_rows: maximum rows of a table; 0: no texts leave the run directory.
    """

    dashboard: ClassVar[str]
    """Its name in messages."""

    def __init__(self, table_rows: int) -> None:
        super().__init__()
        self.table_rows, self.step, self.broken = table_rows, 0, False

    @property
    def name(self) -> str:
        """The dashboard's name."""
        return self.dashboard

    @property
    def version(self) -> str:
        """Empty: the directory identifies the run."""
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Copy a line of `metrics.jsonl`."""
        self.step = int(step or 0)
        self._guard(lambda: self.write(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: the dashboard has the configuration already."""

    def show(self, run: RunDirectory, metrics: Mapping[str, float]) -> list[str]:
        """Copy the results of a finished run, see `RunResults`; `metrics` are all of the run.

        Returns:
            A sentence for each table that was shortened.
        """
        notes: list[str] = []

        def send() -> None:
            media, shortened = read_run_media(
                run.path, run.result.get("evaluated"), self.table_rows
            )
            best = {f"best/{k}": v for k, v in metrics.items() if k.startswith("val/")}
            numbers = {k: v for k, v in run.result.items() if type(v) in (int, float)}
            shown = {f"run/{k}": v for k, v in numbers.items() if k != "pid"}
            self.write_results(RunResults(best, media, shown))
            notes.extend(f"{self.dashboard}: {sentence}" for sentence in shortened)

        self._guard(send)
        return notes

    @abstractmethod
    def write(self, metrics: Mapping[str, float]) -> None:
        """Write metrics at `self.step`; may raise anything."""

    @abstractmethod
    def write_results(self, results: RunResults) -> None:
        """Write what a finished run has; may raise anything."""

    @abstractmethod
    def close(self, exit_code: int) -> str | None:
        """Close the log, failed if `exit_code` is not 0; returns an error message or None."""

    def _guard(self, send: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            send()
        except Exception as error:
            self.broken = True
            note_fallback(
                f"{self.dashboard} takes no more ({first_line(error)}): the rest of the run is in "
                "its directory only."
            )


class ExtraOption:
    """An option of conf/logger whose package is an extra of rmexp; all three have one name."""

    extra: ClassVar[str]

    def check(self) -> None:
        """Check that the package is installed, without importing it.

        Raises:
            UserError: it is not; the message has the command that installs it.
        """
        if importlib.util.find_spec(self.extra) is None:
            raise UserError(
                f"logger={self.extra} is not installed: pip install 'rmexp[{self.extra}]'."
            )


class LoggerOption(Protocol):
    """What an option of conf/logger is."""

    def check(self) -> None:
        """Check that its packages are installed.

        Raises:
            UserError: they are not.
        """

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """Start the log of a run, or continue that of a resumed one; never raises.

        Returns:
            Its loggers; none where it is off, or could not start, which is noted.
        """


@dataclass(frozen=True)
class NoLogger:
    """logger=none: nothing but the run directory."""

    def check(self) -> None:
        """Nothing can be missing."""

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """No logger."""
        return []
