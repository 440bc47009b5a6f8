"""Reward heads on the same cached activations, trained side by side.

With tune=head a run trains one linear map of hidden states that never change. Heads whose runs have
the same optimizer settings are the rows of one linear layer with one optimizer; heads that see the
same comparisons in a step share its product. Each head has its own loss, order of comparisons,
validations and early stopping, and learns what its run would learn alone, to float tolerance.

Lightning's loop trains one module on one sequence of batches; here each head has its own, so that
the loop is ours and the step, its checks and the metrics are those of `RewardModule`.

Shapes: N responses of a micro-batch, H heads, D hidden size.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.batching.collate import Batch, BatchLayout
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.metrics import lower_is_better
from rmexp.losses.base import Loss
from rmexp.models.reward_model import RewardHead, draw_head, head_layers
from rmexp.training.callbacks import validation_steps
from rmexp.training.lightning_module import RewardModule, TrainingFailed
from rmexp.training.optim import AdamW
from rmexp.training.step_terms import normalise_terms, step_sums
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


def copy_head(model: Any, seed: int) -> HeadOnly:
    """The model's head; a fresh head is drawn anew by `seed`."""
    alone = HeadOnly(model.score.in_features, 1, model.score.bias is not None)
    if model.score.facts.fresh_head:
        draw_head(alone.score, seed)
    else:
        alone.score.load_state_dict(model.score.state_dict())
    return alone


def head_is_linear(model: Any) -> bool:
    """Whether the head is one linear layer of one token's hidden state."""
    return head_layers(model) is not None and isinstance(getattr(model, "score", None), RewardHead)


class CachedBatches:
    """Micro-batches of cached activations for all heads.

    Args:
        data: the rows.
        layout: has the activations.
        device: of the heads.
    """

    def __init__(self, data: ComparisonData, layout: BatchLayout, device: str) -> None:
        self.data, self.layout, self.device = data, layout, device
        self.split = functools.lru_cache(CACHED_SPLITS)(self.collate)
        self._row = functools.lru_cache(CACHED_ROWS)(self._read)

    def collate(self, rows: tuple[int, ...]) -> Batch:
        """The micro-batch of these rows; `split` keeps the last ones."""
        (batch,) = self.data.collate(self.layout)([self._row(row) for row in rows]).batches
        return batch.to(self.device)

    def _read(self, index: int) -> dict[str, Any]:
        row = {**self.data.rows[index], "row": index}
        del row["texts"]
        # Lists of Python integers would take most of the memory.
        return row | {"tokens": [np.array(ids, dtype=np.int32) for ids in row["tokens"]]}


class HeadModule(RewardModule):
    """The `RewardModule` of one head: its progress, log, best weights and early stopping.

    Args:
        model: one head.
        loss, data, optim, fingerprints: see `RewardModule`.
        settings: of the trainer; `monitor` is resolved.
        batches: shared by all heads.

    Attributes:
        bank: the heads that share its optimizer; set by `HeadBank`.
        lines: what it logged, with the step.
    """

    bank: "HeadBank"

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
        """Number of updates so far."""
        return self.done

    @property
    def is_training(self) -> bool:
        """Whether it has steps left, and neither failed nor stopped early."""
        waits = self.settings.patience is None or self._waited < self.settings.patience
        return self.error is None and waits and self.done < self.steps

    def next_rows(self) -> tuple[int, ...]:
        """The rows of the next step."""
        epoch, position = divmod(self.done, len(self.plan))
        if position == 0:
            self._order = list(self.plan.steps(epoch))
        return tuple(int(row) for row in self._order[position])

    def count_step(self, sums: Sequence[float], norm: float, batch: Batch) -> None:
        """Check and log a step; a head whose loss or gradient is not finite has failed."""
        try:
            values = self.check_and_log_step([*sums, norm], len(batch.better_P), len(batch.items_N))
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

    def take_scored(self, split: str, batch: Batch, rewards_N: Tensor) -> None:
        """Compute the metrics of a split; at a validation, keep the weights if they are best."""
        self.on_validation_epoch_start()
        self.add_scored(batch, rewards_N)
        validates = self.logs and split == "val"
        self.metrics = self.evaluation(split, intervals=not validates)
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


