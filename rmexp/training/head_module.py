"""One reward head on cached activations, among others that train at the same time."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.batching.collate import BatchLayout
from rmexp.batching.step_loader import IndexedRows
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.metrics import lower_is_better
from rmexp.losses.base import Loss
from rmexp.models.heads import HeadSettings
from rmexp.models.reward_head import RewardHead, draw_head
from rmexp.models.reward_model import head_layers
from rmexp.training.callbacks import validation_steps
from rmexp.training.lightning_module import RewardModule, TrainingFailed
from rmexp.training.optim import AdamW
from rmexp.training.trainer import TrainerSettings

CACHED_SPLITS = 2
"""Collated evaluation splits that stay in memory: val and test."""

CACHED_ROWS = 65536
"""Rows that stay in memory: each head reads them in its own order."""


class HeadOnly(nn.Module):
    """Reward heads without the model below them; parameters have the names of the whole model."""

    base_model_prefix = "below"

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.below = nn.Identity()
        self.score = RewardHead(inputs, outputs, bias=bias)


def copy_head(model: Any, seed: int, head: HeadSettings) -> HeadOnly:
    """The head of a model that has one output, with the outputs of `head`.

    A fresh head is initialised from `seed`.
    """
    alone = HeadOnly(model.score.in_features, 1, model.score.bias is not None)
    alone.score.facts = model.score.facts
    if alone.score.facts.fresh_head:
        draw_head(alone.score, seed)
    else:
        alone.score.load_state_dict(model.score.state_dict())
    head.install(alone, seed)
    return alone


def head_is_linear(model: Any) -> bool:
    """Whether the head is one linear layer of one token's hidden state."""
    return head_layers(model) is not None and isinstance(getattr(model, "score", None), RewardHead)


class CachedBatches:
    """Micro-batches of cached activations (`layout` has them) for all heads."""

    def __init__(self, data: ComparisonData, layout: BatchLayout, device: str) -> None:
        self.data, self.layout, self.device = data, layout, device
        self._indexed = IndexedRows(data.rows)
        self.split = functools.lru_cache(CACHED_SPLITS)(self.collate)
        self._row = functools.lru_cache(CACHED_ROWS)(self._read)

    def collate(self, rows: tuple[int, ...]) -> Batch:
        """The micro-batch of these rows; `split` keeps the last ones."""
        (batch,) = self.data.collate(self.layout)([self._row(row) for row in rows]).batches
        return batch.to(self.device)

    def _read(self, index: int) -> dict[str, Any]:
        row = self._indexed[index]
        # Lists of Python integers would take most of the memory.
        return row | {"tokens": [np.array(ids, dtype=np.int32) for ids in row["tokens"]]}


class HeadModule(RewardModule):
    """The `RewardModule` of one head: its progress, log, best weights and early stopping.

    The `monitor` of its settings is resolved; all heads share the `batches`.

    Attributes:
        bank: the `multi_head.HeadBank` that trains it.
        lines: what it logged, with the step.
    """

    bank: Any

    def __init__(
        self,
        model: HeadOnly,
        loss: Loss,
        data: ComparisonData,
        optim: AdamW,
        settings: TrainerSettings,
        batches: CachedBatches,
        fingerprints: dict[str, str],
    ) -> None:
        plan = data.plan()
        steps = settings.steps(len(plan))
        super().__init__(model, loss, data, batches.layout, optim, steps, fingerprints)
        self.to(batches.device)
        self.settings, self.plan, self.batches = settings, plan, batches
        self.due = validation_steps(self.steps, settings.validations)
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.run_loggers: Sequence[Any] = ()  # a run's loggers open after training
        self.done = self.best_step = 0
        self.best_value = float("nan")
        self.best_state: dict[str, Tensor] = {}
        self.error: Exception | None = None
        self._waited = 0
        self._order: list[list[int]] = []

    @property
    def global_step(self) -> int:
        return self.done

    @property
    def is_training(self) -> bool:
        """Whether it has steps left, and neither failed nor stopped early."""
        waits = self.settings.patience is None or self._waited < self.settings.patience
        return self.error is None and waits and self.done < self.steps

    def next_rows(self) -> tuple[int, ...]:
        epoch, position = divmod(self.done, len(self.plan))
        if position == 0:
            self._order = list(self.plan.steps(epoch))
        return tuple(int(row) for row in self._order[position])

    def count_step(self, sums: Sequence[float], norm: float, batch: Batch) -> None:
        """Check and log a step; a head whose loss or gradient is not finite has failed."""
        try:
            values = self.check_step([*sums, norm], len(batch.better_P), len(batch.items_N))
        except TrainingFailed as error:
            self.error = error
            return
        self.done += 1
        self._log(values)

    def _log(self, values: Mapping[str, float]) -> None:
        self.lines.append((self.done, dict(values)))
        for logger in self.run_loggers:
            logger.log_metrics(dict(values), self.done)

    def open_log(self, loggers: Sequence[Any]) -> None:
        """Log to a run's loggers, first of all what was logged before."""
        self.run_loggers = loggers
        for step, values in self.lines:
            for logger in loggers:
                logger.log_metrics(values, step)

    def take_scored(self, split: str, batch: Batch, outputs_N_K: Tensor) -> None:
        """Compute the metrics of a split; at a validation, keep the weights if they are best."""
        self.on_validation_epoch_start()
        self.add_scored(batch, outputs_N_K)
        validates = self.logs and split == "val"
        self.metrics = self.evaluation(split, intervals=split != "val")
        if self.logs:
            self._log(self.metrics)
        if not validates:
            return
        value, lower = self.metrics[self.settings.monitor], lower_is_better(self.settings.monitor)
        if not self.best_state or (value < self.best_value if lower else value > self.best_value):
            self.best_value, self.best_step, self._waited = value, self.done, 0
            self.best_state = {k: v.detach().clone() for k, v in self.state_dict().items()}
        else:
            self._waited += 1
