"""What every loss is: an `nn.Module` that gives values and weights for each judged unit."""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from rmexp.batching.collate import Batch

Terms = dict[str, tuple[Tensor, Tensor]]


Margin = Annotated[float, Ge(0)] | Literal["data", "ratings"]
"""A margin for every pair in units of reward; or each pair's own: `data`, the margin of its row, or
`ratings`, by how much its ratings differ."""


class Loss(nn.Module):
    """Maps rewards_N of a micro-batch to `{term: (values_U, weights_U)}`.

    U are the units that the term judges: pairs, rated responses or lists. A step's loss is, summed
    over terms, sum(values x weights) / (total weight of the term over the whole step). Weights must
    not depend on the rewards.
    """

    needs_labels: ClassVar[tuple[str, ...]]
    """The kinds of judgement (`comparisons.KINDS`) that it learns from."""

    def required(self) -> tuple[str, ...]:
        """The kinds without which it cannot train; `needs`, and what its settings ask for."""
        own = {getattr(self, name, None) for name in ("margin", "scale")}
        margins = ("margins",) if "data" in own else ()
        return (*self.needs_labels, *margins, *(("ratings",) if "ratings" in own else ()))

    def unmet(self, label_kinds: Collection[str]) -> tuple[str, ...]:
        """The required kinds that are not among those that the data have."""
        return tuple(kind for kind in self.required() if kind not in label_kinds)

    def trains_on(self) -> tuple[str, ...]:
        """The kinds of which a training row must have one."""
        return self.needs_labels

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        """See the ratings of the training rows before training; most losses need not.

        Args:
            ratings: (U,) of all rated responses, one at least.
            weights: (U,) how much each will count: its row's weight, times its draws an epoch.
        """

    def components(self) -> "dict[str, Loss]":
        """The losses that it is made of, by name: itself alone."""
        return {"": self}

    def state(self) -> dict[str, Any]:
        """What it learnt, as plain numbers by name: cut points, a tie's width, a scale."""
        return {name: value.tolist() for name, value in self.state_dict().items()}

    def take_state(self, state: Mapping[str, Any]) -> None:
        """The inverse of `state`."""
        for name, value in state.items():
            *path, last = name.split(".")
            owner: Any = self.get_submodule(".".join(path))
            kept, new = getattr(owner, last), torch.tensor(value)
            setattr(owner, last, nn.Parameter(new) if isinstance(kept, nn.Parameter) else new)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """`{term: (values_U, weights_U)}` of one micro-batch, in fp32."""
        raise NotImplementedError

    @torch.no_grad()
    def total_weights(self, batches: Iterable[Batch]) -> dict[str, float]:
        """The weight of each term over a step's micro-batches, known before any forward pass."""
        totals: dict[str, float] = {}
        for batch in batches:
            for term, (_, weights_U) in self(torch.zeros_like(batch.ratings_N), batch).items():
                totals[term] = totals.get(term, 0.0) + float(weights_U.sum())
        return totals


def pair_gaps(rewards_N: Tensor, batch: Batch) -> Tensor:
    """(P,) reward of the better response minus that of the worse."""
    return rewards_N[batch.better_P] - rewards_N[batch.worse_P]


def pair_margins(margin: Margin, batch: Batch) -> Tensor | float:
    """The margin of each judged pair: the constant, its row's, or the gap of its ratings."""
    if margin == "data":
        return batch.margins_P
    if margin == "ratings":
        return batch.ratings_N[batch.better_P] - batch.ratings_N[batch.worse_P]
    return float(margin)
