"""Trainer settings -> a Lightning Trainer, for one process or several, that validates, keeps
checkpoints and stops early."""

import re
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import lightning
import torch
from annotated_types import Ge, Gt
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.strategies import DDPStrategy

from rmexp.config.compose import build, suggest
from rmexp.config.schema import SINGLE_PROCESS
from rmexp.core import distributed
from rmexp.core.devices import (
    Accelerator,
    Precision,
    device_name,
    resolve_accelerator,
    resolve_precision,
)
from rmexp.core.errors import UserError
from rmexp.evaluation.metrics import lower_is_better, monitored_metrics
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.callbacks import AtomicCheckpointIO, EvenlySpacedValidation, ResumeCheckpoint
from rmexp.training.fsdp import FSDPStrategy


def requested_processes(trainer: Any) -> int:
    """How many a `trainer` node asks for; one that asks for one need not be built."""
    if trainer.get("strategy", SINGLE_PROCESS["strategy"]) == SINGLE_PROCESS["strategy"]:
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

    max_epochs: Annotated[int, Gt(0)]
    max_steps: Annotated[int, Gt(0)] | None
    precision: Literal["auto", "bf16-mixed", "32-true"]
    accelerator: Literal["auto", "cpu", "gpu"]
    strategy: Literal["single", "ddp", "fsdp"]
    devices: Annotated[int, Gt(0)] | Literal["auto"]
    num_nodes: Annotated[int, Gt(0)]
    validations: Annotated[int, Gt(0)]
    monitor: str
    patience: Annotated[int, Ge(1)] | None
    checkpoint_every: Annotated[int, Gt(0)]
    keep: Literal["resume", "weights", "none"]

    def __post_init__(self) -> None:
        """Refuse a monitor that no validation will log, and several devices without a strategy."""
        known = [f"val/{m.name}" for m in monitored_metrics()]
        per_subset = [m.name for m in monitored_metrics() if m.per_subset == "always"]
        if not (
            self.monitor in ("auto", *known)
            or re.fullmatch(rf"val/.+/({'|'.join(per_subset)})", self.monitor)
        ):
            close = suggest(self.monitor, known)
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
        place, gpus = distributed.launcher_env(), torch.cuda.device_count()
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
        if distributed.world_size() == 1:
            return {"devices": 1, "plugins": [AtomicCheckpointIO()]}
        # Buffers are equal everywhere, and would be sent again before each validation step.
        ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        return {
            "devices": self.resolved_devices(),
            "num_nodes": self.num_nodes,
            "strategy": ddp if self.strategy == "ddp" else FSDPStrategy(distributed.world_size()),
            "plugins": [distributed.cluster_environment(), AtomicCheckpointIO()],
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
                EvenlySpacedValidation(self.validations),
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

    def resolved_accelerator(self) -> Accelerator:
        """The accelerator that `auto` means on this machine."""
        return resolve_accelerator(self.accelerator)

    def device(self) -> str:
        """The accelerator's name in torch."""
        return device_name(self.resolved_accelerator())

    def resolved_precision(self) -> Precision:
        """The precision that `auto` means on this machine."""
        return resolve_precision(self.precision, self.resolved_accelerator())


def required_disk_bytes(parameters: int, trainable: int) -> int:
    """Bytes a run may need at once: what trains in fp32, thrice in each of two resume checkpoints
    (with its two moments) and once in the best weights; the whole model in the export."""
    return 4 * (2 * 3 * trainable + trainable + parameters)
