"""task=train: data -> model -> training -> best weights -> test -> export -> report."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rmexp import calibration, ranks
from rmexp.config import suggest
from rmexp.data import ComparisonData
from rmexp.errors import UserError
from rmexp.export import export
from rmexp.frozen import passed_by, recall
from rmexp.loading import Trained
from rmexp.losses import Loss
from rmexp.memory import give_back, peak_memory_gib
from rmexp.metrics import evaluate
from rmexp.model import rewards
from rmexp.module import RewardModule
from rmexp.opened import Opened
from rmexp.optim import AdamW
from rmexp.predictions import Told, told
from rmexp.progress import Reporter, TrainingProgress
from rmexp.report.page import write_report
from rmexp.report.sets import Shown
from rmexp.scored import Scored, judged
from rmexp.tasks.setup import (
    Prepared,
    card_facts,
    check_disk,
    load_model,
    open_model,
    prepare_data,
    say_verdicts,
    seed_everything,
)
from rmexp.templates import Template
from rmexp.tracking import JsonLines, RunDirectory
from rmexp.training import TrainerSettings
from rmexp.verdicts import of_set

PROOF_ROWS = 8
"""Responses on which an export is proved."""


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
    opened: Opened,
) -> dict[str, float]:
    """Train, select, calibrate, test, export and report; returns the metrics of val and test.

    Args:
        model: where the model comes from (`Pretrained`, `Tiny`).
        tune: which part of the model trains, see `tuning`.
        loggers: mirrors of `metrics.jsonl`.
        labels: the chosen option of each group, for tables and the card.
        resume: the run directory to go on in, or None.
        exports: write `export/`; a sweep does that for its best run alone, at its end.
        opened: what this process knows of the model.
    """
    seed_everything(seed)
    check = functools.partial(data.check_trainable, loss, labels["loss"], labels["data"])
    with ranks.one_ahead():  # rows are tokenised once, and weights converted
        prepared = prepare_data(model, template, data, seed, run, reporter, check)
    trainer = with_monitor(trainer, data)
    device = trainer.device()
    reward_model = load_model(model, prepared, seed, run, reporter, device, tune, opened)
    if not reward_model.fresh_head:
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
        strategy=trainer.strategy if ranks.count() > 1 else "single",
        devices=trainer.resolved_devices(),
        nodes=trainer.num_nodes,
    )
    kept = recall(reward_model, data, precision, tune.cache_gib, reporter.count, opened.proved)
    if kept is not None:
        run.update(features=kept.facts)
        reporter.say(kept.line())
    give_back()
    started = time.monotonic()
    with passed_by(reward_model, data, kept):
        module = RewardModule(reward_model, loss, data, optim, steps, fingerprints)
        module.train()  # a pretrained model comes in eval mode
        progress = TrainingProgress(reporter)
        if ranks.rank():  # dropout is not to be the same in all processes
            torch.manual_seed(seed + (ranks.rank() << 32))
        logs = [JsonLines(run), *loggers] if ranks.first() else []
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
        give_back()
        step = _take_best(fit, module, run, reporter)
        metrics = judge(
            module,
            data,
            run,
            lambda split: score_split(fit, module, data, split),
            known=module.validated_at == step,  # then these weights scored val last
        )
    if not ranks.first():
        return metrics
    if module.sharded:
        reward_model = _put_together(model, tune, fit, prepared, seed)
    return conclude(
        reward_model, module, prepared, model, name, labels, metrics, trainer.keep,
        run, reporter, exports,
    )  # fmt: skip


def _put_together(model: Any, tune: Any, fit: Any, prepared: Prepared, seed: int) -> Any:
    """The whole model with the best weights, where each process has a part of it alone."""
    best = fit.checkpoint_callback.best_model_path
    return open_model(Trained(model, best, tune, model.layout), prepared, seed, "cpu")


def conclude(
    reward_model: Any,
    module: RewardModule,
    prepared: Prepared,
    source: Any,
    name: str,
    labels: dict[str, str],
    metrics: dict[str, float],
    keep: str,
    run: RunDirectory,
    reporter: Reporter,
    exports: bool,
    reports: bool = True,
) -> dict[str, float]:
    """What a run ends with once it is judged: what its loss learnt, export, verdicts, report."""
    data, loss = prepared.data, module.loss
    scored = module.scored("test")
    if state := loss.state():
        run.write_json("loss.json", state)
    if exports:
        give_back()
        reward_model.cpu()
        texts, values = proof(reward_model, data)
        facts = card_facts(name, source, labels, prepared, loss, metrics)
        home = run.path / "export"
        export(reward_model, prepared.tokenizer, texts, values, facts, home, module.calibration)
        reporter.say(f"export: proved on {len(texts)} responses, alone and padded on either side")
    said = module.calibration.note if module.calibration else None
    say_verdicts([*([said] if said else []), *of_set("test", metrics)], run, reporter)
    run.update(peak_memory_gib=round(peak_memory_gib(), 2))
    if reports:
        report(run, name, labels, prepared, scored, module.calibration, metrics)
    tidy(run.path, keep if exports or keep == "resume" else "weights")
    return metrics


def report(
    run: RunDirectory,
    name: str,
    labels: Mapping[str, str],
    prepared: Prepared,
    scored: Scored,
    scale: calibration.Calibration | None,
    metrics: Mapping[str, float],
) -> None:
    """Write a run's report.html, which shows the test rows."""
    temperature = None if scale is None else scale.temperature
    write_report(
        run,
        name,
        " · ".join(labels.values()),
        [Shown("test", scored, prepared.data.rows, temperature)],
        metrics,
        {"Data": prepared.data.lines(), "Template": prepared.audit.lines()},
    )


