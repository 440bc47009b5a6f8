"""Trainer settings -> a Lightning Trainer, for one process or several, that validates, keeps
checkpoints and stops early."""

import os
import re
import signal
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import torch
from annotated_types import Ge, Gt
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from rmexp import ranks
from rmexp.config import ALONE, build, suggest
from rmexp.errors import UserError
from rmexp.metrics import METRICS, lower_is_better
from rmexp.sharding import Sharded
from rmexp.tracking import RunDirectory

NEVER = 10**9


def processes(trainer: Any) -> int:
    """How many a `trainer` node asks for; one that asks for one need not be built."""
    if trainer.get("strategy", ALONE["strategy"]) == ALONE["strategy"]:
        return 1
    return int(build(trainer).processes)


@dataclass(frozen=True)
class TrainerSettings:
    """How long, how precise, how often.

    Args:
        max_epochs: passes over the training rows.
        max_steps: updates after which training ends, whatever the epoch; None sets no limit.
        precision: `auto` is bf16 where the hardware has it, else fp32; rewards and losses are
            fp32 always.
        accelerator: `auto`, `cpu` or `gpu`.
        validations: validations over the run, evenly spread; the last one is at its end.
        monitor: the metric that selects the best checkpoint, e.g. `val/accuracy` or `val/loss`;
            `auto` is accuracy where val has pairs, else Spearman's correlation with its ratings.
        patience: validations without improvement before training stops; None never stops early.
        checkpoint_every: steps between checkpoints to resume from (there is one at each
            validation).
        strategy: `single`, one process; `ddp`, a whole model in each of several; `fsdp`, which
            parts weights, gradients and moments among them.
        devices: processes on each machine, each with a GPU (or some of the CPU's cores) of its own;
            `auto` takes every GPU, and 1 without.
        num_nodes: machines.
        keep: what stays in checkpoints/ when the run is done: `resume` all, `weights` the best
            weights, `none` nothing (the export holds the best weights).
    """

    max_epochs: Annotated[int, Gt(0)] = 1
    max_steps: Annotated[int, Gt(0)] | None = None
    precision: Literal["auto", "bf16-mixed", "32-true"] = "auto"
    accelerator: Literal["auto", "cpu", "gpu"] = "auto"
    strategy: Literal["single", "ddp", "fsdp"] = "single"
    devices: Annotated[int, Gt(0)] | Literal["auto"] = 1
    num_nodes: Annotated[int, Gt(0)] = 1
    validations: Annotated[int, Gt(0)] = 2
    monitor: str = "auto"
    patience: Annotated[int, Ge(1)] | None = None
    checkpoint_every: Annotated[int, Gt(0)] = 200
    keep: Literal["resume", "weights", "none"] = "weights"

    def __post_init__(self) -> None:
        """Refuse a monitor that no validation will log, and several devices without a strategy."""
        known = rf"auto|val/({'|'.join(METRICS)}|.+/accuracy)"
        if not re.fullmatch(known, self.monitor):
            close = suggest(self.monitor, [f"val/{name}" for name in METRICS])
            raise UserError(f"trainer.monitor={self.monitor}: no such metric{close}.")
        if self.strategy == "single" and self.processes > 1:
            raise UserError(
                f"trainer.devices={self.devices} trainer.num_nodes={self.num_nodes} need several "
                "processes: say trainer=ddp (or fsdp)."
            )

    def check_devices(self, here: bool = True) -> None:
        """Refuse what this machine, or the launcher of this process, does not have.

        Args:
            here: it is this machine that trains, so that its GPUs must be enough.

        Raises:
            UserError: says which key to change.
        """
        place, gpus = ranks.place(), torch.cuda.device_count()
        if here and self.resolved_accelerator() == "gpu" and self.resolved_devices() > gpus:
            has = f"{gpus} GPU{'s' if gpus != 1 else ''}"
            raise UserError(f"trainer.devices={self.devices}: this machine has {has}.")
        if place is not None and place.size != self.processes:
            raise UserError(
                f"The launcher started {place.size} processes, and trainer.devices="
                f"{self.resolved_devices()} x trainer.num_nodes={self.num_nodes} are "
                f"{self.processes}: make them equal, with trainer=ddp or trainer=fsdp."
            )
        if place is None and self.num_nodes > 1:
            raise UserError(
                f"trainer.num_nodes={self.num_nodes}: start the same command on every machine with "
                "torchrun or srun (see the README)."
            )

    def resolved_devices(self) -> int:
        """The processes on each machine that `auto` means here."""
        if self.devices != "auto":
            return self.devices
        return torch.cuda.device_count() if self.resolved_accelerator() == "gpu" else 1

    @property
    def processes(self) -> int:
        """How many there are in all."""
        return self.resolved_devices() * self.num_nodes

    def _placed(self) -> dict[str, Any]:
        """What Lightning needs to know of the processes; one alone needs no strategy."""
        if ranks.count() == 1:
            return {"devices": 1, "plugins": [WrittenAside()]}
        # Buffers are equal everywhere, and would be sent again before each validation step.
        ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        return {
            "devices": self.resolved_devices(),
            "num_nodes": self.num_nodes,
            "strategy": ddp if self.strategy == "ddp" else Sharded(ranks.count()),
            "plugins": [ranks.environment(), WrittenAside()],
            "use_distributed_sampler": False,  # our loaders deal rows out themselves
        }

    def build(
        self, run: RunDirectory, loggers: list[Any], callbacks: list[lightning.Callback]
    ) -> lightning.Trainer:
        """A Trainer that writes into the run directory."""
        folder = run.path / "checkpoints"
        mode = "min" if lower_is_better(self.monitor) else "max"
        best = ModelCheckpoint(
            folder,
            "best",
            monitor=self.monitor,
            mode=mode,
            save_weights_only=True,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        stop = (
            [
                EarlyStopping(
                    self.monitor, mode=mode, patience=self.patience, check_on_train_epoch_end=False
                )
            ]
            if self.patience
            else []
        )
        return lightning.Trainer(
            accelerator=self.resolved_accelerator(),
            **self._placed(),
            precision=self.resolved_precision(),
            max_epochs=self.max_epochs,
            max_steps=-1 if self.max_steps is None else self.max_steps,
            logger=loggers,
            callbacks=[
                SpreadValidations(self.validations),
                *callbacks,
                *stop,
                best,
                ResumeCheckpoint(folder / "last.ckpt", self.checkpoint_every),
            ],
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=run.path,
        )

    def steps(self, steps_an_epoch: int) -> int:
        """Updates of the whole run.

        Not Lightning's `estimated_stepping_batches`: that sets up the loader too early for a
        resumed one to be told where it stood.
        """
        steps = self.max_epochs * steps_an_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def resolved_accelerator(self) -> Literal["cpu", "gpu"]:
        """The device that `auto` means here: a CUDA device where there is one."""
        if self.accelerator != "auto":
            return self.accelerator
        return "gpu" if torch.cuda.is_available() else "cpu"

    def device(self) -> str:
        """Its name in torch; of several GPUs the one of this process."""
        return "cuda" if self.resolved_accelerator() == "gpu" else "cpu"

    def resolved_precision(self) -> Literal["bf16-mixed", "32-true"]:
        """The precision that `auto` means here."""
        if self.precision != "auto":
            return self.precision
        return "bf16-mixed" if bf16_is_fast(self.resolved_accelerator()) else "32-true"


def bf16_is_fast(accelerator: Literal["cpu", "gpu"]) -> bool:
    """Has the device matrix units (or at least dot products) for bf16?"""
    if accelerator == "gpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    can = torch.cpu.get_capabilities()
    return bool(can.get("amx_bf16") or can.get("avx512_bf16"))


def validation_steps(steps: int, count: int) -> set[int]:
    """The steps after which to validate: `count` of them, evenly spread, the last at the end."""
    return {round(steps * (n + 1) / count) for n in range(count)} - {0}


class SpreadValidations(lightning.Callback):
    """Validate `count` times, evenly over the run, the last time after the last step.

    Lightning's own interval restarts with every epoch and may miss the end of the run.
    """

    def __init__(self, count: int) -> None:
        self.count = count

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Plan the steps after which to validate."""
        self.due = validation_steps(module.steps, self.count)
        trainer.val_check_batch = 1 if trainer.global_step in self.due else NEVER

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Tell Lightning whether to validate now."""
        trainer.val_check_batch = 1 if trainer.global_step in self.due else NEVER


class WrittenAside(TorchCheckpointIO):
    """Writes a checkpoint into a file that then gets its name; Lightning makes all of it in memory
    first, which doubles what a run needs."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """See `write_checkpoint`."""
        write_checkpoint(checkpoint, Path(path))


def write_checkpoint(content: Any, file: Path) -> None:
    """Write all of it, or leave the file that was there.

    Raises:
        OSError: it cannot be written; of a full disk torch would not say so.
    """
    aside = file.with_name(f".writing-{file.name}")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(aside, "wb") as stream:
            torch.save(content, stream)
        os.replace(aside, file)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):  # of the stream
            raise error.__context__ from None
        raise
    finally:
        aside.unlink(missing_ok=True)


class ResumeCheckpoint(Checkpoint):
    """Keeps one whole checkpoint to resume from, replaced in one move.

    Ctrl-C ends training once the step at work is done and saved; a second one ends it at once.
    """

    def __init__(self, file: Path, every: int) -> None:
        self.file, self.every = file, every
        self.stopping = self.agreed = False
        self._handler: Any = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Wait for Ctrl-C, where signals can be waited for."""
        if threading.current_thread() is threading.main_thread():
            self._handler = signal.signal(signal.SIGINT, self._stop)

    def _stop(self, *_: Any) -> None:
        if self.stopping:
            raise KeyboardInterrupt
        self.stopping = True
        if ranks.first():
            print("stopping after this step (Ctrl-C again: at once)", file=sys.stderr, flush=True)

    def on_train_batch_end(
        self, trainer: Any, module: Any, outputs: Any, batch: Any, index: int
    ) -> None:
        """Save between validations; at a validation the state after it is saved instead."""
        # Ctrl-C may reach one process during a step and another after it.
        self.agreed = any(ranks.gathered(self.stopping))
        due = self.agreed or trainer.global_step % self.every == 0
        if due and trainer.val_check_batch == NEVER:
            self._save(trainer)

    def on_validation_end(self, trainer: Any, module: Any) -> None:
        """Save with the validation's verdict (best score, patience) in it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.agreed = any(ranks.gathered(self.stopping))
            self._save(trainer)

    def _save(self, trainer: Any) -> None:
        aside = self.file.with_name(".last.ckpt")
        trainer.save_checkpoint(aside)
        if ranks.first():
            os.replace(aside, self.file)
        if self.agreed:
            raise KeyboardInterrupt

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """Leave Ctrl-C to others again."""
        self._leave()

    def on_exception(self, trainer: Any, module: Any, exception: BaseException) -> None:
        """The same; a run that fails is not torn down."""
        self._leave()

    def _leave(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None


def needed_disk(parameters: int, trainable: int) -> int:
    """Bytes a run may need at once: what trains in fp32, thrice in each of two resume checkpoints
    (with its two moments) and once in the best weights; the whole model in the export."""
    return 4 * (2 * 3 * trainable + trainable + parameters)
