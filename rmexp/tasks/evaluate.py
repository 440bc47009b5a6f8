"""task=evaluate: score rows with a trained reward model, without training it."""

from typing import Any, Literal

import numpy as np

from rmexp.data import ComparisonData
from rmexp.errors import UserError
from rmexp.losses import Loss
from rmexp.module import RewardModule
from rmexp.progress import Reporter
from rmexp.tasks.setup import load_trained, prepare_data, seed_everything
from rmexp.tasks.train import score_split
from rmexp.templates import Template
from rmexp.tracking import JsonLines, RunDirectory, peak_memory_gib
from rmexp.training import TrainerSettings


def evaluate(
    checkpoint: str,
    model: Any,
    template: Template,
    data: ComparisonData,
    loss: Loss,
    trainer: TrainerSettings,
    loggers: list[Any],
    run: RunDirectory,
    reporter: Reporter,
    seed: int,
    same_data: bool,
    rows: Literal["auto", "train", "val", "test", "all"] = "auto",
) -> dict[str, float]:
    """Score a split, or all rows, and return its metrics; predictions go into the run directory.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from, for messages.
        same_data: the data is that which the checkpoint's run was trained on.
        rows: which rows; `auto` is test for the run's own data and all for any other.
    """
    seed_everything(seed)
    prepared = prepare_data(model, template, data, seed, run, reporter)
    split = rows if rows != "auto" else ("test" if same_data else "all")
    if split == "all":
        everything = np.sort(np.concatenate(list(data.splits.values())))
        data.splits["all"] = everything
    if not len(data.splits[split]):
        raise UserError(f"task.rows={split}: the data has no such rows.")
    module = RewardModule(load_trained(model, prepared, seed, run, reporter), loss, data)
    fit = trainer.build(run, [JsonLines(run), *loggers], [])
    metrics = score_split(fit, module, data, split)
    run.write_predictions(split, data.rows, data.splits[split], module.rewards)
    run.update(evaluated=str(checkpoint), peak_memory_gib=round(peak_memory_gib(), 2))
    return metrics
