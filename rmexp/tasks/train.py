"""task=train: data -> model -> training -> best weights -> test -> export -> report."""

import contextlib
import functools
import time
from pathlib import Path
from typing import Any

import torch

from rmexp.core import distributed
from rmexp.core.console import Reporter, format_duration
from rmexp.core.errors import UserError
from rmexp.core.process_memory import trim_heap
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses import Loss
from rmexp.models.heads import HeadSettings, TrainedOutputs
from rmexp.models.pretrained import RunCheckpoint
from rmexp.models.reward_head import MultiOutputHead
from rmexp.models.reward_model import last_layer, model_facts
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.callbacks import TrainingProgress
from rmexp.training.finish import BestWeights, RunParts, finish_run, score_split
from rmexp.training.frozen_activations import load_or_compute, skip_frozen_layers
from rmexp.training.lightning_module import RewardModule
from rmexp.training.measured_step import measure_step
from rmexp.training.monitor import resolve_monitor
from rmexp.training.optim import AdamW
from rmexp.training.setup import (
    load_model,
    open_model,
    prepare_data,
    seed_everything,
    training_facts,
)
from rmexp.training.trainer import TrainerSettings, check_disk


def train(
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    head: HeadSettings,
    tune: Any,
    optim: AdamW,
    trainer: TrainerSettings,
    loggers: list[Any],
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    name: str,
    labels: dict[str, str],
    resume: str | None,
    exports: bool,
) -> dict[str, float]:
    """Train, select, calibrate, test, export and report; returns the metrics of val and test.

    Args:
        model: source of the model (`Pretrained`, `Tiny`).
        head: its outputs, see `heads`.
        tune: which part of the model trains, see `tuning`.
        loggers: mirrors of `metrics.jsonl`.
        labels: the chosen option of each group, for tables and the card.
        resume: directory of the run to resume, or None.
        exports: write `export/`; a sweep exports only its best run, at its end.
    """
    seed_everything(seed)
    check = functools.partial(head.check_trainable, data, loss, labels["loss"], labels["data"])
    with distributed.local_rank_zero_first():  # rows are tokenised once, and weights converted
        prepared = prepare_data(model, template, data, seed, run, reporter, check)
    trainer = resolve_monitor(trainer, data)
    device, precision = trainer.device(), trainer.resolved_precision()
    network, layout = load_model(
        model, prepared, seed, run, reporter, device, tune, head, precision
    )
    loss = head.losses(loss, data, seed)
    if not model_facts(network).fresh_head:
        reporter.say("the checkpoint has a reward head: it is kept")
    check_disk(network, run.path)
    steps = trainer.steps(len(data.plan()))
    fingerprints = {"template": prepared.audit.fingerprint, "data": data.fingerprint}
    last = _resume_point(run, fingerprints) if resume else None
    run.update(**training_facts(trainer, data, steps))
    cached = load_or_compute(network, data, layout, precision, tune.cache_gib, reporter.count)
    if cached is not None:
        run.update(features=cached.facts)
        reporter.say(cached.line())
    trim_heap()
    with contextlib.ExitStack() as stack:
        layout = stack.enter_context(skip_frozen_layers(network, layout, cached))
        if trainer.strategy == "single" and run.result["sweep"] is None and not resume:
            network.train()
            step = measure_step(network, loss.to(device), data, layout, device, precision)
            reporter.say(
                f"time: about {format_duration(step.seconds(trainer))} of training and evaluation "
                f"({step.step_seconds:.2g} s a step, {steps} steps)"
            )
        started = time.monotonic()
        module = RewardModule(network, loss, data, layout, optim, steps, fingerprints)
        module.train()  # a pretrained model is in eval mode
        progress = TrainingProgress(reporter)
        if distributed.rank():  # each process draws its own dropout masks
            torch.manual_seed(seed + (distributed.rank() << 32))
        logs = [JsonLines(run), *loggers] if distributed.is_rank_zero() else []
        fit = trainer.build(run, logs, [progress])
        loaders = data.train_loader(layout), data.eval_loader("val", layout)
        fit.fit(module, *loaders, ckpt_path=last, weights_only=True)
        run.update(
            training_seconds=round(time.monotonic() - started, 1),
            pairs_per_second=round(progress.per_second(module, "pairs"), 3),
            responses_per_second=round(progress.per_second(module, "responses"), 3),
            steps=fit.global_step,
        )
        for optimizer in fit.optimizers:  # the export needs the memory
            optimizer.state.clear()
        trim_heap()
        best: Any = fit.checkpoint_callback

        def whole() -> Any:
            stack.close()  # puts the frozen layers back
            if not (module.sharded or model_facts(network).rounded):
                return network
            last = last_layer(network)
            for weight in [] if module.sharded else network.parameters():
                weight.data = weight.data.new_empty(0)  # the base needs their memory
            weights = RunCheckpoint(
                base=model,
                weights=best.best_model_path,
                tune=tune,
                head=TrainedOutputs.of(last) if isinstance(last, MultiOutputHead) else head,
                layout=model.layout,
            )
            return open_model(weights, prepared, seed, "cpu")[0]

        return finish_run(
            RunParts(
                run,
                reporter,
                model,
                prepared,
                name,
                labels,
                trainer.keep,
                exports,
                learns_weights=head.learns_weights,
            ),
            module,
            BestWeights.of(best),
            functools.partial(score_split, fit, module, data),
            whole,
        )


def _resume_point(run: RunDirectory, fingerprints: dict[str, str]) -> Path:
    """The checkpoint to resume from; lines logged after it are removed.

    Raises:
        UserError: template or data have changed.
    """
    last = run.path / "checkpoints" / "last.ckpt"
    stored = torch.load(last, map_location="cpu", weights_only=True, mmap=True)
    for what, fingerprint in fingerprints.items():
        if stored["fingerprints"][what] != fingerprint:
            raise UserError(
                f"resume={run.path}: the {what} changed since the run stopped, so that it cannot "
                "go on exactly; put it back, or start a new run."
            )
    run.cut_metrics(int(stored["global_step"]))
    return last
