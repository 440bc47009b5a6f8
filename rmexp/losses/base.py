"""Base class of losses: an `nn.Module` that returns values and weights per labelled unit."""

from collections.abc import Collection, Iterable, Mapping
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge
from torch import Tensor, nn

from rmexp.batching.batch import Batch

Terms = dict[str, tuple[Tensor, Tensor]]

Margin = Annotated[float, Ge(0)] | Literal["data", "ratings"]
"""A margin for all pairs in units of reward; or one per pair: `data`, the margin of its row, or
`ratings`, the difference of its ratings."""


class Loss(nn.Module):
    """Maps rewards_N of a micro-batch to `{term: (values_U, weights_U)}`.

    U is the number of labelled units of the term: pairs, rated responses or lists. The loss of a
    step is the sum over terms of sum(values x weights) / (total weight of the term in the step).
    Weights must not depend on the rewards.
    """

    needs_labels: tuple[str, ...]
    """The label kinds (`comparison.LABEL_KINDS`) that it needs."""

    reads_votes: bool = False
    """Whether it trains on the shares of the votes, and not only on the majority."""

    def required(self) -> tuple[str, ...]:
        """`needs_labels` and the label kinds that its settings ask for."""
        own = {getattr(self, name, None) for name in ("margin", "scale")}
        margins = ("margins",) if "data" in own else ()
        return (*self.needs_labels, *margins, *(("ratings",) if "ratings" in own else ()))

    def unmet(self, label_kinds: Collection[str]) -> tuple[str, ...]:
        """The required label kinds that the data lacks."""
        return tuple(kind for kind in self.required() if kind not in label_kinds)

    def trains_on(self) -> tuple[str, ...]:
        """The label kinds of which a training row must have at least one."""
        return self.needs_labels

    def fit_to_ratings(self, ratings: np.ndarray, weights: np.ndarray) -> None:
        """Fit scales to the ratings of the training rows before training. No-op for most losses.

        Args:
            ratings: (U,) ratings of all rated responses, U >= 1.
            weights: (U,) row weight times the expected number of samples per epoch.
        """

    @property
    def rating_unit(self) -> float:
        """The difference of ratings that a difference of 1 in reward is; 1 where it is none."""
        return 1.0

    def components(self) -> "dict[str, Loss]":
        """The losses that it consists of, by name; itself by default."""
        return {"": self}

    def output_lines(self, outputs_N_K: np.ndarray) -> dict[str, tuple[float, float]]:
        """Name of an output -> (intercept, slope) of the unit in which it is read.

        Args:
            outputs_N_K: of val's responses; not of the one output, which is the reward.
        """
        return {}

    def settings(self) -> dict[str, int | float | str]:
        """The settings of the loss that are numbers or words, by name."""
        public = {name: value for name, value in vars(self).items() if name[0] != "_"}
        public.pop("training")
        return {name: v for name, v in public.items() if isinstance(v, (int, float, str))}

    def state(self) -> dict[str, Any]:
        """Learned and fitted values as plain numbers by name: cut points, tie width, scale."""
        return {name: value.tolist() for name, value in self.state_dict().items()}

    def take_state(self, state: Mapping[str, Any]) -> None:
        """Restore the values of `state`."""
        for name, value in state.items():
            *path, last = name.split(".")
            owner: Any = self.get_submodule(".".join(path))
            kept, new = getattr(owner, last), torch.tensor(value)
            setattr(owner, last, nn.Parameter(new) if isinstance(kept, nn.Parameter) else new)

    def forward(self, rewards_N: Tensor, batch: Batch) -> Terms:
        """`{term: (values_U, weights_U)}` of one micro-batch, in fp32."""
        raise NotImplementedError

    outputs: int = 1
    """The number of outputs of the head that it reads."""

    def of_outputs(self, outputs_N_K: Tensor, batch: Batch) -> Terms:
        """The terms of a head's outputs: here of the one output, which is the reward."""
        return self(outputs_N_K[:, 0], batch)

    def step_weights(self, terms: Terms, batch: Batch) -> dict[str, float]:
        """The total weight of each term of a step that is this micro-batch."""
        return {name: float(weights_U.sum()) for name, (_, weights_U) in terms.items()}

    @torch.no_grad()
    @torch.no_grad()
    def total_weights(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Total weight of each term over the micro-batches of a step, before any forward pass."""
        sums: dict[str, list[Tensor]] = {}
        for batch in batches:
            zeros_N_K = batch.ratings_N.new_zeros((len(batch.ratings_N), self.outputs))
            for term, (_, weights_U) in self.of_outputs(zeros_N_K, batch).items():
                sums.setdefault(term, []).append(weights_U.sum().double())
        # One transfer, as each makes the CPU wait for the device.
        every = torch.stack([torch.stack(one).sum() for one in sums.values()] or [torch.zeros(())])
        return dict(zip(sums, every.tolist(), strict=False))


def pair_gaps(rewards_N: Tensor, batch: Batch) -> Tensor:
    """(P,) reward of the better response minus reward of the worse one."""
    return rewards_N[batch.better_P] - rewards_N[batch.worse_P]


def pair_margins(margin: Margin, batch: Batch) -> Tensor | float:
    """Margin of each pair: a constant, or (P,) from its row or from its ratings; 0 without one."""
    if isinstance(margin, str):
        margins_P, there_P = _own_margins(margin, batch)
        return torch.where(there_P, margins_P, 0.0)
    return float(margin)


def pair_weights(batch: Batch, *margins: Margin | None) -> Tensor:
    """(P,) weights of the pairs; 0 for pairs that lack one of these margins."""
    weights_P = batch.weights_P
    for margin in margins:
        if isinstance(margin, str):
            weights_P = weights_P * _own_margins(margin, batch)[1]
    return weights_P


def _own_margins(margin: Literal["data", "ratings"], batch: Batch) -> tuple[Tensor, Tensor]:
    """(P,) margins, and (P,) whether a pair has one; a rating gap is one if it is above 0."""
    if margin == "data":
        return batch.margins_P, ~batch.margins_P.isnan()
    gaps_P = pair_gaps(batch.ratings_N, batch)
    return gaps_P, gaps_P > 0
