"""task=evaluate: judge rewards, a trained model's or those in files, on rows and on suites."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt

from rmexp.analysis.report.eval_section import Shown
from rmexp.analysis.report.run_page import write_report
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, note_fallback
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.datamodule import ComparisonData
from rmexp.data.reader import RowReport, check_bad_rows
from rmexp.evaluation import calibration
from rmexp.evaluation.benchmark_dataset import SuiteData
from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.evaluation.eval_sets import EvaluationSet, OwnRows, SeveralSets, expand_sets
from rmexp.evaluation.external_rewards import (
    ExternalRewards,
    benchmark_rewards,
    read_external_rewards,
)
from rmexp.evaluation.metric_values import slow_metrics
from rmexp.inference.perturbation_sensitivity import chosen, probe_rewrites
from rmexp.inference.scorer import Scorer
from rmexp.losses import Loss
from rmexp.templates.template import Template
from rmexp.tracking.predictions import eval_set_tables
from rmexp.tracking.run_directory import JsonLines, RunDirectory, describe_environment
from rmexp.training.finish import score_split
from rmexp.training.lightning_module import RewardModule
from rmexp.training.setup import load_trained, prepare_data, report_warnings, seed_everything
from rmexp.training.trainer import TrainerSettings

Part = Literal["auto", "train", "val", "test", "all"]


Evaluation = EvaluationSet | SeveralSets | OwnRows


@dataclass
class Case:
    """A set that the model is to score: a split of some data, and the suite that it is."""

    name: str
    data: ComparisonData
    suite: EvaluationSet | None = None


def evaluate(
    checkpoint: str,
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    trainer: TrainerSettings,
    eval: Evaluation,
    loggers: list[Any],
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    trained_data: str | None,
    own_data: bool,
    name: str,
    rows: Part = "auto",
    probes: bool = True,
    probe_rows: Annotated[int, Gt(0)] = 100,
) -> dict[str, float]:
    """Score a split, all rows, or suites, and return their metrics; predictions go into the run.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from.
        eval: suites, or the rows of `data`; a suite with `scores` is judged by that file.
        trained_data: fingerprint of the data that the checkpoint's run was trained on.
        own_data: the command line says nothing about data: it is the run's own.
        name: of this run, the page's title.
        rows: which rows of `data`; `auto` is test for the run's own data and all for any other.
        probes: whether to score harmless rewrites too, and rows with their labels swapped.
        probe_rows: comparisons of each set that this is done with, from its start.

    Raises:
        UserError: the run's own data has changed, there are no such rows, or rows, files or the
            checkpoint cannot be used.
    """
    seed_everything(seed)
    home = Path(checkpoint).expanduser()
    scale = calibration.load_calibration(home)
    in_files = [_given_suite(one) for one in expand_sets(eval) if one.scores is not None]
    suites = [one for one in expand_sets(eval) if one.scores is None]
    cases = [Case(one.name, SuiteData(one, data), one) for one in suites] or [Case("", data)]
    first, *others = (case.data for case in cases)
    prepared = prepare_data(model, template, first, seed, run, reporter, others=others)
    if not suites:
        same = data.fingerprint == trained_data
        if own_data and trained_data is not None and not same:
            raise UserError(
                f"The data of {checkpoint} has changed since it was trained, and with it the test "
                "rows; name it (data=... data.path=...) to judge all its rows."
            )
        cases[0].name = rows if rows != "auto" else ("test" if same else "all")
        _check_part(data.splits, cases[0].name, len(data.rows))
    longest = max((case.data for case in cases), key=lambda found: found.longest())
    prepared = dataclasses.replace(prepared, data=longest)
    trained = load_trained(model, prepared, seed, run, reporter, trainer.device())
    fit = trainer.build(run, [JsonLines(run), *loggers], [])
    metrics: dict[str, float] = {}
    verdicts: list[str] = []
    shown: list[Shown] = []
    for case in cases:
        case.data.layout, case.data.places = longest.layout, longest.places
        module = RewardModule(trained, loss, case.data)
        values = _measured(case, module, fit, scale, home, run)
        temperature = scale.temperature if scale else None
        scored = module.scored(case.name)
        shown.append(Shown(case.name, scored, case.data.rows, temperature, checkpoint))
        verdicts += warn_of_set(case.name, values)
        if probes:
            trained.to(trainer.device())  # Lightning takes it down to the CPU when it is done
            scorer = Scorer(
                trained,
                case.data.own_tokenizer(prepared.tokenizer),
                case.data.layout,
                trainer.resolved_precision(),
                case.data.max_length,
                case.data.micro_batch_tokens,
            )
            more, bad = _probed(case, scorer, probe_rows)
            values, verdicts = values | more, verdicts + bad
        _log(fit.loggers, values)
        metrics |= values
    found, bad = _judged(in_files, fit.loggers, run)
    report_warnings(verdicts + bad, run, reporter)
    run.update(evaluated=str(checkpoint), peak_memory_gib=round(peak_memory_gib(), 2))
    metrics |= found
    shown += _shown(in_files)
    said = [line for case in cases for line in case.data.lines()]
    blocks = {"Data": said, "Template": prepared.audit.lines()}
    write_report(run, name, f"task=evaluate · {checkpoint}", shown, metrics, blocks)
    return metrics


def evaluate_rewards(
    eval: Evaluation,
    data: ComparisonData,
    loggers: list[Any],
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    name: str,
    rows: Part = "auto",
) -> dict[str, float]:
    """The same of rewards that somebody else computed: no model, tokenizer or template.

    Lengths are in characters then.

    Args:
        eval: suites, or the rows of `data`; all with `scores`.
        name: of this run, the page's title.
        rows: which rows of `data`; `auto` is all.

    Raises:
        UserError: rows or files cannot be used, or nothing in them joins.
    """
    sets = [_given_suite(one) for one in expand_sets(eval)]
    if isinstance(eval, OwnRows):
        assert eval.scores is not None, "`config.settled` sends only what has scores here"
        sets = [_given_rows(data, eval.scores, "all" if rows == "auto" else rows)]
    run.write_json("environment.json", describe_environment(seed=seed))
    for one in sets:
        reporter.say(f"{one.name}: {len(one.rows)} comparisons with rewards")
    metrics, verdicts = _judged(sets, [JsonLines(run), *loggers], run)
    report_warnings(verdicts, run, reporter)
    write_report(run, name, "task=evaluate · rewards in files", _shown(sets), metrics, {})
    return metrics


def _measured(
    case: Case,
    module: RewardModule,
    fit: Any,
    scale: calibration.Calibration | None,
    home: Path,
    run: RunDirectory,
) -> dict[str, float]:
    """Score a set and keep its predictions; every metric but those of rewrites."""
    name, data = case.name, case.data
    module.calibration, module.logs = scale, False
    if said := _without_loss(module.loss, data, name, home):
        note_fallback(said)
        module.judges_loss = False
    values = score_split(fit, module, data, name)
    values |= {f"{name}/{k}": v for k, v in slow_metrics(module.scored(name)).items()}
    run.write_predictions(name, eval_set_tables(data.rows, data.splits[name]), module.rewards)
    if case.suite is not None:
        rows = data.rows.select_columns(["id", "prompt_key", "subset", "levels"])
        rewards = [module.rewards[item] for item in range(len(rows))]
        values |= benchmark_rewards(case.suite, rows, rewards)
    return values


def _probed(case: Case, scorer: Scorer, count: int) -> tuple[dict[str, float], list[str]]:
    """`SET/sensitivity/...` of the set's first comparisons, and what is bad."""
    ids = case.data.rows.select(case.data.splits[case.name][:count])["id"][:]
    found = probe_rewrites(scorer, chosen(case.data.comparisons(RowReport()), ids))
    if found is None:
        note_fallback(f"{case.name}: no comparison can be rewritten and scored again.")
        return {}, []
    if found.lost:
        note_fallback(
            f"{case.name}: {found.lost} comparisons are too long once they are rewritten."
        )
    named = {f"{case.name}/sensitivity/{k}": value for k, value in found.metrics.items()}
    return named, [f"{case.name}: {sentence}" for sentence in found.verdicts]


