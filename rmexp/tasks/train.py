"""task=train: data -> model -> training -> best weights -> test -> export -> report."""

import functools
import time
from pathlib import Path
from typing import Any

import torch

from rmexp.core import distributed
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.core.process_memory import trim_heap
from rmexp.data.datamodule import ComparisonData
from rmexp.losses import Loss
from rmexp.models.reward_model import model_facts
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.callbacks import TrainingProgress
from rmexp.training.finish import (
    _put_together,
    _take_best,
    evaluate_splits,
    finalize_run,
    score_split,
)
from rmexp.training.frozen_activations import load_or_compute, skip_frozen_layers
from rmexp.training.lightning_module import RewardModule
from rmexp.training.optim import AdamW
from rmexp.training.setup import (
    check_disk,
    load_model,
    prepare_data,
    resolve_monitor,
    seed_everything,
)
from rmexp.training.trainer import TrainerSettings


def train(
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
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
        model: where the model comes from (`Pretrained`, `Tiny`).
        tune: which part of the model trains, see `tuning`.
        loggers: mirrors of `metrics.jsonl`.
        labels: the chosen option of each group, for tables and the card.
        resume: the run directory to go on in, or None.
        exports: write `export/`; a sweep does that for its best run alone, at its end.
    """
    seed_everything(seed)
    check = functools.partial(data.check_trainable, loss, labels["loss"], labels["data"])
    with distributed.local_rank_zero_first():  # rows are tokenised once, and weights converted
        prepared = prepare_data(model, template, data, seed, run, reporter, check)
    trainer = resolve_monitor(trainer, data)
    device = trainer.device()
    reward_model = load_model(model, prepared, seed, run, reporter, device, tune)
    if not model_facts(reward_model).fresh_head:
        reporter.say("the checkpoint has a reward head: it is kept")
    check_disk(reward_model, run.path)
    run.update(kinds=data.counts("train"), sampled=data.sampled())
    steps = trainer.steps(len(data.train_dataloader()))
    fingerprints = {"template": prepared.audit.fingerprint, "data": data.fingerprint}
    last = _resume_point(run, fingerprints) if resume else None
    precision = trainer.resolved_precision()
    run.update(
        precision=precision,
        total_steps=steps,
        strategy=trainer.strategy if distributed.world_size() > 1 else "single",
        devices=trainer.resolved_devices(),
        nodes=trainer.num_nodes,
    )
    kept = load_or_compute(reward_model, data, precision, tune.cache_gib, reporter.count)
    if kept is not None:
        run.update(features=kept.facts)
        reporter.say(kept.line())
    trim_heap()
    started = time.monotonic()
    with skip_frozen_layers(reward_model, data, kept):
        module = RewardModule(reward_model, loss, data, optim, steps, fingerprints)
        module.train()  # a pretrained model comes in eval mode
        progress = TrainingProgress(reporter)
        if distributed.rank():  # dropout is not to be the same in all processes
            torch.manual_seed(seed + (distributed.rank() << 32))
        logs = [JsonLines(run), *loggers] if distributed.is_rank_zero() else []
        fit = trainer.build(run, logs, [progress])
        fit.fit(module, datamodule=data, ckpt_path=last, weights_only=True)
        run.update(
            training_seconds=round(time.monotonic() - started, 1),
            pairs_per_second=round(progress.per_second(module, "pairs"), 3),
            responses_per_second=round(progress.per_second(module, "responses"), 3),
            steps=fit.global_step,
        )
        for optimizer in fit.optimizers:  # the export's proof needs the room
            optimizer.state.clear()
        trim_heap()
        step = _take_best(fit, module, run, reporter)
        metrics = evaluate_splits(
            module,
            data,
            run,
            lambda split: score_split(fit, module, data, split),
            known=module.validated_at == step,  # then these weights scored val last
        )
    if not distributed.is_rank_zero():
        return metrics
    if module.sharded:
        reward_model = _put_together(model, tune, fit, prepared, seed)
    return finalize_run(
        reward_model, module, prepared, model, name, labels, metrics, trainer.keep,
        run, reporter, exports,
    )  # fmt: skip


def _resume_point(run: RunDirectory, fingerprints: dict[str, str]) -> Path:
    """The checkpoint to go on from; what was logged after it is forgotten.

    Raises:
        UserError: template or data are not what they were.
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
