"""The tensors of a micro-batch.

Shape legend of rmexp: N responses, P pairs with a strict preference, Q tied pairs, R rows of T
tokens, D the width of a hidden state.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from rmexp.batching.prefix_tree import Tree


@dataclass
class Batch:
    """One micro-batch of whole comparisons, laid out as rows of tokens in one of two ways.

    Tree layout: one row, the packed trees one after another. Padded layout: one row a response,
    padded on the right.

    Attributes:
        tokens_R_T: int64.
        positions_R_T: int64, position of each token in its own sequence.
        trees: the packed trees, in order; None in the padded layout.
        row_N, end_N: int64, row and column in `tokens_R_T` of each response's last token.
        better_P, worse_P: int64, indices of the better and the worse response of each pair.
        margins_P: float32, the data's margin of the pair; NaN where it has none.
        votes_P_3: float32, shares of the votes for the better response, the worse one, and a tie.
        weights_P: float32, weight of the judgement times that of its comparison.
        tied_Q_2: int64, indices of the responses of each tied pair.
        votes_Q_3: float32, shares of the votes for its first response, its second, and a tie.
        weights_Q: float32.
        ratings_N: float32, higher is better; NaN where unrated.
        attributes_N_A: float32, ratings of the attributes of the data set; NaN where unrated.
        levels_N: int64, rank level in the comparison, 0 the lowest; -1 if it is not ranked.
        weights_N: float32, weight of the comparison.
        list_N: int64, number of the comparison in this micro-batch; non-decreasing.
        items_N: int64, index of the comparison in the data set.
        hidden_R_T_D: float32, cached hidden states at the end of the model's frozen part, or None.
        pooled_N_D: float32, cached inputs of the reward head if all below it is frozen, or None.
    """

    tokens_R_T: Tensor
    positions_R_T: Tensor
    trees: list[Tree] | None
    row_N: Tensor
    end_N: Tensor
    better_P: Tensor
    worse_P: Tensor
    margins_P: Tensor
    votes_P_3: Tensor
    weights_P: Tensor
    tied_Q_2: Tensor
    votes_Q_3: Tensor
    weights_Q: Tensor
    ratings_N: Tensor
    attributes_N_A: Tensor
    levels_N: Tensor
    weights_N: Tensor
    list_N: Tensor
    items_N: Tensor
    hidden_R_T_D: Tensor | None = None
    pooled_N_D: Tensor | None = None

    def to(self, device: Any) -> "Batch":
        tensors = {n: v for n, v in vars(self).items() if isinstance(v, Tensor)}
        together = torch.device(device).type == "cuda" and not self.items_N.is_cuda
        moved: Any = (
            in_one_copy(tensors, device)
            if together
            else {name: tensor.to(device) for name, tensor in tensors.items()}
        )
        return dataclasses.replace(self, **moved)


def in_one_copy(tensors: Mapping[str, Tensor], device: Any) -> dict[str, Tensor]:
    """CPU tensors on a device, as parts of one buffer.

    A GPU copies it from pinned memory while the CPU goes on; a copy each would take longer to start
    than to run.
    """
    order = sorted(tensors, key=lambda name: -tensors[name].itemsize)  # each is aligned then
    parts = [tensors[name].reshape(-1).view(torch.uint8) for name in order]
    size = sum(map(len, parts))
    buffer = torch.empty(size, dtype=torch.uint8, pin_memory=torch.device(device).type == "cuda")
    there = torch.cat(parts, out=buffer).to(device, non_blocking=True).split(list(map(len, parts)))
    return {
        name: part.view(tensors[name].dtype).view(tensors[name].shape)
        for name, part in zip(order, there, strict=True)
    }


@dataclass
class Step:
    """One item of the loader and one update of the optimizer: its micro-batches."""

    batches: list[Batch]

    def to(self, device: Any) -> "Step":
        return Step([batch.to(device) for batch in self.batches])
