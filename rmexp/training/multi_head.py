"""Reward heads on the same cached activations, trained side by side.

With tune=head a run trains one linear map of hidden states that never change. Heads whose runs have
the same optimizer settings are the rows of one linear layer with one optimizer; heads that see the
same comparisons in a step share its product. Each head has its own loss, order of comparisons,
validations and early stopping, and learns what its run would learn alone, to float tolerance.

Lightning's loop trains one module on one sequence of batches; here each head has its own, so that
the loop is ours and the step, its checks and the metrics are those of `RewardModule`.

Shapes: N responses of a micro-batch, H heads, D hidden size.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.training.head_module import HeadModule, HeadOnly
from rmexp.training.step_terms import normalise_terms, step_sums


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
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()


def train_heads(modules: Sequence[HeadModule]) -> None:
    """Train every head to its end; one that fails keeps its `error`, and the others continue."""
    banks = [HeadBank(some) for some in _by(modules, lambda m: (m.optim, m.steps)).values()]
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
