"""The end of a run: best weights, calibration, test, verified export, report, clean-up.

The same for a run by itself (`tasks.train`), for heads that trained together (`multi_head_runs`)
and for the best run of a sweep, which is reported and exported once the sweep has ended.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf

from rmexp.config.compose import build
from rmexp.config.trust import Trust
from rmexp.core import distributed
from rmexp.core.console import Reporter
from rmexp.core.process_memory import peak_memory_gib, trim_heap
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation import calibration
from rmexp.evaluation.attributes import attribute_calibrations, weight_lines
from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.evaluation.scored_set import ScoredSet, eval_labels
from rmexp.inference.checkpoint import find_weights, saved_config
from rmexp.losses import Loss
from rmexp.tracking.predictions import (
    EvalSetTables,
    eval_set_tables,
    read_outputs,
    read_predictions,
)
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.attribute_outputs import attribute_outputs
from rmexp.training.lightning_module import RewardModule
from rmexp.training.setup import Prepared, open_model, prepare, report_warnings
from rmexp.training.verified_export import export_facts, export_verified


@dataclass(frozen=True)
class RunParts:
    """What the end of a run needs besides the trained module.

    Attributes:
        run: its directory.
        source: where the model came from.
        labels: the chosen option of loss, data and model, for tables and the card.
        keep: what stays in `checkpoints/`, see `TrainerSettings`.
        exports: write `export/`.
        reports: write `report.html`.
        learns_weights: see `HeadSettings`.
    """

    run: RunDirectory
    reporter: Reporter
    source: Any
    prepared: Prepared
    name: str
    labels: Mapping[str, str]
    keep: str
    exports: bool
    reports: bool = True
    learns_weights: bool = False


@dataclass(frozen=True)
class BestWeights:
    """The weights that val selected: `RewardModule.state_dict`, step, and the metric's value."""

    state: Mapping[str, Any]
    step: int
    monitor: str
    value: float

    @classmethod
    def of(cls, checkpoint: Any) -> "BestWeights":
        stored = torch.load(
            checkpoint.best_model_path, map_location="cpu", weights_only=True, mmap=True
        )
        step, value = int(stored["global_step"]), float(checkpoint.best_model_score)
        return cls(stored["state_dict"], step, checkpoint.monitor, value)


def finish_run(
    parts: RunParts,
    module: RewardModule,
    best: BestWeights,
    score: Callable[[str], dict[str, float]],
    network: Callable[[], Any],
) -> dict[str, float]:
    """Load the best weights, and conclude the run; on every rank.

    Args: see `conclude_run`.

    Returns:
        The metrics of val and test.
    """
    run, reporter = parts.run, parts.reporter
    module.load_state_dict(best.state)
    reporter.say(f"best weights: step {best.step}, {best.monitor} {best.value:.4f}")
    run.update(best_step=best.step, monitor=best.monitor, best_score=best.value)
    if module.validated_at != best.step:  # else these weights scored val last
        module.logs = False  # val was logged when these weights were new
        score("val")
        module.logs = True
    return conclude_run(parts, module, score, network)


def conclude_run(
    parts: RunParts,
    module: RewardModule,
    score: Callable[[str], dict[str, float]],
    network: Callable[[], Any],
) -> dict[str, float]:
    """Calibrate on val, which was scored last, test, export, report and tidy.

    Args:
        score: computes the metrics of a split with the module's weights, and logs them if
            `module.logs`.
        network: returns the whole reward model with the best weights; on rank 0 alone.

    Returns:
        The metrics of val and test.
    """
    run, reporter, loss = parts.run, parts.reporter, module.loss
    metrics = _calibrate_and_test(parts, module, score)
    if not distributed.is_rank_zero():
        return metrics
    scored, scale = module.scored("test"), module.calibration
    if state := loss.state():
        run.write_json("loss.json", state)
    warnings = [*([scale.note] if scale and scale.note else []), *warn_of_set("test", metrics)]
    if parts.exports:
        trim_heap()
        facts = export_facts(
            parts.name, parts.source, parts.labels, parts.prepared, loss, metrics, warnings
        )
        layout = dataclasses.replace(module.layout, activations=None)
        whole, home = network().cpu(), run.path / "export"
        count = export_verified(whole, layout, parts.prepared, facts, home, scale)
        reporter.say(f"export: verified on {count} responses, alone and padded on either side")
    report_warnings(warnings, run, reporter)
    run.update(peak_memory_gib=round(peak_memory_gib(), 2))
    if parts.reports:
        write_run_report(run, parts.name, parts.labels, parts.prepared, scored, scale, metrics)
    needs_weights = not parts.exports and parts.keep == "none"  # the sweep may export them
    remove_checkpoints(run.path, "weights" if needs_weights else parts.keep)
    return metrics


