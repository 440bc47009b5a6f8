"""Runs with tune=head that train together, from their parts to the end of each run.

They share the model, the tokenised data and the cached activations; each has its own run directory,
loggers and order of comparisons.
"""

import copy
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.losses import Loss
from rmexp.models.heads import HeadSettings
from rmexp.models.reward_head import replace_head
from rmexp.models.reward_model import model_facts
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.callbacks import write_checkpoint
from rmexp.training.finish import BestWeights, RunParts, finish_run
from rmexp.training.frozen_activations import load_or_compute
from rmexp.training.head_module import CachedBatches, HeadModule, copy_head, head_is_linear
from rmexp.training.monitor import resolve_monitor
from rmexp.training.multi_head import score_heads, train_heads
from rmexp.training.optim import AdamW
from rmexp.training.setup import (
    Prepared,
    open_model,
    parameter_counts,
    prepare,
    report_prepared,
    seed_everything,
    training_facts,
)
from rmexp.training.trainer import TrainerSettings


@dataclass
class HeadRun:
    """The parts that a run does not share.

    Args:
        directory: its name in the sweep.
        held_out: training rows that it tests on in place of the test rows; None: none.
    """

    loss: Loss
    head: HeadSettings
    optim: AdamW
    seed: int
    labels: dict[str, str]
    directory: str
    held_out: np.ndarray | None = None


@dataclass
class TrainedHead:
    """A run whose head is trained.

    Attributes:
        module: with its best weights and its log.
        network: the model that the runs share, which `source` loaded.
        facts: for `result.json`.
        seconds, training_seconds: its share of the time for everything, and for training.
        notes: fallbacks of all runs, and its own.
    """

    run: HeadRun
    module: HeadModule
    prepared: Prepared
    source: Any
    network: Any
    facts: dict[str, Any]
    seconds: float = 0.0
    training_seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def finish(
        self,
        name: str,
        labels: dict[str, str],
        run: RunDirectory,
        loggers: list[Any],
        reporter: Reporter,
        exports: bool,
    ) -> dict[str, float]:
        """Log and finish a run whose head is trained; returns its metrics.

        Raises:
            TrainingFailed: loss or gradient were not finite.
        """
        module, settings = self.module, self.module.settings
        for note in self.notes:
            note_fallback(note)
        report_prepared(self.prepared, self.run.seed, run, reporter)
        run.count_in(self.seconds)
        seconds = max(0.001, self.training_seconds)
        run.update(
            **self.facts,
            **training_facts(settings, module.data, module.steps),
            training_seconds=self.training_seconds,
            pairs_per_second=round(module.seen["pairs"] / seconds, 3),
            responses_per_second=round(module.seen["responses"] / seconds, 3),
            steps=module.done,
        )
        module.open_log([JsonLines(run), *loggers])
        if module.error is not None:
            raise module.error
        best = BestWeights(module.best_state, module.best_step, settings.monitor, module.best_value)
        if settings.keep != "none" or not exports:
            stored = {"state_dict": best.state, "global_step": best.step}
            stored["fingerprints"] = dict(module.fingerprints)
            write_checkpoint(stored, run.path / "checkpoints" / "best.ckpt")

        def score(split: str) -> dict[str, float]:
            score_heads([module], split)
            return module.metrics

        def whole() -> Any:
            best: Any = copy.deepcopy(module.model.score)
            network = self.network
            if model_facts(network).rounded:
                network = self.source.load_model(self.prepared.tokenizer, self.run.seed)
            replace_head(network, best)
            return network

        # Plots would take most of the time: the sweep writes the page of its best run.
        parts = RunParts(
            run, reporter, self.source, self.prepared, name, labels, settings.keep,
            exports, reports=exports, learns_weights=self.run.head.learns_weights,
        )  # fmt: skip
        return finish_run(parts, module, best, score, whole)


def fit_heads(
    runs: Sequence[HeadRun],
    reporter: Reporter,
    source: Any,
    template: Template,
    data: ComparisonData,
    tune: Any,
    trainer: TrainerSettings,
) -> list[TrainedHead | UserError]:
    """Train the heads of several runs that differ only in loss, seed and optimizer.

    Returns:
        The outcome of each run; an empty list if these heads cannot be trained apart from their
        model, or have different models. Each run then trains by itself.
    """
    started, seed = time.monotonic(), runs[0].seed
    seed_everything(seed)
    tune.check(source)
    shared = prepare(source, template, data, seed, reporter)
    device, precision = trainer.device(), trainer.resolved_precision()
    network, layout = open_model(source, shared, seed, device, tune, precision=precision)
    # If the seed initialises frozen weights too, each run has its own model.
    one_model = model_facts(network).only_head_drawn or len({run.seed for run in runs}) == 1
    if not (one_model and head_is_linear(network)):
        return []
    cached = load_or_compute(network, data, layout, precision, tune.cache_gib, reporter.count)
    if cached is None or not cached.features.pooled:
        return []
    layout = dataclasses.replace(layout, activations=cached.features)
    batches = CachedBatches(data, layout, device)
    settings = functools.cache(lambda: resolve_monitor(trainer, data))
    facts = parameter_counts(network, tune) | {"layout": layout.layout, "features": cached.facts}
    labels: dict[tuple[bytes, ...], dict[str, EvalLabels]] = {}
    found: list[TrainedHead | UserError] = []
    for run in runs:
        notes: list[str] = []
        others = [other.directory for other in runs if other is not run]
        try:
            with collect_fallbacks(notes.append):
                module, prepared = _begin(run, shared, network, settings, batches)
        except UserError as error:
            found.append(error)
            continue
        splits = (module.data.splits[name].tobytes() for name in ("val", "test"))
        module.labels = labels.setdefault(tuple(splits), module.labels)
        own = facts | {"shared_with": others}
        found.append(TrainedHead(run, module, prepared, source, network, own, notes=notes))
    trained = [one for one in found if isinstance(one, TrainedHead)]
    if trained:
        reporter.say(cached.line(), f"{len(trained)} heads train side by side")
        began = time.monotonic()
        train_heads([one.module for one in trained])
        ended = time.monotonic()
        for one in trained:
            one.seconds = round((ended - started) / len(trained), 2)
            one.training_seconds = round((ended - began) / len(trained), 3)
    return found


def _begin(
    run: HeadRun,
    shared: Prepared,
    network: Any,
    settings: Callable[[], TrainerSettings],
    batches: CachedBatches,
) -> tuple[HeadModule, Prepared]:
    """The module of a run, with its own selection and order of comparisons."""
    data = shared.data.with_seed(run.seed)
    if run.held_out is not None:
        data.hold_out(run.held_out)
    run.head.check_trainable(data, run.loss, run.labels["loss"], run.labels["data"])
    fingerprints = {"template": shared.audit.fingerprint, "data": data.fingerprint}
    head, loss = copy_head(network, run.seed, run.head), run.head.losses(run.loss, data, run.seed)
    module = HeadModule(head, loss, data, run.optim, settings(), batches, fingerprints)
    return module, Prepared(shared.tokenizer, data, shared.audit)
