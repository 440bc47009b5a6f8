"""logger=wandb: Weights & Biases mirrors the run directory, and can never hurt a run.

What fails there is said once and recorded as a fallback; the run goes on without the mirror.
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
"""The x axis of every metric: updates made, under the name that Lightning gives it in W&B."""


PATIENCE_SECONDS = 60, 300
"""How long the server may take to begin a run, and to take in what is left at its end."""


Mode = Literal["online", "offline", "disabled"]


@dataclass(frozen=True)
class WandB:
    """logger=wandb.

    Args:
        project: W&B project.
        entity: user or team; None takes the account's default.
        mode: `auto` is online where the person is logged in and offline elsewhere.
        tags: further tags; loss, data and model are always there.
        table_rows: comparisons with their texts that W&B gets of each evaluation set, the most
            wrongly judged first; 0 sends no text (and no report) anywhere.
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
        """A fresh W&B run in the run's directory; offline where the server does not answer.

        None where W&B is disabled (WANDB_MODE), or does not even start offline.

        Args:
            labels: group -> the option chosen; they are tags, and `labels` in W&B's config.
            config: the resolved configuration, of plain types.
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
            "id": run.result.get("wandb", {}).get("id"),  # a resumed run goes on in its W&B run
        }
        ways: dict[Mode, tuple[Mode, ...]] = {
            "online": ("online", "offline"),
            "offline": ("offline",),
            "disabled": (),
        }
        for mode in ways[self._mode()]:
            try:
                experiment = _begin(mode, about)
                url = experiment.url if mode == "online" else None  # offline W&B warns of it
                facts = {"mode": mode, "id": experiment.id, "url": url}
                run.update(wandb=facts | {"directory": str(Path(experiment.dir).parent)})
                return Mirror(experiment, self.table_rows)
            except Exception as error:
                instead = "mirrored offline" if mode == "online" else "not mirrored"
                note_fallback(f"W&B does not start ({first_line(error)}): the run is {instead}.")
        return None

    def finish(self, exit_code: int) -> str | None:
        """Close the W&B run, marked as failed where `exit_code` is not 0; returns what failed."""
        wandb = sys.modules.get("wandb")
        if wandb is None or wandb.run is None:
            return None
        try:
            wandb.finish(exit_code=exit_code)
        except Exception as error:
            with suppress(Exception):
                wandb.teardown()  # so that the next job of a sweep has a service again
            return f"W&B does not close the run ({first_line(error)})."
        return None

    def _mode(self) -> Mode:
        """What the configuration says, then WANDB_MODE, then whether the person is logged in."""
        if self.mode != "auto":
            return self.mode
        wanted = os.environ.get("WANDB_MODE", "")
        if wanted in ("offline", "disabled", "dryrun"):
            return "disabled" if wanted == "disabled" else "offline"
        os.environ.setdefault("WANDB_SILENT", "true")
        try:
            import wandb

            return "online" if wandb.login(prompt=False, verify=False) else "offline"
        except Exception as error:
            note_fallback(
                f"W&B does not log in ({first_line(error)}): the run is mirrored offline."
            )
            return "offline"


class Mirror(Logger):
    """Lightning's view of a W&B run; the first failure ends the mirroring, never the run."""

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
        """W&B's id of the run."""
        return self.run.id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """A line of `metrics.jsonl`."""
        self.step = int(step or 0)
        self._guard(lambda: self._log(metrics))

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """The configuration went along when the run began."""

    def show(self, run: RunDirectory, metrics: Mapping[str, float]) -> list[str]:
        """What the run directory has at the end: see `wandb_media`; returns what was left out.

        `best/val/...` are val's metrics with the best weights (a sweep of W&B's own can aim at
        them: `val/...` has a summary of all validations), `run/...` the numbers of result.json.
        """
        notes: list[str] = []

        def send() -> None:
            media, said = log_run_media(run.path, run.result.get("evaluated"), self.table_rows)
            best = {f"best/{k}": v for k, v in metrics.items() if k.startswith("val/")}
            self._log({**best, **media})
            numbers = {k: v for k, v in run.result.items() if type(v) in (int, float)}
            self.run.summary.update({f"run/{k}": v for k, v in numbers.items() if k != "pid"})
            notes.extend(said)

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
    """A W&B run; made here and not by Lightning, which passes settings that W&B warns of."""
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
