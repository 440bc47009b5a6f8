"""Reward heads on the same cached activations, trained side by side.

With tune=head a run trains one linear map of hidden states that never change. Heads whose runs have
the same optimizer settings are rows of one linear layer with one optimizer (a row an output); heads
that see the same comparisons in a step share its product. Each head has its own loss, order of
comparisons, validations and early stopping, and learns what its run would learn alone, to float
tolerance.

Lightning's loop trains one module on one sequence of batches; here each head has its own, so that
the loop is ours and the step, its checks and the metrics are those of `RewardModule`.

Shapes: N responses of a micro-batch, H heads, K outputs of a head, D hidden size.
"""

from collections.abc import Callable, Sequence
from itertools import groupby
from operator import attrgetter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.training.head_module import HeadModule, HeadOnly
from rmexp.training.step_terms import normalise_terms, step_sums


class HeadBank:
    """Heads with the same optimizer settings: one linear layer of all outputs with one optimizer.

    Each head's module has a view of its rows. A head that stopped or failed stays in the layer: its
    gradient is zero from then on, and its best weights are kept elsewhere.
    """

    def __init__(self, modules: Sequence[HeadModule]) -> None:
        heads: list[Any] = [module.model.score for module in modules]
        ends = np.cumsum([head.out_features for head in heads]).tolist()
        model = HeadOnly(heads[0].in_features, ends[-1], heads[0].bias is not None)
        self.layer = model.to(heads[0].weight.device).score
        starts = [0, *ends[:-1]]
        self.rows = {m: slice(*span) for m, *span in zip(modules, starts, ends, strict=True)}
        for name, parameter in self.layer.named_parameters():
            parameter.data.copy_(torch.cat([getattr(head, name).data for head in heads]))
            for rows, head in zip(self.rows.values(), heads, strict=True):
                getattr(head, name).data = parameter.data[rows]
        losses = nn.ModuleList(module.loss for module in modules)
        optim: Any = modules[0].optim
        self.optimizer, self.schedule = optim.build(model, losses, modules[0].steps)
        for module in modules:
            module.bank, module.schedule = self, self.schedule

    def clip(self) -> list[float]:
        """Clip each head's gradients, with its loss's; returns the norms before, by head."""
        parameters: list[Any] = list(self.layer.parameters())
        owned = [
            (number, grad)
            for number, (module, rows) in enumerate(self.rows.items())
            for grad in (
                *(parameter.grad[rows] for parameter in parameters),
                *(parameter.grad for parameter in module.loss.parameters()),
            )
            if grad is not None
        ]
        numbers, gradients = [number for number, _ in owned], [grad for _, grad in owned]
        squares = torch.stack(torch._foreach_norm(gradients)).square()
        head_G = torch.tensor(numbers, device=squares.device)
        norms_H = squares.new_zeros(len(self.rows)).index_add(0, head_G, squares).sqrt().tolist()
        scales_H = [min(1.0, next(iter(self.rows)).clip_limit / (norm + 1e-6)) for norm in norms_H]
        torch._foreach_mul_(gradients, [scales_H[number] for number in numbers])
        return norms_H

    def step(self) -> None:
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.schedule.step()


def train_heads(modules: Sequence[HeadModule]) -> None:
    """Train every head to its end; one that fails keeps its `error`, and the others continue."""
    banks = [HeadBank(some) for some in _by(modules, lambda m: (m.optim, m.steps)).values()]
    while training := [m for bank in banks for m in bank.rows if m.is_training]:
        stepped, losses, sums = [], [], []
        for rows, members in _by(training, HeadModule.next_rows).items():
            batch = members[0].batches.collate(rows)
            found = list(zip(members, _outputs(members, batch), strict=True))
            losses_H = torch.stack([_loss(m, outputs_N_K, batch) for m, outputs_N_K in found])
            rewards_N_H = torch.stack([m.model.score.rewards(o_N_K) for m, o_N_K in found], 1)
            counts = len(batch.better_P), len(batch.items_N)
            sums.append(step_sums(losses_H, rewards_N_H, batch, *counts))
            losses.append(losses_H)
            stepped += [(module, batch) for module in members]
        torch.cat(losses).sum().backward()
        active = list(dict.fromkeys(module.bank for module in training))
        norms = {m: n for bank in active for m, n in zip(bank.rows, bank.clip(), strict=True)}
        values = torch.cat(sums, dim=1).T.tolist()
        for (module, batch), value in zip(stepped, values, strict=True):
            module.count_step(value, norms[module], batch)
        for bank in active:
            bank.step()
        score_heads([m for m in training if m.error is None and m.done in m.due], "val")


def _loss(module: HeadModule, outputs_N_K: Tensor, batch: Batch) -> Tensor:
    terms = module.loss.of_outputs(outputs_N_K, batch)
    return normalise_terms(terms, module.loss.step_weights(terms, batch))


@torch.no_grad()
def score_heads(modules: Sequence[HeadModule], split: str) -> None:
    """Compute every head's rewards and metrics of a split."""
    for rows, members in _by(modules, lambda m: tuple(m.data.splits[split].tolist())).items():
        batch = members[0].batches.split(rows)
        for module, outputs_N_K in zip(members, _outputs(members, batch), strict=True):
            module.eval()
            module.take_scored(split, batch, outputs_N_K)
            module.train()


def _outputs(modules: Sequence[HeadModule], batch: Batch) -> list[Tensor]:
    """outputs_N_K of each module; modules of one bank follow each other."""
    assert batch.pooled_N_D is not None, "the rows have no cached activations"
    found: list[Tensor] = []
    for bank, some in groupby(modules, key=attrgetter("bank")):
        spans = [bank.rows[module] for module in some]
        rows = [row for span in spans for row in range(span.start, span.stop)]
        bias = None if bank.layer.bias is None else bank.layer.bias[rows]
        outputs = F.linear(batch.pooled_N_D, bank.layer.weight[rows], bias)
        found += outputs.split([span.stop - span.start for span in spans], dim=1)
    return found


def _by(modules: Sequence[HeadModule], key: Callable[[HeadModule], Any]) -> dict[Any, list[Any]]:
    found: dict[Any, list[HeadModule]] = {}
    for module in modules:
        found.setdefault(key(module), []).append(module)
    return found