def _given_suite(one: EvaluationSet) -> ExternalRewards:
    assert one.scores is not None
    return read_external_rewards(one.name, [(c, None) for c in one.read()[0]], one.scores, one)


def _given_rows(data: ComparisonData, scores: str, part: Part) -> ExternalRewards:
    """The rows of `data` that belong to a split, dealt out as for a model."""
    report, recipe = RowReport(), data.recipe
    found = list(data.comparisons(report))
    check_bad_rows(report, recipe.on_bad_row, recipe.max_bad_share)
    ones = [one for one, _ in found]
    splits, _ = data.dealing.deal(
        [one.prompt_key for one in ones],
        [one.split for one in ones],
        [one.subset for one in ones],
        [one.group for one in ones],
        report,
    )
    _check_part(splits, part, len(found))
    return read_external_rewards(part, [found[n] for n in splits[part]], scores)


def _judged(
    sets: Sequence[ExternalRewards], loggers: Sequence[Any], run: RunDirectory
) -> tuple[dict[str, float], list[str]]:
    """The metrics of sets whose rewards were given, and what is bad; predictions are kept."""
    metrics: dict[str, float] = {}
    verdicts: list[str] = []
    for one in sets:
        values = one.metrics()
        run.write_predictions(
            one.name, eval_set_tables(one.rows, range(len(one.rows))), one.rewards
        )
        verdicts += warn_of_set(one.name, values)
        _log(loggers, values)
        metrics |= values
    return metrics, verdicts


def _shown(sets: Sequence[ExternalRewards]) -> list[Shown]:
    return [
        Shown(one.name, one.scored, one.rows, source=one.source, unit="characters") for one in sets
    ]


def _check_part(splits: dict[str, np.ndarray], part: str, count: int) -> None:
    """Make `all` a split too, and refuse an empty one."""
    if part == "all":
        splits["all"] = np.arange(count)
    if not len(splits[part]):
        raise UserError(f"task.rows={part}: the data has no such rows.")


def _log(loggers: Sequence[Any], values: Mapping[str, float]) -> None:
    for logger in loggers:
        logger.log_metrics(dict(values), 0)


def _without_loss(loss: Loss, data: ComparisonData, split: str, home: Path) -> str | None:
    """Why the loss cannot be told, or None once it knows what the run learnt for it."""
    has = {kind for kind, count in data.counts(split).items() if count}
    if missing := loss.unmet(has):
        return f"The data has no {' and no '.join(missing)}: the loss is left out."
    if loss.state():
        if not (home / "loss.json").is_file():
            return f"{home} does not say what its loss learnt (loss.json): the loss is left out."
        saved = json.loads((home / "loss.json").read_text())
        if set(saved) != set(loss.state()):
            return f"{home} learnt for another loss (loss.json): the loss is left out."
        loss.take_state(saved)
    return None
