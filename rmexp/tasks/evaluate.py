"""task=evaluate: evaluate rewards of a model, or of files, on rows and on benchmarks."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Gt

from rmexp.analysis.report.eval_section import Shown
from rmexp.analysis.report.run_page import write_report
from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.config.task_inputs import InputGroup
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, note_fallback
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.row_source import RowSource
from rmexp.evaluation import calibration
from rmexp.evaluation.bias_warnings import warn_of_set
from rmexp.evaluation.eval_cases import EvalCase, eval_cases
from rmexp.evaluation.eval_sets import EvaluationSet, OwnRows, SeveralSets
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.scored_set import eval_labels
from rmexp.inference.perturbation_sensitivity import probe_rewrites
from rmexp.inference.scorer import Scorer
from rmexp.losses import Loss
from rmexp.templates.template import Template
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.predictions import eval_set_tables
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.finish import score_split
from rmexp.training.lightning_module import RewardModule
from rmexp.training.setup import (
    Prepared,
    load_trained,
    prepare_data,
    report_warnings,
    seed_everything,
)
from rmexp.training.trainer import TrainerSettings

Part = Literal["auto", "train", "val", "test", "all"]


@dataclass
class TrainedModel(InputGroup):
    """The model to evaluate.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from.
        trained_data: fingerprint of the data that the checkpoint's run was trained on.
        own_data: no key of `data` is on the command line, so the data is the run's own.
    """

    checkpoint: str
    model: Any
    template: Template
    loss: Loss
    trainer: TrainerSettings
    trained_data: str | None
    own_data: bool


@dataclass
class Output(InputGroup):
    """Where results go; `name` is the title of the page."""

    run: RunDirectory
    loggers: list[Any]
    reporter: Reporter
    name: str


def evaluate(
    trained: TrainedModel | None,
    data: ComparisonData,
    eval: EvaluationSet | SeveralSets | OwnRows,
    output: Output,
    seed: int,
    rows: Part,
    probes: bool,
    probe_rows: Annotated[int, Gt(0)],
) -> dict[str, float]:
    """Evaluate rewards on a split, on all rows, or on benchmarks; predictions go into the run.

    Sets whose rewards come from a file need no tokenizer; their lengths are in characters.

    Args:
        trained: None if the rewards of all sets come from files.
        eval: benchmarks, or the rows of `data`.
        rows: which rows of `data`; `auto` is test for the run's own data and all for any other.
        probes: also let the model score harmless rewrites, and rows with swapped labels.
        probe_rows: number of comparisons of each set to probe, from its start.

    Raises:
        UserError: the run's own data has changed, there are no such rows, or rows, files or the
            checkpoint cannot be used.
    """
    run, reporter = output.run, output.reporter
    loggers = [JsonLines(run), *output.loggers]
    seed_everything(seed)
    cases = eval_cases(data, eval)
    for_model = [case for case in cases if case.scores is None]
    for case in cases:
        if case.scores is not None:
            case.data.source.check()
            case.data.prepare(None, seed, reporter.count)
            reporter.say(*case.data.lines())
    if trained is None:
        run.write_json("environment.json", describe_environment(seed=seed))
    else:
        first, *others = (case.data for case in for_model)
        prepared = prepare_data(
            trained.model, trained.template, first, seed, run, reporter, others=others
        )
    if isinstance(eval, OwnRows):
        cases[0].name = _split_of(rows, data, trained)
    for case in cases:
        if case.scores is not None:
            case.join()
            reporter.say(f"{case.name}: {len(case.rewards)} comparisons with rewards")
    if trained is not None:
        everything = [case.data for case in for_model]
        scorer = _ModelScorer(trained, prepared, everything, output, loggers, seed)
    metrics: dict[str, float] = {}
    warnings: list[str] = []
    shown: list[Shown] = []
    for case in cases:
        by_model = case.scores is None
        values = scorer.score(case) if by_model else {}
        indices = case.indices
        scored = eval_labels(case.data.rows, indices).with_rewards(case.rewards)
        if not by_model:
            values = {f"{case.name}/{k}": v for k, v in compute_metrics(scored).items()}
        values |= case.slow_metrics(scored)
        run.write_predictions(case.name, eval_set_tables(case.data.rows, indices), case.rewards)
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
            else Shown(case.name, scored, case.data.rows, None, case.scores, "characters")
        )
    report_warnings(warnings, run, reporter)
    blocks = {"Data": [line for case in cases for line in case.data.lines()]}
    if trained is not None:
        run.update(evaluated=trained.checkpoint, peak_memory_gib=round(peak_memory_gib(), 2))
        blocks["Template"] = prepared.audit.lines()
    source = "rewards in files" if trained is None else trained.checkpoint
    write_report(run, output.name, f"task=evaluate · {source}", shown, metrics, blocks)
    return metrics


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


class _ModelScorer:
    """Scores the rows of cases with a trained model, whose layout suits the longest of them."""

    def __init__(
        self,
        trained: TrainedModel,
        prepared: Prepared,
        everything: Sequence[ComparisonData],
        output: Output,
        loggers: list[Any],
        seed: int,
    ) -> None:
        self.trained, self.tokenizer, run = trained, prepared.tokenizer, output.run
        self.home = Path(trained.checkpoint).expanduser()
        self.calibration = calibration.load_calibration(self.home)
        longest = max(everything, key=lambda data: data.longest())
        prepared = dataclasses.replace(prepared, data=longest)
        device = trained.trainer.device()
        self.model, self.layout = load_trained(
            trained.model, prepared, seed, run, output.reporter, device
        )
        self.fit = trained.trainer.build(run, loggers, [])

    @property
    def temperature(self) -> float | None:
        """Of the run's calibration."""
        return self.calibration.temperature if self.calibration else None

    def score(self, case: EvalCase) -> dict[str, float]:
        """Score the rows of a case; returns the metrics that validations have too."""
        module = RewardModule(self.model, self.trained.loss, case.data, self.layout)
        module.calibration, module.logs = self.calibration, False
        if reason := _without_loss(module.loss, case.data, case.name, self.home):
            note_fallback(reason)
            module.computes_loss = False
        values = score_split(self.fit, module, case.data, case.name)
        case.rewards = module.rewards
        return values

    def probe(self, case: EvalCase, count: int) -> tuple[dict[str, float], list[str]]:
        """`SET/sensitivity/...` of the first comparisons of a case, and warnings."""
        self.model.to(self.trained.trainer.device())  # Lightning moves it to the CPU after scoring
        data = case.data
        ids = set(data.rows.select(data.splits[case.name][:count])["id"])
        groups: dict[RowSource | None, tuple[Scorer, list[Comparison]]] = {}
        for one, source in data.source.comparisons() if ids else ():
            if one.id not in ids:
                continue
            ids.remove(one.id)
            key = source if source.templates else None
            if key not in groups:  # sources with a template of their own are rendered by it
                scorer = Scorer(
                    self.model,
                    source.own_tokenizer(self.tokenizer),
                    self.layout.layout,
                    self.trained.trainer.resolved_precision(),
                    data.source.max_length,
                    data.batching.micro_batch_tokens,
                )
                groups[key] = (scorer, [])
            gap = source.spec.min_rating_gap
            groups[key][1].append(one if gap is None else pairs_from_ratings(one, gap))
            if not ids:
                break
        found = probe_rewrites(list(groups.values()))
        if found is None:
            note_fallback(f"{case.name}: no comparison can be rewritten and scored again.")
            return {}, []
        if found.lost:
            note_fallback(
                f"{case.name}: {found.lost} comparisons are too long once they are rewritten."
            )
        metrics = {f"{case.name}/sensitivity/{k}": value for k, value in found.metrics.items()}
        return metrics, [f"{case.name}: {sentence}" for sentence in found.verdicts]


def _without_loss(loss: Loss, data: ComparisonData, split: str, home: Path) -> str | None:
    """Why the loss cannot be computed; None once it has the state that the run saved for it."""
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
