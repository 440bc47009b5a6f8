"""Scoring of evaluation sets with a trained model, and its sensitivity to rewrites."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.comparison import Comparison, pairs_from_ratings
from rmexp.config.task_inputs import InputGroup
from rmexp.core.console import Reporter
from rmexp.core.errors import note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.row_source import RowSource
from rmexp.evaluation import calibration
from rmexp.evaluation.eval_cases import EvalCase
from rmexp.inference.perturbations import probe_rewrites
from rmexp.inference.scorer import Scorer
from rmexp.losses import Loss
from rmexp.models.heads import HeadSettings
from rmexp.models.reward_model import last_layer
from rmexp.templates.template import Template
from rmexp.tracking.run_directory import RunDirectory
from rmexp.training.finish import score_split
from rmexp.training.lightning_module import RewardModule
from rmexp.training.setup import Prepared, load_trained
from rmexp.training.trainer import TrainerSettings


@dataclass
class TrainedModel(InputGroup):
    """The model to evaluate, as a task's input.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from.
        trained_data: fingerprint of the data that the checkpoint's run was trained on.
        trained_metrics: of the checkpoint's run.
        own_data: no key of `data` is on the command line, so the data is the run's own.
    """

    checkpoint: str
    model: Any
    template: Template
    loss: Loss
    head: HeadSettings
    trainer: TrainerSettings
    trained_data: str | None
    trained_metrics: Mapping[str, float]
    own_data: bool


class ModelScorer:
    """Scores the rows of cases with a trained model, whose layout suits the longest of them."""

    def __init__(
        self,
        trained: TrainedModel,
        prepared: Prepared,
        everything: Sequence[ComparisonData],
        run: RunDirectory,
        reporter: Reporter,
        seed: int,
    ) -> None:
        self.trained, self.tokenizer = trained, prepared.tokenizer
        self.home = Path(trained.checkpoint).expanduser()
        self.calibration = calibration.load_calibration(self.home)
        longest = max(everything, key=lambda data: data.longest())
        prepared = dataclasses.replace(prepared, data=longest)
        where = trained.trainer.device(), trained.trainer.resolved_precision()
        self.model, self.layout = load_trained(trained.model, prepared, seed, run, reporter, *where)
        self.fit = trained.trainer.build(run, [], [])

    @property
    def temperature(self) -> float | None:
        """Of the run's calibration."""
        return self.calibration.temperature if self.calibration else None

    def score(self, case: EvalCase) -> dict[str, float]:
        """Score the rows of a case; returns the metrics that validations have too."""
        names = last_layer(self.model).names
        loss = self.trained.head.trained_losses(self.trained.loss, names, case.data)
        module = RewardModule(self.model, loss, case.data, self.layout)
        module.calibration, module.logs = self.calibration, False
        if reason := _without_loss(module.loss, case.data, case.name, self.home):
            note_fallback(reason)
            module.computes_loss = False
        values = score_split(self.fit, module, case.data, case.name)
        case.rewards, case.outputs = module.rewards, module.outputs
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
        saved = json.loads((home / "loss.json").read_bytes())
        if set(saved) != set(loss.state()):
            return f"{home} learnt for another loss (loss.json): the loss is left out."
        loss.take_state(saved)
    return None
