"""Tokens and FLOPs of an epoch, from the steps that training would take.

FLOPs are those of the matrix products: 2 a weight and token forwards; backwards 2 for the gradient
of the input and 2 for that of the weight, where each is computed; of attention 4 d a query and key
that it sees forwards, twice that backwards, d the width of all query heads. (6 N T + 12 L d K where
all trains: Kaplan et al. 2020, arXiv:2001.08361, with the attended keys K counted one by one.)
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from rmexp.batching.collate import Batch, BatchLayout, Collate, Step
from rmexp.batching.prefix_tree import Tree
from rmexp.batching.step_loader import IndexedRows
from rmexp.data.comparison_data import ComparisonData
from rmexp.models.tuning import layers

LAID_OUT = 128
"""Steps of an epoch that are laid out at most: of more, the largest and others evenly spread."""


EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
"""What families call the number of experts."""


@dataclass(frozen=True)
class Work:
    """What goes through the model: `tokens`, each distinct one once, and the `keys` they see."""

    tokens: float = 0
    keys: float = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.tokens + other.tokens, self.keys + other.keys)

    def __mul__(self, times: float) -> "Work":
        return Work(self.tokens * times, self.keys * times)


@dataclass(frozen=True)
class Epoch:
    """An epoch's steps, as one of several equal devices meets them.

    steps, comparisons  in the epoch
    work                of all devices together
    laid_out            steps that were counted; the others are taken to be like them
    widest              the micro-batch with the most tokens on one device
    most                most micro-batches of one device in a step
    """

    steps: int
    comparisons: int
    work: Work
    laid_out: int
    widest: Batch
    most: int


def lay_out(data: ComparisonData, layout: BatchLayout, budget: int, devices: int) -> Epoch:
    """Lay out the first epoch's steps in micro-batches of `budget` tokens; see `LAID_OUT`."""
    steps, portion = data.plan().steps(0), data.partition(0, devices)
    totals = np.array([portion.sizes[rows].sum() for rows in steps])
    chosen = _chosen(totals)
    rows = IndexedRows(data.rows)
    collate = Collate(data.tokenizer.pad_token_id, budget, layout)
    work, seen, widest, most = Work(), 0, None, 0
    for number in chosen:
        seen += int(totals[number])
        for hand in portion.hands(steps[number]):
            step: Step = collate([rows[int(row)] for row in hand])
            most = max(most, len(step.batches))
            for batch in step.batches:
                work = work + work_of(batch)
                if widest is None or batch.tokens_R_T.numel() > widest.tokens_R_T.numel():
                    widest = batch
    assert widest is not None, "an epoch has a row"
    whole = work * (float(totals.sum()) / seen)
    return Epoch(len(steps), sum(map(len, steps)), whole, len(chosen), widest, most)


def _chosen(totals: np.ndarray) -> list[int]:
    if len(totals) <= LAID_OUT:
        return list(range(len(totals)))
    largest = np.argsort(-totals, kind="stable")[: LAID_OUT // 8]
    spread = np.linspace(0, len(totals) - 1, LAID_OUT - len(largest)).round().astype(int)
    return sorted({*largest.tolist(), *spread.tolist()})


def work_of(batch: Batch) -> Work:
    """Of a micro-batch, without its padding."""
    if batch.trees is not None:
        return sum((work_of_tree(tree) for tree in batch.trees), Work())
    lengths = dict(zip(batch.row_N.tolist(), (batch.end_N + 1).tolist(), strict=True)).values()
    return Work(sum(lengths), sum(n * (n + 1) // 2 for n in lengths))


def work_of_tree(tree: Tree) -> Work:
    """A token at position p attends to p + 1."""
    return Work(tree.size, int(tree.positions().sum()) + tree.size)


def flops(model: Any, work: Work, kept: int = 0, again: bool = False) -> float:
    """FLOPs of the layers forwards, and backwards down to the lowest that trains.

    Args:
        model: its parameters may be without content.
        kept: leading layers that are passed by, as their states are kept.
        again: checkpointed layers are computed again.
    """
    return sum(_of_layers(model, work, kept, again))


def forward_flops(model: Any, work: Work, count: int) -> float:
    """FLOPs of the lowest layers, forwards alone: what it takes to keep their states."""
    config = model.config.get_text_config()
    return sum(
        2 * _active(layer, config) * work.tokens + 4 * _width(config) * work.keys
        for layer in layers(model)[:count]
    )


def _of_layers(model: Any, work: Work, kept: int, again: bool) -> Iterator[float]:
    config, table = model.config.get_text_config(), model.get_input_embeddings().weight
    through = table.requires_grad
    for layer in layers(model)[kept:]:
        through = through or any(p.requires_grad for p in layer.parameters())
        twice = again and through
        every, trained = _active(layer, config), _active(layer, config, trained=True)
        yield (2 * every * (1 + through + twice) + 2 * trained) * work.tokens
        yield 4 * _width(config) * (1 + 2 * through + twice) * work.keys


def _active(layer: nn.Module, config: Any, trained: bool = False) -> float:
    """Weights in matrices that a token meets; of experts those that it is sent to."""
    count = next((getattr(config, n) for n in EXPERTS if getattr(config, n, None)), 1)
    share = getattr(config, "num_experts_per_tok", None) or count
    return sum(
        p.numel() * (share / count if ".experts." in f".{name}" else 1)
        for name, p in layer.named_parameters()
        if p.ndim > 1 and (p.requires_grad or not trained)
    )


def _width(config: Any) -> int:
    """Of all query heads."""
    heads: int = config.num_attention_heads
    return heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
