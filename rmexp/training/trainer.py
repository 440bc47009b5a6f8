"""Trainer settings and the Lightning Trainer built from them."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import lightning
import torch
from annotated_types import Ge, Gt
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

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
from rmexp.core.disk_errors import check_free_space
from rmexp.core.errors import UserError
from rmexp.evaluation.metrics import lower_is_better, monitored_metrics
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    EvenlySpacedValidation,
    ResumeCheckpoint,
)
from rmexp.training.fsdp import FSDPStrategy


def requested_processes(trainer: Any) -> int:
    """Number of processes that a `trainer` node asks for; built only if it may be several."""
    if trainer.get("strategy", SINGLE_PROCESS["strategy"]) == SINGLE_PROCESS["strategy"]:
        return 1
    return int(build(trainer).processes)


@dataclass(frozen=True)
class TrainerSettings:
    """Length, precision, devices, validations and checkpoints of a run.

    Args:
        max_epochs: passes over the training rows.
        max_steps: maximum number of updates; None sets no limit.
        precision: `bf16-mixed`, `32-true`, or Lightning's short names of them; `auto` is bf16 if
            the hardware is fast at it, else fp32. Rewards, losses and weights that train are
            always fp32.
        accelerator: `auto`, `cpu` or `gpu`.
        strategy: `single`, one process; `ddp`, several with a model each; `fsdp`, several that
            shard weights, gradients and moments.
        devices: processes per machine, each with its own GPU (or some CPU cores); `auto` takes
            every GPU, or 1 without.
        num_nodes: number of machines.
        validations: number of validations, evenly spaced; the last one is at the end.
        monitor: metric that selects the best checkpoint, e.g. `val/accuracy` or `val/loss`;
            `auto` is accuracy if val has pairs, else Spearman's correlation with its ratings.
        patience: validations without improvement before training stops; None never stops early.
        checkpoint_every: steps between resume checkpoints (each validation writes one too).
        keep: what stays in checkpoints/ when the run is done: `resume` all, `weights` the best
            weights, `none` nothing (the export has the best weights).
    """

    max_epochs: Annotated[int, Gt(0)]
    max_steps: Annotated[int, Gt(0)] | None
    precision: str | int
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
        """Refuse an unknown precision or monitor, and several devices without a strategy."""
        self.resolved_precision()
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
        """Check the devices against this machine and the launcher of this process.

        Args:
            here: this machine trains, so that it must have enough GPUs.

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
        """Processes per machine, with `auto` resolved."""
        if self.devices != "auto":
            return self.devices
        return torch.cuda.device_count() if self.resolved_accelerator() == "gpu" else 1

    @property
    def processes(self) -> int:
        return self.resolved_devices() * self.num_nodes

    def _process_options(self) -> dict[str, Any]:
        if distributed.world_size() == 1:
            return {"devices": 1, "plugins": [AtomicCheckpointIO()]}
        # Buffers are equal on all ranks; broadcasting them would cost time at each validation.
        ddp = DDPStrategy(find_unused_parameters=True, broadcast_buffers=False)
        return {
            "devices": self.resolved_devices(),
            "num_nodes": self.num_nodes,
            "strategy": ddp if self.strategy == "ddp" else FSDPStrategy(distributed.world_size()),
            "plugins": [distributed.cluster_environment(), AtomicCheckpointIO()],
            "use_distributed_sampler": False,  # our loaders partition the rows
        }

    def build(
        self, run: RunDirectory, loggers: list[Any], callbacks: list[lightning.Callback]
    ) -> lightning.Trainer:
        folder = run.path / "checkpoints"
        mode = "min" if lower_is_better(self.monitor) else "max"
        best = BestCheckpoint(
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
            **self._process_options(),
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
        """Number of updates of the whole run.

        Lightning's `estimated_stepping_batches` would set up the loader before a resumed run has
        restored its position.
        """
        steps = self.max_epochs * steps_an_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)

    def resolved_accelerator(self) -> Accelerator:
        return resolve_accelerator(self.accelerator)

    def device(self) -> str:
        return device_name(self.resolved_accelerator())

    def resolved_precision(self) -> Precision:
        return resolve_precision(self.precision, self.resolved_accelerator())


def required_disk_bytes(parameters: int, trainable: int) -> int:
    """Maximum bytes on disk: two resume checkpoints, best weights and the export, in fp32."""
    resume_checkpoint = 3 * trainable  # weights and two moments
    return 4 * (2 * resume_checkpoint + trainable + parameters)


def check_disk(model: nn.Module, folder: Path) -> None:
    """Refuse a run that does not fit on the disk.

    Raises:
        DiskFull: says how much is needed and free.
    """
    parameters = list(model.parameters())
    needed = required_disk_bytes(
        sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)
    )
    check_free_space(folder, needed, "the run", "run elsewhere")
