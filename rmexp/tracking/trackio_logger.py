"""logger=trackio: a local database in RUN/trackio, with W&B's interface."""

import contextlib
import io
import os
import sqlite3
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Ge

from rmexp.tracking.mirror import ExtraOption, Mirror, RunLabels, RunResults
from rmexp.tracking.run_directory import RunDirectory, first_line
from rmexp.tracking.run_media import Histogram, HtmlPage, LineChart, Media, TextTable

DATABASE = "trackio"
"""In the run directory; the runs of a sweep share that in the sweep's."""

REMOTE = ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL", "TRACKIO_BUCKET_ID", "TRACKIO_DATASET_ID")
"""Variables that would send a run to a server; here all is local."""


@dataclass(frozen=True)
class Trackio(ExtraOption):
    """logger=trackio.

    Args:
        project: Trackio project, the name of the database.
        table_rows: comparisons with their texts in the table of each evaluation set, the most
            confidently wrong first; 0 writes no text and no report.
    """

    project: str
    table_rows: Annotated[int, Ge(0)]
    extra: ClassVar[str] = "trackio"

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """The logger of a run; its first line opens the database."""
        return [TrackioMirror(run, about, self.project, self.table_rows)]


class TrackioMirror(Mirror):
    """Logger of a run in a local Trackio database, which a resumed run continues.

    Trackio stores in its own thread, and only warns of what it cannot store.
    """

    dashboard = "Trackio"

    def __init__(self, run: RunDirectory, about: RunLabels, project: str, table_rows: int) -> None:
        super().__init__(table_rows)
        self.run, self.about, self.project = run, about, project
        self._tracked: Any = None
        self._expected = 0

    def write(self, metrics: Mapping[str, Any]) -> None:
        tracked = self._opened()
        tracked.log(dict(metrics), step=self.step)
        self._expected += 1

    def write_results(self, results: RunResults) -> None:
        """One line at the last step."""
        shown = {name: as_trackio(one) for name, one in results.media.items()}
        self.write({**results.best, **results.numbers, **shown})

    def close(self, exit_code: int) -> str | None:
        if self._tracked is None:
            return None
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                self._tracked.finish()
            from trackio import context_vars

            context_vars.current_run.set(None)  # finished: not again by the next run
            # On a network file system Trackio writes files that its dashboard reads in later.
            missing = self._expected - self._count() if self._file().is_file() else 0
        except Exception as error:
            return f"Trackio does not close the run ({first_line(error)})."
        return f"Trackio has lost {missing} lines of the run." if missing > 0 else None

    def _opened(self) -> Any:
        """Trackio's run; that of a resumed run without the lines after its checkpoint."""
        if self._tracked is not None:
            return self._tracked
        known = self.run.result.get("trackio")
        shared = self.run.path.parent if self.about.group else self.run.path
        home = Path(os.environ.get("TRACKIO_DIR") or shared / DATABASE).expanduser().absolute()
        with _local(home):
            import trackio

            name, group = self.run.path.name, self.about.group
            if known is None and group and self._file().is_file():
                for other in trackio.Api().runs(self.project):
                    if other.name == name and (other.config or {}).get("_Group") == group:
                        other.delete()  # the same job, which restarts
            self._tracked = trackio.init(
                self.project,
                name,
                group,
                config={**self.about.config, "labels": dict(self.about.labels)},
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )
        if known is not None:
            self._tracked.id = known["id"]
        self.run.update(trackio={"id": self._tracked.id, "directory": str(home)})
        if self.run.resumed_step is not None:
            self._execute(
                "DELETE FROM metrics WHERE run_id = ? AND step > ?", self.run.resumed_step
            )
        self._expected = self._count()
        return self._tracked

    def _count(self) -> int:
        """Lines of the run in the database."""
        return self._execute("SELECT count(*) FROM metrics WHERE run_id = ?")

    def _execute(self, statement: str, *values: int) -> int:
        """Execute a statement on the run's lines; 0 where there is no database yet."""
        if not self._file().is_file():
            return 0
        with contextlib.closing(sqlite3.connect(self._file(), timeout=30)) as database, database:
            row = database.execute(statement, (self._tracked.id, *values)).fetchone()
        return row[0] if row else 0

    def _file(self) -> Path:
        """The project's database."""
        from trackio.sqlite_storage import SQLiteStorage

        return SQLiteStorage.get_project_db_path(self.project)


def as_trackio(media: Media) -> Any:
    """The Trackio object of a histogram, chart, table or page."""
    import trackio

    match media:
        case Histogram(counts_B, edges):
            return trackio.Histogram(np_histogram=(counts_B, edges))
        case LineChart():
            return trackio.Image(media.image(), caption=media.title)
        case TextTable(columns, rows):
            return trackio.Table(columns=list(columns), data=[list(row) for row in rows])
        case HtmlPage(file):
            return trackio.Html(file, inject=False)


@contextmanager
def _local(home: Path) -> Iterator[None]:
    """Start Trackio runs in a directory, without a word, a server or a request.

    Trackio reads its directory once, when it is imported, and each of its modules keeps a copy; it
    asks the hub for the user's name if there is a token.
    """
    import huggingface_hub
    import trackio

    folders = {
        "TRACKIO_DIR": home,
        "MEDIA_DIR": home / "media",
        "ARTIFACTS_DIR": home / "artifacts",
    }
    for name, module in list(sys.modules.items()):
        if name == trackio.__name__ or name.startswith(f"{trackio.__name__}."):
            for constant in folders.keys() & vars(module).keys():
                setattr(module, constant, folders[constant])
    offline = huggingface_hub.constants.HF_HUB_OFFLINE
    remote = {name: os.environ.pop(name) for name in REMOTE if name in os.environ}
    huggingface_hub.constants.HF_HUB_OFFLINE = True
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        huggingface_hub.constants.HF_HUB_OFFLINE = offline
        os.environ |= remote
