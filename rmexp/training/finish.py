"""The end of a run: best weights, calibration, test, export and report."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from rmexp.analysis.report.eval_section import Shown
from rmexp.analysis.report.run_page import write_report
from rmexp.core.console import Reporter
from rmexp.core.process_memory import peak_memory_gib, trim_heap
from rmexp.data.datamodule import ComparisonData
from rmexp.evaluation import calibration
from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.inference.export import export
from rmexp.models.pretrained import RunCheckpoint
from rmexp.models.reward_model import compute_rewards
from rmexp.tracking.predictions import EvalSetTables, eval_set_tables
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.lightning_module import RewardModule
from rmexp.training.setup import Prepared, card_facts, open_model, report_warnings

VERIFICATION_ROWS = 8
"""Responses on which an export is proved."""


def _put_together(model: Any, tune: Any, fit: Any, prepared: Prepared, seed: int) -> Any:
    """The whole model with the best weights, where each process has a part of it alone."""
    best = fit.checkpoint_callback.best_model_path
    return open_model(RunCheckpoint(model, best, tune, model.layout), prepared, seed, "cpu")


def finalize_run(
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
        trim_heap()
        reward_model.cpu()
        texts, values = verification_responses(reward_model, data)
        facts = card_facts(name, source, labels, prepared, loss, metrics)
        home = run.path / "export"
        export(reward_model, prepared.tokenizer, texts, values, facts, home, module.calibration)
        reporter.say(f"export: proved on {len(texts)} responses, alone and padded on either side")
    said = module.calibration.note if module.calibration else None
    report_warnings([*([said] if said else []), *warn_of_set("test", metrics)], run, reporter)
    run.update(peak_memory_gib=round(peak_memory_gib(), 2))
    if reports:
        write_run_report(run, name, labels, prepared, scored, module.calibration, metrics)
    remove_checkpoints(run.path, keep if exports or keep == "resume" else "weights")
    return metrics


def write_run_report(
    run: RunDirectory,
    name: str,
    labels: Mapping[str, str],
    prepared: Prepared,
    scored: ScoredSet,
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
    report_best_weights(
        int(stored["global_step"]), best.monitor, float(best.best_model_score), run, reporter
    )
    return int(stored["global_step"])


def report_best_weights(
    step: int, monitor: str, value: float, run: RunDirectory, reporter: Reporter
) -> None:
    """Say and record which weights were selected, and by what."""
    reporter.say(f"best weights: step {step}, {monitor} {value:.4f}")
    run.update(best_step=step, monitor=monitor, best_score=value)


def evaluate_splits(
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
    module.calibration = calibration.fit_calibration(
        s.rewards_N, s.ratings_N, s.gaps_P, s.weights_P
    )
    run.write_json(calibration.CALIBRATION_FILE, module.calibration.to_dict())
    metrics = module.evaluation("val")
    run.write_predictions("val", _told(data, "val"), module.rewards)
    if data.splits["test"] is data.splits["val"]:
        metrics |= {f"test/{name.removeprefix('val/')}": v for name, v in metrics.items()}
    else:
        metrics |= score("test")
    run.write_predictions("test", _told(data, "test"), module.rewards)
    return metrics


def _told(data: ComparisonData, split: str) -> EvalSetTables:
    return _told_of(data.rows, tuple(data.splits[split].tolist()))


@functools.lru_cache(2)  # the jobs of a sweep mostly have the same val and test
def _told_of(rows: Any, indices: tuple[int, ...]) -> EvalSetTables:
    return eval_set_tables(rows, indices)


def score_split(
    fit: Any, module: RewardModule, data: ComparisonData, split: str
) -> dict[str, float]:
    """The metrics of one split under the module's weights; its rewards stay in `module.rewards`."""
    module.split = split
    fit.test(module, dataloaders=data.evaluation_dataloader(split), verbose=False)
    return module.metrics


@torch.no_grad()
def verification_responses(model: Any, data: ComparisonData) -> tuple[list[str], list[float]]:
    """A few rendered responses of val and their rewards by our own path, in fp32."""
    model.float().eval()
    device = next(model.parameters()).device
    indices = data.splits["val"][:VERIFICATION_ROWS]
    rows = [{**data.rows[int(index)], "row": int(index)} for index in indices]
    texts, values = [], []
    for row in rows:
        batch = data.collate()([row]).batches[0].to(device)
        values += compute_rewards(model, batch).tolist()
        texts += row["texts"]
    step = max(1, len(texts) // VERIFICATION_ROWS)
    return texts[::step][:VERIFICATION_ROWS], values[::step][:VERIFICATION_ROWS]


def remove_checkpoints(run: Path, keep: str) -> None:
    """Once a run is done, optimizer states go, and the best weights if only the export stays."""
    folder = run / "checkpoints"
    for litter in folder.glob(".writing-*"):  # of a kill
        litter.unlink()
    if keep != "resume":
        (folder / "last.ckpt").unlink(missing_ok=True)
    if keep == "none":
        (folder / "best.ckpt").unlink(missing_ok=True)