class HeadBank:
    """Heads with the same optimizer settings: one linear layer of width H with one optimizer.

    Each head's module has a view of its row. A head that stopped or failed stays in the layer: its
    gradient is zero from then on, and its best weights are kept elsewhere.
    """

    def __init__(self, modules: Sequence[HeadModule]) -> None:
        heads: list[Any] = [module.model.score for module in modules]
        model = HeadOnly(heads[0].in_features, len(heads), heads[0].bias is not None)
        self.layer = model.to(heads[0].weight.device).score
        self.row = {module: row for row, module in enumerate(modules)}
        for name, parameter in self.layer.named_parameters():
            parameter.data.copy_(torch.cat([getattr(head, name).data for head in heads]))
            for row, head in enumerate(heads):
                getattr(head, name).data = parameter.data[row : row + 1]
        losses = nn.ModuleList(module.loss for module in modules)
        optim: Any = modules[0].optim
        self.optimizer, self.schedule = optim.build(model, losses, modules[0].steps)
        for module in modules:
            module.bank, module.schedule = self, self.schedule

    def clip(self) -> list[float]:
        """Clip each head's gradients, with its loss's; returns the norms before, by row."""
        parameters: list[Any] = list(self.layer.parameters())
        owned = [
            (row, grad)
            for module, row in self.row.items()
            for grad in (
                *(parameter.grad[row] for parameter in parameters),
                *(parameter.grad for parameter in module.loss.parameters()),
            )
            if grad is not None
        ]
        rows, gradients = [row for row, _ in owned], [grad for _, grad in owned]
        squares = torch.stack(torch._foreach_norm(gradients)).square()
        row_G = torch.tensor(rows, device=squares.device)
        norms_H = squares.new_zeros(len(self.row)).index_add(0, row_G, squares).sqrt().tolist()
        scales_H = [min(1.0, next(iter(self.row)).clip_limit / (norm + 1e-6)) for norm in norms_H]
        torch._foreach_mul_(gradients, [scales_H[row] for row in rows])
        return norms_H

    def step(self) -> None:
        """Update all heads."""
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()


def make_banks(modules: Sequence[HeadModule]) -> list[HeadBank]:
    """Put heads with the same optimizer settings together."""
    return [HeadBank(some) for some in _by(modules, lambda m: (m.optim, m.steps)).values()]


def train_heads(modules: Sequence[HeadModule]) -> None:
    """Train every head to its end; one that fails keeps its `error`, and the others continue."""
    banks = make_banks(modules)
    while training := [m for bank in banks for m in bank.row if m.is_training]:
        stepped, losses, sums = [], [], []
        for rows, members in _by(training, HeadModule.next_rows).items():
            batch = members[0].batches.collate(rows)
            rewards_N_H = _rewards(members, batch)
            columns = zip(members, rewards_N_H.unbind(1), strict=True)
            losses_H = torch.stack([_loss(m, rewards_N, batch) for m, rewards_N in columns])
            counts = len(batch.better_P), len(batch.items_N)
            sums.append(step_sums(losses_H, rewards_N_H, batch, *counts))
            losses.append(losses_H)
            stepped += [(module, batch) for module in members]
        torch.cat(losses).sum().backward()
        active = list(dict.fromkeys(module.bank for module in training))
        norms = {m: n for bank in active for m, n in zip(bank.row, bank.clip(), strict=True)}
        values = torch.cat(sums, dim=1).T.tolist()
        for (module, batch), found in zip(stepped, values, strict=True):
            module.count_step(found, norms[module], batch)
        for bank in active:
            bank.step()
        score_heads([m for m in training if m.error is None and m.done in m.due], "val")


def _loss(module: HeadModule, rewards_N: Tensor, batch: Batch) -> Tensor:
    """The loss of a step with one micro-batch."""
    terms = module.loss(rewards_N, batch)
    return normalise_terms(terms, {name: float(w.sum()) for name, (_, w) in terms.items()})


@torch.no_grad()
def score_heads(modules: Sequence[HeadModule], split: str) -> None:
    """Compute every head's rewards and metrics of a split."""
    for rows, members in _by(modules, lambda m: tuple(m.data.splits[split].tolist())).items():
        batch = members[0].batches.split(rows)
        for module, rewards_N in zip(members, _rewards(members, batch).unbind(1), strict=True):
            module.eval()
            module.take_scored(split, batch, rewards_N)
            module.train()


def _rewards(modules: Sequence[HeadModule], batch: Batch) -> Tensor:
    """rewards_N_H, a column for each module; modules of one bank follow each other."""
    assert batch.pooled_N_D is not None, "the rows have no cached activations"
    found = []
    for bank, members in groupby(modules, key=attrgetter("bank")):
        rows = [bank.row[module] for module in members]
        bias = None if bank.layer.bias is None else bank.layer.bias[rows]
        found.append(F.linear(batch.pooled_N_D, bank.layer.weight[rows], bias))
    return torch.cat(found, dim=1)


def _by(modules: Sequence[HeadModule], key: Callable[[HeadModule], Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[HeadModule]] = {}
    for module in modules:
        found.setdefault(key(module), []).append(module)
    return found
