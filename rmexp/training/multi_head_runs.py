"""Runs of a sweep with tune=head: begun together, trained side by side, ended one by one.

Each keeps its run directory, its W&B run and its order of rows; what they share is the model, the
rows, and what the model makes of them.
"""

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.data.datamodule import ComparisonData
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.losses import Loss
from rmexp.models.reward_model import model_facts
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.callbacks import write_checkpoint
from rmexp.training.finish import evaluate_splits, finalize_run, report_best_weights
from rmexp.training.frozen_activations import load_or_compute
from rmexp.training.multi_head import (
    Batches,
    HeadModule,
    HeadOnly,
    fit_together,
    score_heads,
    stands_alone,
)
from rmexp.training.optim import AdamW
from rmexp.training.setup import (
    Prepared,
    open_model,
    parameter_counts,
    prepare,
    report_prepared,
    resolve_monitor,
    seed_everything,
)
from rmexp.training.trainer import TrainerSettings


@dataclass
class HeadRun:
    """What a run is built of; see `tasks.train.train`. `directory` is its name in the sweep."""

    model: Any
    template: Template
    data: ComparisonData
    loss: Loss
    tune: Any
    optim: AdamW
    trainer: TrainerSettings
    seed: int
    labels: dict[str, str]
    directory: str


@dataclass
class Fitted:
    """A run whose head is trained.

    module            with its best weights, logs and calibration
    prepared          tokenizer, rows and audit
    whole             the model that the heads share
    kept              facts of the kept states
    shared_with       the other runs' directories
    seconds           this run's share of all that was done together
    training_seconds  this run's share of the training
    notes             fallbacks: those that hold for all of them, and its own
    """

    run: HeadRun
    module: HeadModule
    prepared: Prepared
    whole: Any
    kept: dict[str, Any]
    shared_with: list[str]
    seconds: float = 0.0
    training_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)


def fit_heads(runs: Sequence[HeadRun], reporter: Reporter) -> list[Fitted | UserError]:
    """Train the heads of several runs that differ in loss, seed and optimizer only.

    Returns a run's outcome each; none at all where these heads cannot be trained apart from their
    model, or have not the same one (each run then does it by itself).
    """
    started, first = time.monotonic(), runs[0]
    seed_everything(first.seed)
    first.tune.check(first.model)
    shared = prepare(first.model, first.template, first.data, first.seed, reporter)
    device = first.trainer.device()
    whole = open_model(first.model, shared, first.seed, device, first.tune)
    # Where a seed draws frozen weights, too, each needs a model of its own.
    one_model = model_facts(whole).only_head_drawn or len({run.seed for run in runs}) == 1
    if not (one_model and stands_alone(whole)):
        return []
    kept = load_or_compute(
        whole,
        first.data,
        first.trainer.resolved_precision(),
        first.tune.cache_gib,
        reporter.count,
    )
    if kept is None or not kept.features.pooled:
        return []
    found: list[Fitted | UserError] = []
    data = copy.copy(first.data)
    data.features = kept.features
    batches = Batches(data, device)
    # All validate the same rows with the same settings: what is known of these is told once.
    settings = functools.cache(lambda: resolve_monitor(first.trainer, first.data))
    known: dict[tuple[bytes, ...], dict[str, EvalLabels]] = {}
    for run in runs:
        notes: list[str] = []
        try:
            with collect_fallbacks(notes.append):
                module, prepared = _begin(run, shared, whole, settings, batches)
            splits = (module.data.splits[name].tobytes() for name in ("val", "test"))
            module.judged = known.setdefault(tuple(splits), module.judged)
        except UserError as error:
            found.append(error)
            continue
        others = [other.directory for other in runs if other is not run]
        found.append(Fitted(run, module, prepared, whole, kept.facts, others, notes=notes))
    fitted = [one for one in found if isinstance(one, Fitted)]
    if not fitted:
        return found
    reporter.say(kept.line(), f"{len(fitted)} heads train side by side")
    began = time.monotonic()
    fit_together([one.module for one in fitted])
    ended = time.monotonic()
    for one in fitted:
        one.seconds = round((ended - started) / len(fitted), 2)
        one.training_seconds = round((ended - began) / len(fitted), 3)
    return found


