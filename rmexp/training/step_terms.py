"""The loss and statistics of an optimizer step, summed over micro-batches and processes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rmexp.batching.batch import Batch
from rmexp.core import distributed
from rmexp.losses.base import Loss


@dataclass(frozen=True)
class StepTotals:
    """A process's part of a step: weight of each loss term, pairs, responses, micro-batches."""

    weights: Mapping[str, float]
    pairs: int
    responses: int
    batches: int

    @classmethod
    def of(cls, batches: Sequence[Batch], loss: Loss) -> "StepTotals":
        return cls(
            loss.total_weights(batches),
            sum(len(batch.better_P) for batch in batches),
            sum(len(batch.items_N) for batch in batches),
            len(batches),
        )


class GatherTotals:
    """Gathers the `StepTotals` of all processes: as numbers, once the loss's terms are known."""

    def __init__(self) -> None:
        self._terms: tuple[str, ...] = ()

    def __call__(self, own: StepTotals) -> list[StepTotals]:
        """The totals of each process; a collective."""
        new = not own.weights.keys() <= set(self._terms)
        weights = [own.weights.get(term, 0.0) for term in self._terms]
        numbers = [float(new), own.pairs, own.responses, own.batches, *weights]
        parts = distributed.all_gather_numbers(numbers)
        if any(new for new, *_ in parts):
            found = distributed.all_gather_object(own)
            self._terms = tuple(
                sorted({*self._terms, *(t for part in found for t in part.weights)})
            )
            return found
        return [self._totals(part) for part in parts]

    def _totals(self, numbers: Sequence[float]) -> StepTotals:
        _, pairs, responses, batches, *weights = numbers
        by_term = dict(zip(self._terms, weights, strict=True))
        return StepTotals(by_term, int(pairs), int(responses), int(batches))


def total_weights(parts: Sequence[StepTotals]) -> dict[str, float]:
    totals: dict[str, float] = {}
    for part in parts:
        for term, weight in part.weights.items():
            totals[term] = totals.get(term, 0.0) + weight
    return totals


def normalise_terms(
    terms: Mapping[str, tuple[Tensor, Tensor]], totals: Mapping[str, float]
) -> Tensor:
    """A micro-batch's share of the loss: sum(values x weights) / total weight of each term."""
    # A term without weight in the whole step adds zero, but stays in the graph.
    parts = [(v * w).sum() / (totals[term] or 1.0) for term, (v, w) in terms.items()]
    return torch.stack(parts).sum()


def step_sums(losses: Tensor, rewards: Tensor, batch: Batch, pairs: int, responses: int) -> Tensor:
    """(4,) a micro-batch's share of the step's loss, accuracy, margin and mean reward.

    Args:
        losses: (), or (H,) for several heads.
        rewards: (N,), or (N, H); the result is then (4, H).
    """
    found = rewards.detach()
    gaps = found[batch.better_P] - found[batch.worse_P]
    # Without pairs, accuracy and margin are not logged.
    won, lead = (gaps > 0).sum(0) / max(1, pairs), gaps.sum(0) / max(1, pairs)
    return torch.stack([losses.detach(), won, lead, found.sum(0) / responses])
