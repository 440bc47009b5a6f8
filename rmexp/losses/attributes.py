"""The loss of each attribute of head=attributes, on the ratings of that attribute."""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np
import torch
from torch import Tensor

from rmexp.batching.batch import Batch
from rmexp.losses.base import Loss
from rmexp.losses.outputs import OutputLosses

ATTRIBUTE_LABELS = ("pairs", "ties", "ratings", "lists")
"""The label kinds that ratings of an attribute make; they have no votes and no margins."""


class AttributeLosses(OutputLosses):
    """One loss for each attribute, each fitted to the ratings of its own.

    The labels of an attribute are its ratings, and the pairs, ties and ranks that they make among
    the responses of a comparison. Unrated responses have none. A row's own pairs judge the response
    as a whole: they train no attribute.

    Args:
        losses: of each attribute.
        names: of the attributes.
        columns: of each in `Batch.attributes_N_A`.
    """

    def __init__(
        self, losses: Sequence[Loss], names: Sequence[str], columns: Sequence[int]
    ) -> None:
        super().__init__(losses[0], names)
        self.losses = torch.nn.ModuleList(losses)
        self.columns = list(columns)

    def unmet(self, label_kinds: Collection[str]) -> tuple[str, ...]:
        return ()  # only the attributes tell

    def output_lines(self, outputs_N_K: np.ndarray) -> dict[str, tuple[float, float]]:
        """Lines to the unit of the ratings, with loss=regression."""
        known = zip(self.names, self.losses, strict=True)
        return {
            name: (float(getattr(loss, "mean", 0.0)), float(getattr(loss, "std", 1.0)))
            for name, loss in known
        }

    def rows(self, batch: Batch, output: int) -> Batch:
        ratings_N = batch.attributes_N_A[:, self.columns[output]]
        if set(self.needs_labels) <= {"ratings"}:
            return dataclasses.replace(batch, ratings_N=ratings_N)
        return attribute_batch(batch, ratings_N)


class NoLoss(Loss):
    """No term: the rows that are evaluated need not have the attributes that were trained."""

    needs_labels = ()
    outputs = 0

    def of_outputs(self, outputs_N_K: Tensor, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        return {}


def attribute_batch(batch: Batch, ratings_N: Tensor) -> Batch:
    """A micro-batch with the labels that these ratings make, in place of its own."""
    better_P, worse_P, tied_Q_2 = rating_pairs(ratings_N, batch.list_N)
    votes = ratings_N.new_tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    return dataclasses.replace(
        batch,
        ratings_N=ratings_N,
        better_P=better_P,
        worse_P=worse_P,
        margins_P=ratings_N.new_full(better_P.shape, float("nan")),
        votes_P_3=votes[:1].expand(len(better_P), 3),
        weights_P=batch.weights_N[better_P],
        tied_Q_2=tied_Q_2,
        votes_Q_3=votes[1:].expand(len(tied_Q_2), 3),
        weights_Q=batch.weights_N[tied_Q_2[:, 0]],
        levels_N=rating_levels(ratings_N, batch.list_N),
    )


def rating_pairs(ratings_N: Tensor, list_N: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(P,) better and (P,) worse responses of one list by their ratings, and (Q, 2) tied ones."""
    better, worse, tied = [], [], []
    for one_M, other_M in _neighbours(list_N):
        gaps_M = ratings_N[one_M] - ratings_N[other_M]  # NaN where one is unrated
        better += [one_M[gaps_M > 0], other_M[gaps_M < 0]]
        worse += [other_M[gaps_M > 0], one_M[gaps_M < 0]]
        tied.append(torch.stack([one_M[gaps_M == 0], other_M[gaps_M == 0]], 1))
    none = list_N[:0]
    return torch.cat([none, *better]), torch.cat([none, *worse]), torch.cat([_two(none), *tied])


def rating_levels(ratings_N: Tensor, list_N: Tensor) -> Tensor:
    """Rank levels as in `Comparison.rank_levels`: -1 for a response rated alone, or unrated."""
    levels_N, first_N, rated_N = torch.zeros_like(list_N), ~ratings_N.isnan(), ~ratings_N.isnan()
    alone_N, neighbours = rated_N.clone(), list(_neighbours(list_N))
    for one_M, other_M in neighbours:
        first_N[other_M] &= ratings_N[one_M] != ratings_N[other_M]
        both_M = rated_N[one_M] & rated_N[other_M]
        alone_N[one_M[both_M]] = alone_N[other_M[both_M]] = False
    for one_M, other_M in neighbours:
        for here_M, there_M in ((one_M, other_M), (other_M, one_M)):
            levels_N[here_M] += first_N[there_M] & (ratings_N[there_M] < ratings_N[here_M])
    return torch.where(rated_N & ~alone_N, levels_N, -1)


def _neighbours(list_N: Tensor) -> "list[tuple[Tensor, Tensor]]":
    """All pairs of one list: for each distance, (M,) indices of the earlier and the later one."""
    found = []
    for distance in range(1, len(list_N)):
        one_M = torch.nonzero(list_N[distance:] == list_N[:-distance])[:, 0]
        if not len(one_M):  # lists are contiguous
            break
        found.append((one_M, one_M + distance))
    return found


def _two(none: Tensor) -> Tensor:
    return none.view(0, 1).expand(0, 2)