def _begin(
    run: HeadRun,
    shared: Prepared,
    whole: Any,
    settings: Callable[[], TrainerSettings],
    batches: Batches,
) -> tuple[HeadModule, Prepared]:
    """The module of a run, over rows of its own choice and order.

    Raises:
        UserError: the loss finds nothing to learn from in these rows.
    """
    data = copy.copy(shared.data)
    data.splits, data.report = dict(shared.data.splits), copy.deepcopy(shared.data.report)
    data.seed = run.seed
    data.check_trainable(run.loss, run.labels["loss"], run.labels["data"])
    prepared = Prepared(shared.tokenizer, data, shared.audit)
    head = HeadOnly(whole, run.seed)
    fingerprints = {"template": shared.audit.fingerprint, "data": data.fingerprint}
    module = HeadModule(head, run.loss, data, run.optim, settings(), batches, fingerprints)
    return module, prepared


def finish_head(
    fitted: Fitted,
    name: str,
    labels: dict[str, str],
    run: RunDirectory,
    loggers: list[Any],
    reporter: Reporter,
    exports: bool,
) -> dict[str, float]:
    """Log, calibrate, test and report a run whose head is trained; returns its metrics.

    Raises:
        TrainingFailed: its loss was not finite.
    """
    module, trainer, own = fitted.module, fitted.module.settings, fitted.run
    for note in fitted.notes:
        note_fallback(note)
    report_prepared(fitted.prepared, own.seed, run, reporter)
    run.count_in(fitted.seconds)
    run.update(
        **parameter_counts(fitted.whole, own.tune),
        layout=module.data.layout,
        features=fitted.kept,
        precision=trainer.resolved_precision(),
        strategy="single",
        devices=1,
        nodes=1,
        kinds=module.data.counts("train"),
        sampled=module.data.sampled(),
        total_steps=module.steps,
        training_seconds=fitted.training_seconds,
        pairs_per_second=_rate(module.seen["pairs"], fitted),
        responses_per_second=_rate(module.seen["responses"], fitted),
        shared_with=fitted.shared_with,
    )
    for logger in (JsonLines(run), *loggers):
        for step, values in module.lines:
            logger.log_metrics(values, step)
    if module.error is not None:
        raise module.error
    module.load_state_dict(module.best_state)
    run.update(steps=module.done)
    report_best_weights(module.best_step, trainer.monitor, module.best_value, run, reporter)

    def scored(split: str) -> dict[str, float]:
        score_heads([module], split)
        return module.metrics

    module.logs = False
    metrics = evaluate_splits(module, module.data, run, scored, known=False)
    logged = {key: value for key, value in metrics.items() if key.startswith("test/")}
    for logger in (JsonLines(run), *loggers):
        logger.log_metrics(logged, module.done)
    if trainer.keep != "none" or not exports:
        stored = {
            "state_dict": module.state_dict(),
            "global_step": module.best_step,
            "fingerprints": dict(module.fingerprints),
        }
        write_checkpoint(stored, run.path / "checkpoints" / "best.ckpt")
    # Of heads, plots would take most of the time: the sweep writes its best run's page at its end.
    reports = exports or bool(loggers)
    fitted.whole.score.load_state_dict(module.head.state_dict())
    return finalize_run(
        fitted.whole, module, fitted.prepared, own.model, name, labels, metrics, trainer.keep,
        run, reporter, exports, reports,
    )  # fmt: skip


def _rate(count: int, fitted: Fitted) -> float:
    return round(count / max(0.001, fitted.training_seconds), 3)
