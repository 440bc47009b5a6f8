"""Reward heads over the same kept states, trained side by side: one pass for a whole grid.

With tune=head a run is a linear map of states that never change. Runs that differ only in loss,
seed or learning rate train together, each on its own order of rows with its own optimizer, schedule
and validations; heads that see the same rows in a step share the matrix product. What comes out is
what each run would have learnt by itself, to float tolerance.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.collate import Batch
from rmexp.data.datamodule import ComparisonData
from rmexp.evaluation.metrics import lower_is_better
from rmexp.losses.base import Loss
from rmexp.models.reward_model import RewardHead, draw_head, head_layers
from rmexp.training.callbacks import validation_steps
from rmexp.training.lightning_module import RewardModule, TrainingFailed, normalise_terms, step_sums
from rmexp.training.optim import AdamW
from rmexp.training.trainer import TrainerSettings

SPLITS_KEPT = 2
"""Evaluation sets that are kept once collated: val and test."""


KEPT_ROWS = 65536
"""Rows that are kept once read: each head deals them out in an order of its own."""


class HeadOnly(nn.Module):
    """A reward head without the model below it, by the names that it has in the model.

    Args:
        model: where it belongs; a head that the checkpoint brought is copied.
        seed: draws a fresh one, as for a run by itself.
    """

    base_model_prefix = "below"

    def __init__(self, model: Any, seed: int) -> None:
        super().__init__()
        self.below = nn.Identity()
        inputs, biased = model.score.in_features, model.score.bias is not None
        self.score = RewardHead(inputs, 1, bias=biased)
        if model.score.facts.fresh_head:
            draw_head(self.score, seed)
        else:
            self.score.load_state_dict(model.score.state_dict())


def stands_alone(model: Any) -> bool:
    """Is the head one linear layer, that `HeadOnly` can stand for?"""
    return head_layers(model) is not None and isinstance(getattr(model, "score", None), RewardHead)


class Batches:
    """Micro-batches of kept states, for all heads of a grid.

    Args:
        data: whose `features` are the kept states.
        device: where the heads are.
    """

    def __init__(self, data: ComparisonData, device: str) -> None:
        self.data, self.device = data, device
        self.of_split = functools.lru_cache(SPLITS_KEPT)(self.of)
        self._row = functools.lru_cache(KEPT_ROWS)(self._read)

    def of(self, rows: tuple[int, ...]) -> Batch:
        """The micro-batch of these rows; `of_split` keeps those of val and test."""
        (batch,) = self.data.collate()([self._row(row) for row in rows]).batches
        return batch.to(self.device)

    def _read(self, index: int) -> dict[str, Any]:
        row = {**self.data.rows[index], "row": index}
        del row["texts"]
        # As lists of numbers they would be the bulk of it.
        return row | {"tokens": [np.array(ids, dtype=np.int32) for ids in row["tokens"]]}


class HeadModule(RewardModule):
    """The RewardModule of one head among several: steps, logs and selects by itself.

    Args:
        model: a `HeadOnly`.
        loss, data, optim, fingerprints: see `RewardModule`.
        settings: how long, when it is validated, what selects; `monitor` is settled.
        batches: its rows, with their kept states.
    """

    def __init__(
        self,
        model: HeadOnly,
        loss: Loss,
        data: ComparisonData,
        optim: AdamW,
        settings: TrainerSettings,
        batches: Batches,
        fingerprints: dict[str, str],
    ) -> None:
        plan = data.plan()
        super().__init__(model, loss, data, optim, settings.steps(len(plan)), fingerprints)
        self.to(batches.device)  # before the optimizer knows its weights
        self.settings, self.plan, self.batches = settings, plan, batches
        self.due = validation_steps(self.steps, settings.validations)
        self.lines: list[tuple[int, dict[str, float]]] = []
        self.done = self.best_step = 0
        self.stopped = False
        self.best_value = float("nan")
        self.best_state: dict[str, Tensor] = {}
        self.error: Exception | None = None
        self._waited = 0
        (self.optimizer,), _ = self.configure_optimizers()
        self.weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._order: list[Any] = []

    @property
    def head(self) -> RewardHead:
        """The one layer that trains."""
        score: Any = self.model.score
        return score

    @property
    def global_step(self) -> int:
        """Updates made so far."""
        return self.done

    @property
    def going(self) -> bool:
        """Are there steps left to take?"""
        return self.error is None and not self.stopped and self.done < self.steps

    def rows_of_step(self) -> tuple[int, ...]:
        """The rows of the next step."""
        place, epoch = self.done % len(self.plan), self.done // len(self.plan)
        if place == 0:
            self._order = list(self.plan.steps(epoch))
        return tuple(int(row) for row in self._order[place])

    def update(self, sums: Sequence[float], norm: float, batch: Batch) -> None:
        """Note the step whose clipped gradients are there; of one that failed they are dropped."""
        try:
            values = self.check_and_log_step([*sums, norm], len(batch.better_P), len(batch.items_N))
        except TrainingFailed as error:
            self.error = error
            for weight in self.weights:
                weight.grad = None
            return
        self.done += 1
        self._log(values)

    def _log(self, values: Mapping[str, float]) -> None:
        """Keep them: the run's loggers open once it is its turn."""
        self.lines.append((self.done, dict(values)))

    def validate(self, split: str, batch: Batch, rewards_N: Tensor) -> None:
        """Take in the rewards of a split; at a validation, select and maybe stop."""
        self.on_validation_epoch_start()
        self.add_scored(batch, rewards_N)
        self.metrics = self.evaluation(split)
        if split != "val" or not self.logs:
            return
        self.validated_at = self.done
        self._log(self.metrics)
        value = self.metrics[self.settings.monitor]
        lower = lower_is_better(self.settings.monitor)
        if not self.best_state or (value < self.best_value if lower else value > self.best_value):
            self.best_value, self.best_step, self._waited = value, self.done, 0
            self.best_state = {k: v.detach().clone() for k, v in self.state_dict().items()}
            return
        self._waited += 1
        if self.settings.patience is not None and self._waited >= self.settings.patience:
            self.stopped = True


