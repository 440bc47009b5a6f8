"""Losses of heads with several outputs, made of losses of one reward."""

import copy
import dataclasses
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.losses.base import Loss, Terms
from rmexp.losses.ratings import Pinball


class OutputLosses(Loss):
    """One loss for each output, with parameters of its own; their mean is the loss.

    The mean keeps the gradient of what the outputs share at the size that one output's has.

    Args:
        loss: fitted to the training rows; each output has a copy.
        names: of the outputs; a term is `NAME.TERM`.
    """

    def __init__(self, loss: Loss, names: Sequence[str]) -> None:
        super().__init__()
        self.outputs, self.names, self.needs_labels = len(names), list(names), loss.needs_labels
        self.losses = nn.ModuleList(copy.deepcopy(loss) for _ in names)

    @property
    def first(self) -> Loss:
        """The first output's."""
        found: Any = self.losses[0]
        return found

    def required(self) -> tuple[str, ...]:
        return self.first.required()

    def unmet(self, label_kinds: Collection[str]) -> tuple[str, ...]:
        return self.first.unmet(label_kinds)

    def trains_on(self) -> tuple[str, ...]:
        return self.first.trains_on()

    def settings(self) -> dict[str, Any]:
        return self.first.settings()

    def of_outputs(self, outputs_N_K: Tensor, batch: Batch) -> Terms:
        terms: Terms = {}
        for k, name in enumerate(self.names):
            loss: Any = self.losses[k]
            for term, (values_U, weights_U) in loss(outputs_N_K[:, k], self.rows(batch, k)).items():
                terms[f"{name}.{term}"] = (values_U / self.outputs, weights_U)
        return terms

    def rows(self, batch: Batch, output: int) -> Batch:
        """The micro-batch as an output sees it: its labels and weights."""
        return batch


class MemberLosses(OutputLosses):
    """The loss of each member of an ensemble, on its own bootstrap sample of the prompts.

    A prompt that a member has drawn n times has n times the weight. A term is divided by the
    weight that it has without the bootstrap: divided by its own, a step of one prompt would undo
    the bootstrap.

    Args:
        loss, names: see `OutputLosses`.
        draws_C_K: how often a member has drawn the prompt of a row of the data set; None: once.
    """

    def __init__(self, loss: Loss, names: Sequence[str], draws_C_K: np.ndarray | None) -> None:
        super().__init__(loss, names)
        # No buffer: neither checkpoints nor DDP's broadcasts need it.
        self.draws_C_K = None if draws_C_K is None else torch.from_numpy(draws_C_K)

    def rows(self, batch: Batch, output: int) -> Batch:
        if self.draws_C_K is None:
            return batch
        self.draws_C_K = self.draws_C_K.to(batch.items_N.device)
        draws_N = self.draws_C_K[batch.items_N, output].to(batch.weights_N.dtype)
        return dataclasses.replace(
            batch,
            weights_P=batch.weights_P * draws_N[batch.better_P],
            weights_Q=batch.weights_Q * draws_N[batch.tied_Q_2[:, 0]],
            weights_N=batch.weights_N * draws_N,
        )

    def output_lines(self, outputs_N_K: np.ndarray) -> dict[str, tuple[float, float]]:
        """Lines that give all members the same mean on val.

        Preferences leave the level of a member open: without them the members of a response would
        differ by it, whatever the response.
        """
        means_K = outputs_N_K.astype(np.float64).mean(0)
        shifts = (means_K.mean() - means_K).tolist()
        return {name: (shift, 1.0) for name, shift in zip(self.names, shifts, strict=True)}

    def step_weights(self, terms: Terms, batch: Batch) -> dict[str, float]:
        return self.total_weights([batch])

    @torch.no_grad()
    def total_weights(self, batches: Iterable[Batch]) -> dict[str, float]:
        totals = self.first.total_weights(batches)
        return {f"{name}.{term}": weight for name in self.names for term, weight in totals.items()}


class QuantileLosses(OutputLosses):
    """The pinball loss of each quantile.

    Args:
        loss: fitted to the training rows.
        quantiles: of the outputs; their names too.
    """

    def __init__(self, loss: Pinball, quantiles: Sequence[float]) -> None:
        super().__init__(loss, [f"{quantile:g}" for quantile in quantiles])
        for one, quantile in zip(self.losses, quantiles, strict=True):
            one.quantile = quantile  # type: ignore[assignment]

    def output_lines(self, outputs_N_K: np.ndarray) -> dict[str, tuple[float, float]]:
        """Lines to the unit of the ratings."""
        fitted: Any = self.first
        return dict.fromkeys(self.names, (float(fitted.mean), float(fitted.std)))
