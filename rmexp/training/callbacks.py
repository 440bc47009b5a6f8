"""Lightning callbacks: validation schedule, resume checkpoints, progress."""

import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from rmexp.core import distributed
from rmexp.core.atomic_file import replace_file
from rmexp.core.console import PLAIN_SECONDS, Reporter

SMOOTHING = 0.9


class TrainingProgress(lightning.Callback):
    """Show steps, loss, accuracy, throughput and remaining time of the whole run."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.shown: dict[str, float] = {}
        self._last = 0.0
        self.start, self.first_step = time.monotonic(), 0
        self.first: dict[str, int] = {}

    def on_train_start(self, trainer: Any, module: Any) -> None:
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
        if hasattr(self, "bar"):
            self.bar.update(self.task, description="validating")

    def on_validation_end(self, trainer: Any, module: Any) -> None:
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
        self.bar.stop()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        if hasattr(self, "bar"):
            self.bar.stop()

    def per_second(self, module: Any, unit: str) -> float:
        """Pairs or responses per second since start or resume, validations included."""
        done = module.seen[unit] - self.first.get(unit, 0)
        return done / max(1e-9, time.monotonic() - self.start)


NEVER = 10**9


def validation_steps(steps: int, count: int) -> set[int]:
    """The `count` evenly spaced steps after which to validate; the last one ends the run."""
    return {round(steps * (n + 1) / count) for n in range(count)} - {0}


class EvenlySpacedValidation(lightning.Callback):
    """Validate `count` times, evenly spaced over the run, the last time after its last step.

    Lightning's own interval restarts with every epoch and may miss the end of the run.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_start(self, trainer: Any, module: Any) -> None:
        self.due = validation_steps(module.steps, self.count)
        trainer.val_check_batch = 1 if trainer.global_step in self.due else NEVER

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        trainer.val_check_batch = 1 if trainer.global_step in self.due else NEVER


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint into a file that then gets its name; Lightning makes all of it in memory
    first, which doubles what a run needs."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(content: Any, file: Path) -> None:
    """Write all of it, or leave the file that was there.

    Raises:
        OSError: it cannot be written; of a full disk torch would not say so.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with replace_file(file) as temporary, open(temporary, "wb") as stream:
            torch.save(content, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # of the stream
            raise error.__context__ from None
        raise


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best weights; its files are in its folder, wherever the run was before.

    Lightning drops the best score if the folder has moved, and removes files by their old paths.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        def here(path: str) -> str:
            return str(Path(str(self.dirpath), Path(path).name)) if path else path

        paths = {name: here(path) for name, path in state_dict.items() if name.endswith("_path")}
        scores = {here(path): score for path, score in state_dict["best_k_models"].items()}
        moved = {"dirpath": self.dirpath, "best_k_models": scores}
        super().load_state_dict(state_dict | paths | moved)


class ResumeCheckpoint(Checkpoint):
    """Keep the latest checkpoint to resume from.

    Ctrl-C ends training after the current step is saved; a second Ctrl-C ends it immediately.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every
        self.stopping = self.agreed = False
        self._handler: Any = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        # From a checkpoint of an epoch's last step Lightning starts the next epoch without counting
        # it, so that a checkpoint of that epoch would be resumed as if the epoch were over.
        epochs = trainer.fit_loop.epoch_progress.total
        if trainer.fit_loop.restarted_mid_epoch and epochs.processed == epochs.started:
            trainer.fit_loop.reset_restart_stage()
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: Any) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        if distributed.is_rank_zero():
            print("stopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save, unless a validation follows, after which it is saved."""
        # Ctrl-C may reach the processes in different steps.
        self.agreed = distributed.any_process(self.stopping)
        due = self.agreed or trainer.global_step % self.every == 0
        if due and trainer.val_check_batch == NEVER:
            self._save(trainer)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Save, with the best score and the patience left."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.agreed = distributed.any_process(self.stopping)
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        trainer.save_checkpoint(self.file)
        if self.agreed:
            raise KeyboardInterrupt

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        self._restore_handler()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """Restore the handler of Ctrl-C: `teardown` does not run after an error."""
        self._restore_handler()

    def _restore_handler(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None