def fit_together(modules: Sequence[HeadModule]) -> None:
    """Train every head to its end; one that fails has its `error`, the others go on."""
    optimizers = share_optimizers(modules)
    while going := [module for module in modules if module.going]:
        for module in going:
            if not module.training:  # a validation was before
                module.train()
        # Jobs that differ in their loss or its margin see the same rows in the same order.
        alike: dict[tuple[int, ...], list[HeadModule]] = {}
        for module in going:
            alike.setdefault(module.rows_of_step(), []).append(module)
        stepping: list[tuple[HeadModule, Batch]] = []
        losses, sums = [], []
        for rows, members in alike.items():
            batch = members[0].batches.of(rows)
            rewards_N_H = _rewards(members, batch)
            losses_H = torch.stack(
                [
                    _loss(module, rewards_N, batch)
                    for module, rewards_N in zip(members, rewards_N_H.unbind(1), strict=True)
                ]
            )
            pairs, responses = len(batch.better_P), len(batch.items_N)
            sums.append(step_sums(losses_H, rewards_N_H, batch, pairs, responses))
            losses.append(losses_H)
            stepping += [(module, batch) for module in members]
        torch.cat(losses).sum().backward()
        norms = clip_each([module for module, _ in stepping])
        values = torch.cat(sums, dim=1).T.tolist()
        for (module, batch), found, norm in zip(stepping, values, norms, strict=True):
            module.update(found, norm, batch)
        for optimizer, schedule in optimizers:
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
        due = [module for module in going if module.error is None and module.done in module.due]
        score_heads(due, "val")


def _loss(module: HeadModule, rewards_N: Tensor, batch: Batch) -> Tensor:
    """The loss of a step that is one micro-batch."""
    terms = module.loss(rewards_N, batch)
    return normalise_terms(
        terms, {name: float(weights.sum()) for name, (_, weights) in terms.items()}
    )


def share_optimizers(modules: Sequence[HeadModule]) -> list[tuple[Any, Any]]:
    """Give heads with equal settings one optimizer and schedule; all of these, in pairs.

    Each head keeps moments of its own, and one that has no gradient (it stopped, or failed) stays
    as it is. Stepping them one by one would be a third of the training.
    """
    firsts: list[HeadModule] = []
    for module in modules:
        groups = module.optimizer.param_groups  # a loss may have weights of its own
        like = [len(groups), module.steps, module.optim]
        for first in firsts:
            theirs = first.optimizer.param_groups
            if [len(theirs), first.steps, first.optim] == like:
                for group, more in zip(theirs, groups, strict=True):
                    group["params"] += more["params"]
                module.schedule = first.schedule
                break
        else:
            firsts.append(module)
    return [(first.optimizer, first.schedule) for first in firsts]


def clip_each(modules: Sequence[HeadModule]) -> list[float]:
    """Clip each head's gradients by themselves, all at once; their norms before, in order.

    One by one, as `nn.utils.clip_grad_norm_` has it, this would be a quarter of the training.
    """
    owned = [
        (number, weight.grad)
        for number, module in enumerate(modules)
        for weight in module.weights
        if weight.grad is not None
    ]
    owners, gradients = [number for number, _ in owned], [gradient for _, gradient in owned]
    squares = torch.stack(torch._foreach_norm(gradients)).square()
    owner_G = torch.tensor(owners, device=squares.device)
    norms_M = squares.new_zeros(len(modules)).index_add(0, owner_G, squares).sqrt()
    norms: list[float] = norms_M.tolist()
    shares = [
        min(1.0, m.clip_limit / (norm + 1e-6)) for m, norm in zip(modules, norms, strict=True)
    ]
    torch._foreach_mul_(gradients, [shares[number] for number in owners])
    return norms


@torch.no_grad()
def score_heads(modules: Sequence[HeadModule], split: str) -> None:
    """Give every head its rewards and metrics of a split."""
    alike: dict[tuple[int, ...], list[HeadModule]] = {}
    for module in modules:
        module.eval()
        alike.setdefault(tuple(module.data.splits[split].tolist()), []).append(module)
    for rows, members in alike.items():
        batch = members[0].batches.of_split(rows)
        for module, rewards_N in zip(members, _rewards(members, batch).unbind(1), strict=True):
            module.validate(split, batch, rewards_N)


def _rewards(members: Sequence[HeadModule], batch: Batch) -> Tensor:
    """rewards_N_H: a column a head, one product for all of them."""
    assert batch.pooled_N_D is not None, "these rows come without kept states"
    heads = [module.head for module in members]
    weights_H_D = torch.cat([head.weight for head in heads])
    rewards_N_H = batch.pooled_N_D @ weights_H_D.T
    if heads[0].bias is not None:
        rewards_N_H = rewards_N_H + torch.cat([head.bias for head in heads])
    return rewards_N_H
