"""task=evaluate: score rows with a trained reward model, without training it."""

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rmexp.data import ComparisonData
from rmexp.errors import UserError, fallback
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
    trained_data: str | None,
    own_data: bool,
    rows: Literal["auto", "train", "val", "test", "all"] = "auto",
) -> dict[str, float]:
    """Score a split, or all rows, and return its metrics; predictions go into the run directory.

    Args:
        checkpoint: the run or Hugging Face directory that `model` loads from, for messages.
        trained_data: fingerprint of the data that the checkpoint's run was trained on.
        own_data: the command line says nothing about data: it is the run's own.
        rows: which rows; `auto` is test for the run's own data and all for any other.

    Raises:
        UserError: the run's own data has changed, or there are no such rows.
    """
    seed_everything(seed)
    prepared = prepare_data(model, template, data, seed, run, reporter)
    same_data = data.fingerprint == trained_data
    if own_data and trained_data is not None and not same_data:
        raise UserError(
            f"The data of {checkpoint} has changed since it was trained, and with it the test "
            "rows; name it (data=... data.path=...) to judge all its rows."
        )
    split = rows if rows != "auto" else ("test" if same_data else "all")
    if split == "all":
        data.splits["all"] = np.arange(len(data.rows))
    if not len(data.splits[split]):
        raise UserError(f"task.rows={split}: the data has no such rows.")
    trained = load_trained(model, prepared, seed, run, reporter, trainer.device())
    module = RewardModule(trained, loss, data)
    if said := _without_loss(loss, data, split, Path(checkpoint).expanduser()):
        fallback(said)
        module.judges_loss = False
    fit = trainer.build(run, [JsonLines(run), *loggers], [])
    metrics = score_split(fit, module, data, split)
    run.write_predictions(split, data.rows, data.splits[split], module.rewards)
    run.update(evaluated=str(checkpoint), peak_memory_gib=round(peak_memory_gib(), 2))
    return metrics


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
