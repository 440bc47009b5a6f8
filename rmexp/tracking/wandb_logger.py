"""logger=wandb: Weights & Biases, online or in files of the run directory."""

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge

from rmexp.core.errors import note_fallback
from rmexp.evaluation.metrics import find_metric
from rmexp.tracking.mirror import Mirror, RunLabels, RunResults
from rmexp.tracking.run_directory import RunDirectory, first_line
from rmexp.tracking.run_media import Histogram, HtmlPage, LineChart, Media, TextTable

STEP = "trainer/global_step"
"""The x axis of every metric: the number of updates, under Lightning's name for it."""

PATIENCE_SECONDS = 60, 300
"""Timeouts for starting a run, and for the uploads at its end."""

Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class WandB:
    """logger=wandb.

    Args:
        project: W&B project.
        entity: user or team; None takes the account's default.
        mode: `auto` is online where the user is logged in, offline elsewhere.
        tags: further tags; loss, data and model are always tagged.
        table_rows: comparisons with their texts in the table of each evaluation set, the most
            confidently wrong first; 0 uploads no text and no report.
    """

    project: str
    entity: str | None
    mode: Literal["auto", "online", "offline"]
    tags: Sequence[str]
    table_rows: Annotated[int, Ge(0)]

    def check(self) -> None:
        """Nothing: W&B is installed with rmexp."""

    def start(self, run: RunDirectory, about: RunLabels) -> list[Mirror]:
        """Start a W&B run in the run's directory, offline if the server does not answer.

        There is none where W&B is disabled (WANDB_MODE), or fails to start offline too.
        """
        settings: dict[str, Any] = {
            "name": about.name,
            "dir": run.path,
            "project": self.project,
            "entity": self.entity,
            "group": about.group,
            "job_type": about.job_type,
            "tags": list(dict.fromkeys([*about.labels.values(), *self.tags])),
            "config": {**about.config, "labels": dict(about.labels)},
            "id": run.result.get("wandb", {}).get("id"),  # resumes its W&B run
        }
        first = self._mode()
        modes: list[Mode] = ["online", "offline"] if first == "online" else [first]
        for mode in modes if first != "disabled" else ():
            try:
                experiment = _begin(mode, settings)
                url = experiment.url if mode == "online" else None  # offline, W&B would warn
                facts = {"mode": mode, "id": experiment.id, "url": url}
                run.update(wandb=facts | {"directory": str(Path(experiment.dir).parent)})
                return [WandBMirror(experiment, self.table_rows)]
            except Exception as error:
                instead = "mirrored offline" if mode == "online" else "not mirrored"
                note_fallback(f"W&B does not start ({first_line(error)}): the run is {instead}.")
        return []

    def _mode(self) -> Mode:
        """The configured mode, else WANDB_MODE, else by whether the user is logged in."""
        if self.mode != "auto":
            return self.mode
        wanted = os.environ.get("WANDB_MODE", "")
        if os.environ.get("WANDB_DISABLED", "").lower() in ("true", "1"):
            return "disabled"
        if wanted in ("offline", "disabled", "dryrun"):
            return "disabled" if wanted == "disabled" else "offline"
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb

            if wandb.login(prompt=False, verify=False):
                return "online"
            if wanted == "online":
                note_fallback("WANDB_MODE=online without a login: the run is mirrored offline.")
            return "offline"
        except Exception as error:
            note_fallback(
                f"W&B does not log in ({first_line(error)}): the run is mirrored offline."
            )
            return "offline"


class WandBMirror(Mirror):
    """Logger of a W&B run."""

    dashboard = "W&B"

    def __init__(self, experiment: Any, table_rows: int) -> None:
        super().__init__(table_rows)
        self.run = experiment
        self._defined: set[str] = set()

    @property
    def version(self) -> str:
        """ID of the W&B run."""
        return self.run.id

    def write(self, metrics: Mapping[str, Any]) -> None:
        for name in metrics.keys() - self._defined:
            if (summary := summary_of(name)) is not None:
                self.run.define_metric(name, step_metric=STEP, summary=summary)
            self._defined.add(name)
        self.run.log({**metrics, STEP: self.step})

    def write_results(self, results: RunResults) -> None:
        """One line; `best/val/...` are targets for W&B's sweeps, `numbers` are in the summary."""
        shown = {name: as_wandb(one) for name, one in results.media.items()}
        self.write({**results.best, **shown})
        self.run.summary.update(dict(results.numbers))

    def close(self, exit_code: int) -> str | None:
        wandb = sys.modules["wandb"]
        try:
            wandb.finish(exit_code=exit_code)
        except Exception as error:
            with suppress(Exception):
                wandb.teardown()  # the next job of a sweep needs a new service
            return f"W&B does not close the run ({first_line(error)})."
        return None


def as_wandb(media: Media) -> Any:
    """The W&B object of a histogram, chart, table or page."""
    import wandb

    match media:
        case Histogram(counts_B, edges):
            return wandb.Histogram(np_histogram=(counts_B, edges))
        case LineChart(series, title, x):
            xs, ys = zip(*series.values(), strict=True)
            # Its table stays out of the panels.
            return wandb.plot.line_series(
                xs, ys, list(series), title=title, xname=x, split_table=True
            )
        case TextTable(columns, rows):
            # Mixed types: a column may be text in one row and null in the next.
            return wandb.Table(
                columns=list(columns), data=[list(row) for row in rows], allow_mixed_types=True
            )
        case HtmlPage(file):
            return wandb.Html(str(file), inject=False)


def summary_of(name: str) -> Literal["max", "min"] | None:
    """How W&B summarises the validations of a metric; None: by its last value."""
    metric = find_metric(name) if name.startswith("val/") else None
    return metric.direction if metric is not None and metric.monitor != "no" else None


def _begin(mode: Mode, about: Mapping[str, Any]) -> Any:
    """Start a W&B run; Lightning's own logger passes settings that W&B warns about."""
    import wandb

    begin, end = PATIENCE_SECONDS
    settings = wandb.Settings(
        silent=True,
        console="off",
        init_timeout=begin,
        finish_timeout=end,
        finish_timeout_raises=True,
        # Reading the versions of all installed packages takes longer than a head's training, and
        # the jobs of a sweep would all say the same; environment.json has those that matter.
        x_save_requirements=about["group"] is None,
    )
    resume: Literal["allow"] | None = "allow" if about["id"] and mode == "online" else None
    experiment = wandb.init(**about, mode=mode, resume=resume, settings=settings)
    experiment.define_metric(STEP)
    experiment.define_metric("*", step_metric=STEP)
    return experiment
