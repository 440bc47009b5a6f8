"""Time and disk space of a sweep, estimated from one measured step of one of its jobs."""

import dataclasses
import functools
import math
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from rmexp.config.compose import build
from rmexp.core.console import Reporter
from rmexp.core.errors import collect_fallbacks
from rmexp.models.reward_model import compute_outputs
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.frozen_activations import load_or_compute, skip_frozen_layers
from rmexp.training.setup import load_model, prepare_data
from rmexp.training.step_terms import normalise_terms
from rmexp.training.trainer import TrainerSettings, required_disk_bytes

FORWARD_SHARE = 1 / 3
"""Of the time of a step: a backward pass costs about two forward passes."""

LONG_SECONDS = 5.0
"""A first step that takes this long is accurate enough, with its warm-up."""


@dataclass(frozen=True)
class MeasuredJob:
    """Measurements of one job, for estimates of others.

    Attributes:
        step_seconds: of one optimizer step; comparisons: its mean number of comparisons.
        epoch_steps: steps of an epoch; rows: comparisons read.
        val, test: comparisons in these splits.
        parameters: of the model; trainable: those that train.
        kept: describes the cached activations of frozen layers; None: they are not cached.
    """

    step_seconds: float
    comparisons: float
    epoch_steps: int
    rows: int
    val: int
    test: int
    parameters: int
    trainable: int
    kept: str | None

    def seconds(self, config: DictConfig) -> float:
        """Seconds of a job's training, validations and test, without loading and report."""
        trainer: TrainerSettings = build(config.trainer)
        share = min(1.0, _limit(config) / self.rows)
        steps = trainer.steps(max(1, round(self.epoch_steps * share)))
        scored = share * (trainer.validations * self.val + self.test)
        return self.step_seconds * (steps + FORWARD_SHARE * scored / self.comparisons)

    def disk(self, configs: Sequence[DictConfig]) -> int:
        """Bytes that these jobs may need until the sweep has ended."""
        export, best, states = 4 * self.parameters, 4 * self.trainable, 12 * self.trainable
        kept = 0
        for config in configs:
            every = config.sweep.export == "all"
            kept += export * every
            kept += best * (config.trainer.keep != "none" or not every)
            kept += states * (config.trainer.keep == "resume")
        return kept + required_disk_bytes(self.parameters, self.trainable)


def measure(cells: Sequence[JobSpec], reporter: Reporter) -> MeasuredJob:
    """Time a step of the job with the most data.

    The jobs find the tokenised rows and the activations of frozen layers in the cache.
    """
    cell = max(cells, key=lambda one: _limit(one.config))
    config, silent = cell.config, Reporter(quiet=True)
    names = ("model", "template", "data", "loss", "head", "tune", "trainer")
    model, template, data, loss, head, tune, trainer = (build(config[name]) for name in names)
    data.batching = dataclasses.replace(data.batching, workers=0)
    check = functools.partial(
        head.check_trainable, data, loss, cell.choices["loss"], cell.choices["data"]
    )
    with tempfile.TemporaryDirectory() as folder, collect_fallbacks(lambda _: None):
        run = RunDirectory(Path(folder))
        prepared = prepare_data(model, template, data, config.seed, run, silent, check)
        device = trainer.device()
        network, layout = load_model(model, prepared, config.seed, run, silent, device, tune, head)
        network.train()
        precision = trainer.resolved_precision()
        kept = load_or_compute(network, data, layout, precision, tune.cache_gib, reporter.count)
    loss = head.losses(loss, data, config.seed).to(device)
    with (
        skip_frozen_layers(network, layout, kept) as layout,
        torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed"),
    ):
        step = next(iter(loader := data.train_loader(layout)))
        batches = [batch.to(device) for batch in step.batches]
        seconds = _timed(network, loss, batches)
        if seconds < LONG_SECONDS:
            seconds = _timed(network, loss, batches)
    parameters = list(network.parameters())
    return MeasuredJob(
        step_seconds=seconds,
        comparisons=max(1.0, len(data.splits["train"]) / len(loader)),
        epoch_steps=len(loader),
        rows=len(data.rows),
        val=len(data.splits["val"]),
        test=len(data.splits["test"]),
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        kept=None if kept is None else kept.line(),
    )


def _timed(network: Any, loss: Any, batches: Sequence[Any]) -> float:
    started = time.monotonic()
    totals = loss.total_weights(batches)
    for batch in batches:
        normalise_terms(loss.of_outputs(compute_outputs(network, batch), batch), totals).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic() - started


def _limit(config: DictConfig) -> float:
    """The maximum number of comparisons of a job."""
    return float(config.data.get("limit") or math.inf)
