"""Rewards of training rows by reward heads that did not train on them (cross-validation).

The heads train side by side on cached activations, as those of a sweep with tune=head do.
"""

from typing import Any

import numpy as np
from omegaconf import OmegaConf

from rmexp.config.compose import build, option_values
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.calibration import fit_temperature
from rmexp.evaluation.scored_set import EvalLabels
from rmexp.templates.template import Template
from rmexp.training.multi_head import score_heads
from rmexp.training.multi_head_runs import HeadRun, TrainedHead, fit_heads
from rmexp.training.optim import AdamW
from rmexp.training.trainer import TrainerSettings


def partitions(prompts_C: np.ndarray, folds: int, repeats: int, seed: int) -> np.ndarray:
    """(repeats, C) the fold of each row, 0 to `folds` - 1; rows of one prompt share it."""
    count = int(prompts_C.max()) + 1
    rngs = [np.random.default_rng([seed, number]) for number in range(repeats)]
    return np.stack([rng.permutation(np.arange(count) % folds)[prompts_C] for rng in rngs])


def out_of_fold_logits(
    source: Any,
    template: Template,
    data: ComparisonData,
    labels: EvalLabels,
    folds: int,
    repeats: int,
    optim: AdamW,
    trainer: TrainerSettings,
    seed: int,
    reporter: Reporter,
) -> np.ndarray:
    """(repeats, P) gaps over the temperature of heads that did not train on the pair's prompt.

    Each repeat partitions the rows anew, and trains a Bradley-Terry head for each fold on the
    others. Val selects weights and fits temperatures, as in a run.

    Args:
        source: of the model.
        data: prepared; only its training rows train.
        labels: of the training rows.

    Raises:
        UserError: there are fewer prompts than folds, a head cannot train, or heads cannot be
            trained apart from this model.
    """
    prompts = len(np.unique(labels.prompts_C))
    if prompts < folds:
        raise UserError(
            f"task.folds={folds}: the training rows with pairs have {prompts} prompts, which are "
            "not split: use fewer folds."
        )
    parts = partitions(labels.prompts_C, folds, repeats, seed)
    held_out = [labels.items_C[part == fold] for part in parts for fold in range(folds)]
    runs = [_head_run(rows, number, optim, seed) for number, rows in enumerate(held_out)]
    tune = _option("tune/head")
    heads = fit_heads(runs, reporter, source, template, data, tune, trainer)
    if not heads:
        raise UserError(
            "task.folds trains reward heads on cached activations, which this model does not "
            "allow: train runs on other splits (-m data.split_seed=0,1,2,3) and name them as "
            "task.runs."
        )
    logits = np.full((repeats, len(labels.rows_N)), np.nan)
    starts_C = np.searchsorted(labels.rows_N, np.arange(len(labels.items_C)))
    start_of = dict(zip(labels.items_C.tolist(), starts_C.tolist(), strict=True))
    for number, head in enumerate(heads):
        for row, rewards in _rewards(head).items():
            start = start_of[row]
            logits[number // folds, start : start + len(rewards)] = rewards
    return logits[:, labels.better_P] - logits[:, labels.worse_P]


def _head_run(held_out: np.ndarray, number: int, optim: AdamW, seed: int) -> HeadRun:
    return HeadRun(
        loss=_option("loss/bradley_terry"),
        head=_option("head/linear"),
        optim=optim,
        seed=seed,
        labels={"loss": "bradley_terry", "data": "these rows"},
        directory=f"fold {number}",
        held_out=held_out,
    )


def _option(name: str) -> Any:
    return build(OmegaConf.create(option_values(name)))


def _rewards(head: TrainedHead | UserError) -> dict[int, np.ndarray]:
    """Row of its fold -> the rewards of its responses, over the head's temperature."""
    if isinstance(head, UserError):
        raise head
    module = head.module
    if module.error is not None:
        raise module.error
    module.load_state_dict(module.best_state)
    module.logs = False
    score_heads([module], "val")
    val = module.scored("val")
    temperature, _ = fit_temperature(val.gaps_P, val.weights_P)
    score_heads([module], "test")
    return {row: np.array(rewards) / temperature for row, rewards in module.rewards.items()}
