"""task=evaluate: evaluate rewards of a model, or of files, on rows and on benchmarks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt
from omegaconf import DictConfig

from rmexp.analysis.report.eval_section import Shown
from rmexp.analysis.report.run_page import write_report
from rmexp.config.compose import build
from rmexp.config.task_inputs import InputGroup
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.sources import check_source
from rmexp.evaluation.aggregate import Aggregate, Aggregation, LcbLambda
from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.evaluation.eval_cases import eval_cases
from rmexp.evaluation.eval_sets import (
    EvaluationSet,
    OwnRows,
    SeveralSets,
    expand_sets,
    named_scores,
)
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.uncertainty import uncertainty_ratio
from rmexp.policy.reward_sources import IMPLICIT, RewardSources, join_case, score_sources
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.predictions import eval_set_tables
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.model_scorer import ModelScorer, TrainedModel
from rmexp.training.setup import (
    prepare_data,
    report_warnings,
    seed_everything,
)

Part = Literal["auto", "train", "val", "test", "all"]


@dataclass
class Output(InputGroup):
    """Where results go; `name` is the title of the page."""

    run: RunDirectory
    loggers: list[Any]
    reporter: Reporter
    name: str


def evaluate(
    trained: TrainedModel | None,
    sources: RewardSources,
    data: ComparisonData,
    eval: EvaluationSet | SeveralSets | OwnRows,
    output: Output,
    seed: int,
    rows: Part,
    probes: bool,
    probe_rows: Annotated[int, Gt(0)],
    aggregate: Aggregate | None,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Evaluate rewards on a split, on all rows, or on benchmarks; predictions go into the run.

    Sets whose rewards come from `eval.scores` or from model=implicit are read without a tokenizer;
    their lengths are in characters.

    Args:
        trained: None without a checkpoint.
        sources: of the rewards of other sets.
        eval: benchmarks, or the rows of `data`.
        rows: which rows of `data`; `auto` is test for the run's own data and all for any other.
        probes: also let the model score harmless rewrites, and rows with swapped labels.
        probe_rows: number of comparisons of each set to probe, from its start.
        aggregate: several sources of rewards become one by it; None: their mean.
        lcb_lambda: of `lcb`.

    Raises:
        UserError: the run's own data has changed, there are no such rows, or rows, files or the
            checkpoint cannot be used.
    """
    run, reporter = output.run, output.reporter
    loggers = [JsonLines(run), *output.loggers]
    seed_everything(seed)
    cases = eval_cases(data, eval, Aggregation(aggregate or "mean", lcb_lambda))
    for case in cases:
        case.scores = score_sources(case.scores)
        if sources.implicit is not None and not case.scores:
            case.scores = [IMPLICIT]
    for_model = [case for case in cases if not case.scores]
    for case in cases:
        if case.scores:
            case.data.source.check()
            case.data.prepare(None, seed, reporter.count)
            reporter.say(*case.data.lines())
    if trained is None:
        known = "+".join(case.data.fingerprint for case in cases)
        run.write_json("environment.json", describe_environment(seed=seed, data_fingerprint=known))
    else:
        first, *others = (case.data for case in for_model)
        prepared = prepare_data(
            trained.model, trained.template, first, seed, run, reporter, others=others
        )
    if isinstance(eval, OwnRows):
        cases[0].name = _split_of(rows, data, trained)
    for case in cases:
        if case.scores:
            join_case(case, sources, reporter.count)
            what = "rewards" if case.verdicts is None else "verdicts"
            reporter.say(f"{case.name}: {len(case.indices)} comparisons with {what}")
    if trained is not None:
        everything = [case.data for case in for_model]
        scorer = ModelScorer(trained, prepared, everything, run, reporter, seed)
    metrics: dict[str, float] = {}
    warnings: list[str] = []
    shown: list[Shown] = []
    for case in cases:
        by_model = not case.scores
        values = scorer.score(case) if by_model else {}
        indices = case.indices
        scored = case.scored()
        if not by_model:
            values = {f"{case.name}/{k}": v for k, v in compute_metrics(scored).items()}
        values |= case.slow_metrics(scored)
        if trained is not None:
            values |= uncertainty_ratio(case.name, values, trained.trained_metrics)
        if case.verdicts is None:
            tables = eval_set_tables(case.data.rows, indices)
            run.write_predictions(case.name, tables, case.rewards, case.outputs)
        warnings += warn_of_set(case.name, values)
        if by_model and probes:
            more, bad = scorer.probe(case, probe_rows)
            values, warnings = values | more, warnings + bad
        for logger in loggers:
            logger.log_metrics(dict(values), 0)
        metrics |= values
        shown.append(
            Shown(case.name, scored, case.data.rows, scorer.temperature, scorer.trained.checkpoint)
            if by_model
            else Shown(
                case.name, scored, case.data.rows, None, _source(case.scores, sources), "characters"
            )
        )
    report_warnings(warnings, run, reporter)
    blocks = {"Data": [line for case in cases for line in case.data.lines()]}
    if trained is not None:
        run.update(evaluated=trained.checkpoint, peak_memory_gib=round(peak_memory_gib(), 2))
        blocks["Template"] = prepared.audit.lines()
    source = shown[0].source if trained is None else trained.checkpoint
    write_report(run, output.name, f"task=evaluate · {source}", shown, metrics, blocks)
    return metrics


def _source(scores: Sequence[str], sources: RewardSources) -> str:
    names = {IMPLICIT: sources.implicit.name} if sources.implicit is not None else {}
    return ", ".join(names.get(one, one) for one in scores)


def _split_of(part: Part, data: ComparisonData, trained: TrainedModel | None) -> str:
    """The split of `data` to evaluate.

    Raises:
        UserError: the run's own data has changed, or the split is empty.
    """
    known = None if trained is None else trained.trained_data
    same = data.fingerprint == known
    if trained is not None and trained.own_data and known is not None and not same:
        raise UserError(
            f"The data of {trained.checkpoint} has changed since it was trained, and with it the "
            "test rows; name it (data=... data.path=...) to evaluate all its rows."
        )
    split = part if part != "auto" else ("test" if same else "all")
    if split == "all":
        data.splits["all"] = np.arange(len(data.rows))
    if split == "test":
        data.test_on_val()
    if not len(data.splits[split]):
        raise UserError(f"task.rows={split}: the data has no such rows.")
    return split


def check_evaluate(config: DictConfig) -> None:
    """Check that evaluation sets exist, and what gives their rewards."""
    evaluation = build(config.eval)
    for one in expand_sets(evaluation):
        check_source(one.path, "eval.path")
    for one in expand_sets(evaluation) or [evaluation]:
        score_sources(named_scores(one))