def _take_best(fit: Any, module: RewardModule, run: RunDirectory, reporter: Reporter) -> int:
    """Take the weights that val selected; returns the step that they are of."""
    best = fit.checkpoint_callback
    stored = torch.load(best.best_model_path, map_location="cpu", weights_only=True, mmap=True)
    module.load_state_dict(stored["state_dict"])
    say_best(int(stored["global_step"]), best.monitor, float(best.best_model_score), run, reporter)
    return int(stored["global_step"])


def say_best(step: int, monitor: str, value: float, run: RunDirectory, reporter: Reporter) -> None:
    """Say and record which weights were selected, and by what."""
    reporter.say(f"best weights: step {step}, {monitor} {value:.4f}")
    run.update(best_step=step, monitor=monitor, best_score=value)


def judge(
    module: RewardModule,
    data: ComparisonData,
    run: RunDirectory,
    score: Callable[[str], dict[str, float]],
    known: bool,
) -> dict[str, float]:
    """Score val and test, and keep the predictions of both.

    What val teaches of the reward's scale is kept too, and test is judged with it; val's own
    calibrated metrics are on the pairs that the temperature was fitted on.

    Args:
        score: split -> its metrics; its rewards stay in `module.rewards`.
        known: val was scored last, by these weights.
    """
    if not known:
        module.logs = False  # val was logged when these weights were new
        score("val")
        module.logs = True
    s = module.scored("val")
    module.calibration = calibration.fit(s.rewards_N, s.ratings_N, s.gaps_P, s.weights_P)
    run.write_json(calibration.FILE, module.calibration.to_dict())
    metrics = module.evaluation("val")
    run.write_predictions("val", _told(data, "val"), module.rewards)
    if data.splits["test"] is data.splits["val"]:
        metrics |= {f"test/{name.removeprefix('val/')}": v for name, v in metrics.items()}
    else:
        metrics |= score("test")
    run.write_predictions("test", _told(data, "test"), module.rewards)
    return metrics


def _told(data: ComparisonData, split: str) -> Told:
    return _told_of(data.rows, tuple(data.splits[split].tolist()))


@functools.lru_cache(2)  # the jobs of a sweep mostly have the same val and test
def _told_of(rows: Any, indices: tuple[int, ...]) -> Told:
    return told(rows, indices)


def score_split(
    fit: Any, module: RewardModule, data: ComparisonData, split: str
) -> dict[str, float]:
    """The metrics of one split under the module's weights; its rewards stay in `module.rewards`."""
    module.split = split
    fit.test(module, dataloaders=data.evaluation_dataloader(split), verbose=False)
    return module.metrics


@torch.no_grad()
def proof(model: Any, data: ComparisonData) -> tuple[list[str], list[float]]:
    """A few rendered responses of val and their rewards by our own path, in fp32."""
    model.float().eval()
    device = next(model.parameters()).device
    indices = data.splits["val"][:PROOF_ROWS]
    rows = [{**data.rows[int(index)], "row": int(index)} for index in indices]
    texts, values = [], []
    for row in rows:
        batch = data.collate()([row]).batches[0].to(device)
        values += rewards(model, batch).tolist()
        texts += row["texts"]
    step = max(1, len(texts) // PROOF_ROWS)
    return texts[::step][:PROOF_ROWS], values[::step][:PROOF_ROWS]


def with_monitor(trainer: TrainerSettings, data: ComparisonData) -> TrainerSettings:
    """The settings with `auto` settled: accuracy where val has pairs, else what its ratings allow.

    Raises:
        UserError: what is to be watched is not what a validation of these rows will measure.
    """
    val = data.splits["val"]
    rng = np.random.default_rng(0)
    rewards = {
        int(row): rng.random(len(ratings)).tolist()
        for row, ratings in zip(val, data.rows.select(val)["ratings"], strict=True)
    }
    tried = evaluate(judged(data.rows, val).with_rewards(rewards))
    known = ["loss", *(name for name, value in tried.items() if value == value)]
    if trainer.monitor == "auto":
        best = next(name for name in ("accuracy", "spearman", "loss") if name in known)
        return dataclasses.replace(trainer, monitor=f"val/{best}")
    if trainer.monitor.removeprefix("val/") not in known:
        close = suggest(trainer.monitor, [f"val/{name}" for name in known])
        subsets = sorted(name for name in known if "/" in name)
        raise UserError(
            f"trainer.monitor={trainer.monitor}: these validation rows do not have it{close}"
            + (f"; of subsets they have {', '.join(subsets)}." if subsets else ".")
        )
    return trainer


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


def tidy(run: Path, keep: str) -> None:
    """Once a run is done, optimizer states go, and the best weights if only the export stays."""
    folder = run / "checkpoints"
    for litter in folder.glob(".writing-*"):  # of a kill
        litter.unlink()
    if keep != "resume":
        (folder / "last.ckpt").unlink(missing_ok=True)
    if keep == "none":
        (folder / "best.ckpt").unlink(missing_ok=True)
