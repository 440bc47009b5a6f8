"""What a person sees while a run works: a live bar in a terminal, else a line every few seconds."""

import time
from typing import Any

import lightning
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_SECONDS = 10.0
SMOOTHING = 0.9


class Reporter:
    """Says what is going on. One for a command, all jobs of a sweep's process share it.

    Args:
        mark: stands before each line, where several processes share a terminal (and no live bar).
        quiet: say nothing; of several processes of a run one speaks.
    """

    def __init__(self, mark: str = "", quiet: bool = False) -> None:
        terminal = False if mark else None  # None: as it is
        self.console = Console(
            highlight=False, soft_wrap=True, force_terminal=terminal, quiet=quiet
        )
        self.mark = mark
        self._said = 0.0
        self._known: set[str] = set()

    def say(self, *lines: str) -> None:
        """Print lines as they are."""
        for line in lines:
            self.console.print(self.mark + line if line else line, markup=False)

    def say_once(self, *lines: str) -> None:
        """Print those lines that were not said before: of a sweep's jobs, what is new in each."""
        self.say(*(line for line in lines if line not in self._known))
        self._known.update(lines)

    def count(self, what: str, number: int) -> None:
        """A count that goes up: over itself in a terminal, now and then elsewhere."""
        if self.console.is_terminal:
            self.console.print(f"{number} {what}", end="\r", markup=False)
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"{number} {what}")


class TrainingProgress(lightning.Callback):
    """Steps, loss, accuracy, pairs a second and time left, over the whole run."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.shown: dict[str, float] = {}
        self._last = 0.0
        self.start, self.first_step = time.monotonic(), 0
        self.first: dict[str, int] = {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Open the bar at the step where the run stands."""
        self.total = module.steps
        self.start, self.first_step = time.monotonic(), trainer.global_step
        self.first = module.seen
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(compact=True),
            console=self.reporter.console,
            disable=not self.reporter.console.is_terminal,
        )
        self.task = self.bar.add_task(
            "training", total=self.total, completed=trainer.global_step, note=""
        )
        self.bar.start()

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Move on."""
        for name in {"loss", "accuracy"} & set(module.shown):
            new = module.shown[name]
            self.shown[name] = SMOOTHING * self.shown.get(name, new) + (1 - SMOOTHING) * new
        unit = "pairs" if module.seen["pairs"] else "responses"
        words = [f"{n} {self.shown[n]:.3f}" for n in ("loss", "accuracy") if n in self.shown]
        note = "  ".join([*words, f"{self.per_second(module, unit):.1f} {unit}/s"])
        self.bar.update(self.task, completed=trainer.global_step, note=note)
        now, done = time.monotonic(), trainer.global_step >= self.total
        if not self.reporter.console.is_terminal and (now - self._last > PLAIN_SECONDS or done):
            self._last = now
            each = (now - self.start) / max(1, trainer.global_step - self.first_step)
            left = each * (self.total - trainer.global_step)
            self.reporter.say(f"step {trainer.global_step}/{self.total}  {note}  {left:.0f} s left")

    def on_validation_start(self, trainer: Any, module: Any) -> None:
        """The bar says that it waits for a validation."""
        if hasattr(self, "bar"):
            self.bar.update(self.task, description="validating")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Print what was found."""
        if hasattr(self, "bar") and not trainer.sanity_checking:
            self.bar.update(self.task, description="training")
            values = {
                name: float(v)
                for name, v in trainer.callback_metrics.items()
                if name.startswith("val/")
            }
            shown = (f"val/{name}" for name in ("accuracy", "spearman", "loss", "margin"))
            words = (f"{n.removeprefix('val/')} {values[n]:.4f}" for n in shown if n in values)
            self.reporter.say(f"val at step {trainer.global_step}: {'  '.join(words)}")

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Close the bar."""
        self.bar.stop()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Close the bar, so that the terminal is whole."""
        if hasattr(self, "bar"):
            self.bar.stop()

    def per_second(self, module: Any, unit: str) -> float:
        """Judged pairs or responses a second since the start (or the resume), with validations."""
        done = module.seen[unit] - self.first.get(unit, 0)
        return done / max(1e-9, time.monotonic() - self.start)
