"""task=merge: the mean of the weights of several runs, as a run of its own."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from annotated_types import Ge
from omegaconf import DictConfig

from rmexp.analysis.compare.comparison_report import compare_found
from rmexp.analysis.compare.runs import MERGED, finished_run
from rmexp.analysis.report.compare_output import print_comparison
from rmexp.config.task_inputs import InputGroup
from rmexp.config.trust import Trust
from rmexp.core.console import Reporter, relative_path
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.aggregate import Aggregates, Aggregation, LcbLambda
from rmexp.inference.checkpoint import member_config
from rmexp.losses import Loss
from rmexp.models.heads import HeadSettings
from rmexp.models.reward_model import last_layer
from rmexp.runner.finalize import JUDGED_BY
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.finish import RunParts, conclude_run, score_split
from rmexp.training.lightning_module import RewardModule
from rmexp.training.merging import (
    Member,
    check_members,
    find_members,
    merge_loss,
    merged_weights,
    shares,
)
from rmexp.training.setup import load_model, prepare_data, seed_everything
from rmexp.training.trainer import TrainerSettings


@dataclass
class MergedInto(InputGroup):
    """Where the merged run goes, and what it is called."""

    run: RunDirectory
    loggers: list[Any]
    reporter: Reporter
    name: str
    labels: dict[str, str]


def merge_runs(
    runs: str | list[str],
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    head: HeadSettings,
    trainer: TrainerSettings,
    into: MergedInto,
    trust: Trust,
    seed: int,
    setting: str | list[str] | None,
    weights: list[Annotated[float, Ge(0)]] | None,
    aggregate: Aggregates,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Average the weights, calibrate on val, test, export, report, and compare with the members.

    Args:
        runs: two runs or more, or a sweep.
        model: the base model of all of them; template, data, loss, head: those of the first run.
        setting: words that tell a setting of the sweep.
        weights: of the runs; None: all alike.
        aggregate: the ensembles to compare with; None: their mean.
        lcb_lambda: of the ensemble `lcb`.

    Raises:
        UserError: the runs do not share what the mean of their weights needs.
    """
    run, reporter = into.run, into.reporter
    seed_everything(seed)
    members = find_members(runs, setting, trust)
    of_each = shares(members, weights)
    check = functools.partial(
        head.check_trainable, data, loss, into.labels["loss"], into.labels["data"]
    )
    prepared = prepare_data(model, template, data, seed, run, reporter, check)
    reporter.say(
        f"merging {len(members)} runs:",
        *(f"  {share:.3g} x {one.run.name}" for one, share in zip(members, of_each, strict=True)),
    )
    source = merged_weights(model, members, of_each)
    network, layout = load_model(source, prepared, seed, run, reporter, trainer.device())
    run.update(**{MERGED: [str(one.home) for one in members], "merge_weights": of_each})
    loss = head.trained_losses(loss, last_layer(network).names, data)
    module = RewardModule(network, loss, data, layout)
    module.computes_loss = merge_loss(loss, members, of_each)
    fit = trainer.build(run, [JsonLines(run), *into.loggers], [])
    score = functools.partial(score_split, fit, module, data)
    score("val")
    parts = RunParts(
        run, reporter, model, prepared, into.name, into.labels, trainer.keep,
        exports=True, learns_weights=head.learns_weights,
    )  # fmt: skip
    metrics = conclude_run(parts, module, score, lambda: network)
    run.update(metrics=metrics)
    _compare(members, Aggregation.of_each(aggregate or "mean", lcb_lambda), into)
    return metrics


def _compare(members: list[Member], ensembles: list[Aggregation], into: MergedInto) -> None:
    """Compare the merged run with its members and their ensembles, into `comparison/`."""
    run, reporter = into.run, into.reporter
    metric = next((m for m in JUDGED_BY if f"test/{m}" in run.result["metrics"]), "loss")
    beside = [finished_run(run.path, run.result), *(one.run for one in members)]
    reporter.say("")
    try:
        found = compare_found(beside, [], "test", metric, "all", ensembles)
    except UserError as error:
        reporter.say(f"not compared with the runs: {error}")
        return
    folder = run.path / "comparison"
    folder.mkdir(exist_ok=True)
    given = [str(one.path) for one in beside]
    print_comparison(found, given, into.name, folder, reporter)
    run.update(comparison=[verdict.sentence() for verdict in found.verdicts])
    reporter.say("", f"beside  {relative_path(folder / 'report.html')}")


def complete_merge_runs(
    config: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration, completed by that of the first run, and facts about it."""
    members = find_members(config.runs, config.task.setting, Trust.of(config))
    own_data = not any(word.split(".")[0].split("=")[0] == "data" for word in overrides)
    check_members(members, own_data)
    shares(members, config.task.weights)
    first = members[0]
    labels = {group: one for group, one in first.run.labels.items() if one != "linear"}
    return member_config(config, first.config, overrides), {"labels": labels}