def _calibrate_and_test(
    parts: RunParts, module: RewardModule, score: Callable[[str], dict[str, float]]
) -> dict[str, float]:
    """Calibrate on val, which was scored last, score test, and write the predictions of both.

    The calibrated metrics of val are those of the pairs that the temperature was fitted on.
    """
    data, run, split = parts.prepared.data, parts.run, "val"
    attributes = attribute_outputs(module)
    if attributes is not None and parts.learns_weights:
        attributes.learn_weights()
    s = module.scored("val")
    scale = calibration.fit_calibration(s.rewards_N, s.ratings_N, s.gaps_P, s.weights_P)
    if s.outputs_N_K is not None:
        scale = dataclasses.replace(
            scale,
            outputs=module.loss.output_lines(s.outputs_N_K),
            attributes=attribute_calibrations(module.attribute_sets("val")),
        )
    module.calibration = scale
    run.write_json(calibration.CALIBRATION_FILE, module.calibration.to_dict())
    metrics = module.evaluation("val")
    run.write_predictions("val", _split_tables(data, "val"), module.rewards, module.outputs)
    if data.splits["test"] is data.splits["val"]:
        metrics |= {f"test/{name.removeprefix('val/')}": v for name, v in metrics.items()}
    else:
        metrics |= score("test")
        split = "test"
    run.write_predictions("test", _split_tables(data, "test"), module.rewards, module.outputs)
    if attributes is not None:
        parts.reporter.say(*weight_lines(attributes.record(split, run)))
    return metrics


def _split_tables(data: ComparisonData, split: str) -> EvalSetTables:
    return _tables(data.rows, tuple(data.splits[split].tolist()))


@functools.lru_cache(2)  # most jobs of a sweep have the same val and test
def _tables(rows: Any, indices: tuple[int, ...]) -> EvalSetTables:
    return eval_set_tables(rows, indices)


def score_split(
    fit: Any, module: RewardModule, data: ComparisonData, split: str
) -> dict[str, float]:
    """The metrics of one split under the module's weights; its rewards stay in `module.rewards`."""
    module.split = split
    fit.test(module, dataloaders=data.eval_loader(split, module.layout), verbose=False)
    return module.metrics


def write_run_report(
    run: RunDirectory,
    name: str,
    labels: Mapping[str, str],
    prepared: Prepared,
    scored: ScoredSet,
    scale: calibration.Calibration | None,
    metrics: Mapping[str, float],
) -> None:
    """Write report.html, which shows the test rows."""
    from rmexp.analysis.report.eval_section import Shown  # matplotlib
    from rmexp.analysis.report.run_page import write_report

    temperature = None if scale is None else scale.temperature
    write_report(
        run,
        name,
        " · ".join(labels.values()),
        [Shown("test", scored, prepared.data.rows, temperature)],
        metrics,
        {"Data": prepared.data.lines(), "Template": prepared.audit.lines()},
    )


def remove_checkpoints(run: Path, keep: str) -> None:
    """Remove what a finished run need not keep: optimizer states, and the weights of an export."""
    folder = run / "checkpoints"
    for unfinished in folder.glob(".writing-*"):  # of a killed process
        unfinished.unlink()
    if keep != "resume":
        (folder / "last.ckpt").unlink(missing_ok=True)
    if keep == "none":
        (folder / "best.ckpt").unlink(missing_ok=True)


# ----------------------------------------------------------- from a run's files
def _reopen(home: Path, trust: Trust) -> tuple[Any, RunDirectory, Prepared, Loss]:
    """Configuration, directory, data and loss of a run that is done, for its report or export."""
    config, run = saved_config(home, trust), RunDirectory.reopen(home)
    parts = ("model", "template", "data", "loss", "head")
    source, template, data, loss, head = (build(config[part]) for part in parts)
    prepared = prepare(source, template, data, config.seed, Reporter(quiet=True))
    labels = run.result["labels"]
    head.check_trainable(data, loss, labels["loss"], labels["data"])
    return config, run, prepared, loss


def report_saved_run(home: Path, trust: Trust) -> None:
    """Write report.html of a run that is done, from its cached rows and its predictions."""
    _, run, prepared, _ = _reopen(home, trust)
    file = home / "predictions" / "test.parquet"
    known = read_predictions(file)
    data, facts = prepared.data, run.result
    test = data.splits["test"]
    rows = list(zip(test.tolist(), data.rows.select(test), strict=True))
    responses = {n: [(row["id"], k) for k in range(len(row["texts"]))] for n, row in rows}
    rewards = {n: [known[one] for one in of_row] for n, of_row in responses.items()}
    outputs = read_outputs(file, responses)
    scored = eval_labels(data.rows, test).with_rewards(rewards, outputs)
    scale = calibration.load_calibration(home)
    write_run_report(run, facts["name"], facts["labels"], prepared, scored, scale, facts["metrics"])


def export_saved_run(home: Path, trust: Trust) -> None:
    """Export a run that is done, from its best checkpoint into its own directory.

    Raises:
        UserError: there is no checkpoint, or plain Hugging Face loading gives other rewards.
    """
    config, run, prepared, loss = _reopen(home, trust)
    remote_code = bool(config.model.get("trust_remote_code", False))
    node = find_weights(home, config, config.model.layout, remote_code)
    source = build(OmegaConf.create(node))
    network, layout = open_model(source, prepared, config.seed, "cpu")
    known = run.result
    facts = export_facts(
        known["name"], source, known["labels"], prepared, loss, known["metrics"], known["verdicts"]
    )
    scale = calibration.load_calibration(home)
    export_verified(network, layout, prepared, facts, home / "export", scale)
