"""logger=wandb: mirror the run directory to Weights & Biases, without ever failing a run.

The first W&B error is recorded as a fallback, and the run continues without the mirror.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge
from lightning.pytorch.loggers import Logger

from rmexp.core.errors import note_fallback
from rmexp.evaluation.metrics import find_metric
from rmexp.tracking.run_directory import RunDirectory, first_line
from rmexp.tracking.wandb_media import log_run_media

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

    def start(
        self,
        run: RunDirectory,
        name: str,
        group: str | None,
        job_type: str,
        labels: Mapping[str, str],
        config: Mapping[str, Any],
    ) -> "Mirror | None":
        """Start a W&B run in the run's directory, offline if the server does not answer.

        Args:
            run: the run directory.
            name, group, job_type: of the W&B run.
            labels: group -> chosen option; logged as tags and as `labels` in W&B's config.
            config: the resolved configuration, of plain types.

        Returns:
            The logger; None where W&B is disabled (WANDB_MODE) or fails to start offline too.
        """
        about: dict[str, Any] = {
            "name": name,
            "dir": run.path,
            "project": self.project,
            "entity": self.entity,
            "group": group,
            "job_type": job_type,
            "tags": list(dict.fromkeys([*labels.values(), *self.tags])),
            "config": {**config, "labels": dict(labels)},
            "id": run.result.get("wandb", {}).get("id"),  # resumes its W&B run
        }
        first = self._mode()
        modes: list[Mode] = ["online", "offline"] if first == "online" else [first]
        for mode in modes if first != "disabled" else ():
            try:
                experiment = _begin(mode, about)
                url = experiment.url if mode == "online" else None  # offline, W&B would warn
                facts = {"mode": mode, "id": experiment.id, "url": url}
                run.update(wandb=facts | {"directory": str(Path(experiment.dir).parent)})
                return Mirror(experiment, self.table_rows)
            except Exception as error:
                instead = "mirrored offline" if mode == "online" else "not mirrored"
                note_fallback(f"W&B does not start ({first_line(error)}): the run is {instead}.")
        return None

    def finish(self, exit_code: int) -> str | None:
        """Close the W&B run, failed if `exit_code` is not 0; returns an error message or None."""
        wandb = sys.modules.get("wandb")
        if wandb is None or wandb.run is None:
            return None
        try:
            wandb.finish(exit_code=exit_code)
        except Exception as error:
            with suppress(Exception):
                wandb.teardown()  # the next job of a sweep needs a new service
            return f"W&B does not close the run ({first_line(error)})."
        return None

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


class Mirror(Logger):
    """Lightning logger of a W&B run; the first error ends the mirroring, never the run."""

    def __init__(self, experiment: Any, table_rows: int) -> None:
        super().__init__()
        self.run, self.table_rows = experiment, table_rows
        self.step, self.broken = 0, False
        self._defined: set[str] = set()

    @property
    def name(self) -> str:
        """The logger's name."""
        return "wandb"

    @property
    def version(self) -> str:
        """ID of the W&B run."""
        return self.run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log a line of `metrics.jsonl`."""
        self.step = int(step or 0)
        self._guard(lambda: self._log(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing: W&B has the configuration since the start."""

    def show(self, run: RunDirectory, metrics: Mapping[str, float]) -> list[str]:
        """Upload the results of a finished run, see `wandb_media`.

        `best/val/...` are val's metrics with the best weights, as a target for W&B sweeps (the
        summary of `val/...` covers all validations); `run/...` are the numbers of result.json.

        Returns:
            A sentence for each table that was shortened.
        """
        notes: list[str] = []

        def send() -> None:
            media, shortened = log_run_media(run.path, run.result.get("evaluated"), self.table_rows)
            best = {f"best/{k}": v for k, v in metrics.items() if k.startswith("val/")}
            self._log({**best, **media})
            numbers = {k: v for k, v in run.result.items() if type(v) in (int, float)}
            self.run.summary.update({f"run/{k}": v for k, v in numbers.items() if k != "pid"})
            notes.extend(shortened)

        self._guard(send)
        return notes

    def _log(self, values: Mapping[str, Any]) -> None:
        for name in values.keys() - self._defined:
            if (summary := summary_of(name)) is not None:
                self.run.define_metric(name, step_metric=STEP, summary=summary)
            self._defined.add(name)
        self.run.log({**values, STEP: self.step})

    def _guard(self, send: Callable[[], None]) -> None:
        if self.broken:
            return
        try:
            send()
        except Exception as error:
            self.broken = True
            note_fallback(
                f"W&B takes no more ({first_line(error)}): the rest of the run is in its "
                "directory only."
            )


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
    )
    resume: Literal["allow"] | None = "allow" if about["id"] and mode == "online" else None
    experiment = wandb.init(**about, mode=mode, resume=resume, settings=settings)
    experiment.define_metric(STEP)
    experiment.define_metric("*", step_metric=STEP)
    return experiment
