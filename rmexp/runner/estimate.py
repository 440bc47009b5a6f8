"""Time and disk space of a sweep, estimated from one measured step of one of its jobs."""

import dataclasses
import functools
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from rmexp.config.compose import build
from rmexp.core.console import Reporter
from rmexp.core.errors import collect_fallbacks
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.frozen_activations import load_or_compute, skip_frozen_layers
from rmexp.training.measured_step import MeasuredStep, measure_step
from rmexp.training.setup import load_model, prepare_data
from rmexp.training.trainer import required_disk_bytes


@dataclass(frozen=True)
class MeasuredJob:
    """Measurements of one job, for estimates of others.

    Attributes:
        step: measured; rows: comparisons read.
        parameters: of the model; trainable: those that train.
        kept: describes the cached activations of frozen layers; None: they are not cached.
    """

    step: MeasuredStep
    rows: int
    parameters: int
    trainable: int
    kept: str | None

    def seconds(self, config: DictConfig) -> float:
        """Seconds of a job's training, validations and test, without loading and report."""
        return self.step.seconds(build(config.trainer), min(1.0, _limit(config) / self.rows))

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
        precision = trainer.resolved_precision()
        network, layout = load_model(
            model, prepared, config.seed, run, silent, device, tune, head, precision
        )
        network.train()
        kept = load_or_compute(network, data, layout, precision, tune.cache_gib, reporter.count)
    loss = head.losses(loss, data, config.seed).to(device)
    with skip_frozen_layers(network, layout, kept) as layout:
        step = measure_step(network, loss, data, layout, device, precision)
    parameters = list(network.parameters())
    return MeasuredJob(
        step=step,
        rows=len(data.rows),
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        kept=None if kept is None else kept.line(),
    )


def _limit(config: DictConfig) -> float:
    """The maximum number of comparisons of a job."""
    return float(config.data.get("limit") or math.inf)
