"""Rows of the tokenised data set -> the micro-batches of an optimizer step."""

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rmexp.batching.activation_store import ActivationStore
from rmexp.batching.batch import Batch, Step
from rmexp.batching.packing import MicroBatchBin, PromptTree, Row
from rmexp.batching.prefix_tree import PrefixTreeBuilder, Tree, bucketed, row_width

BUCKET_WIDTHS = 8
"""Padded rows are as wide as a multiple of this: few shapes, and little more padding."""

PADDED_DISCOUNT = 1.1
"""Padded rows may have this many times the tokens of trees, whose attention is in blocks."""

Layout = Literal["mixed", "tree", "padded"]


@dataclass(frozen=True)
class BatchLayout:
    """How micro-batches are laid out for a model.

    Args:
        layout: `tree` packs prefix trees, `padded` pads one row a response, `mixed` packs trees but
            pads micro-batches in which trees save next to nothing.
        max_positions: positions that the model has; None: no limit.
        activations: cached hidden states of the model's frozen part, to be added to each batch.
    """

    layout: Layout
    max_positions: int | None = None
    activations: ActivationStore | None = None


@dataclass(frozen=True)
class Collate:
    """Rows of the data set (see `token_dataset.TOKEN_SCHEMA`) -> a `Step`.

    Comparisons are packed into micro-batches of at most `micro_batch_tokens` tokens (padded rows
    with their padding), comparisons of one prompt into one tree; a single larger one is a
    micro-batch by itself. Neither the packing nor the layout changes the update. Widths are rounded
    up, but not beyond the model's positions. `attributes`: how many the data set has.
    """

    pad_token_id: int
    micro_batch_tokens: int
    layout: BatchLayout
    attributes: int = 0

    def __call__(self, rows: Sequence[Row]) -> Step:
        """The step of these rows; without rows it has no micro-batches."""
        if not rows:
            return Step([])
        if self.layout.activations is not None and self.layout.activations.pooled:
            return Step([self._batch([rows], self._pooled(rows, self.layout.activations))])
        pack = self._pack_padded if self.layout.layout == "padded" else self._pack_trees
        return Step(pack(rows))

    def _pack_trees(self, rows: Sequence[Row]) -> list[Batch]:
        """First fit, largest comparisons first; beside its prompt a comparison costs little."""
        bins: list[MicroBatchBin] = []
        for row in sorted(rows, key=lambda row: sum(map(len, row["tokens"])), reverse=True):
            alone = PromptTree([], PrefixTreeBuilder()).with_row(row)
            if not any(found.add(row, alone, self.micro_batch_tokens) for found in bins):
                bins.append(MicroBatchBin())
                bins[-1].add(row, alone, math.inf)
        return [self._tree_batch(found) for found in bins]

    def _tree_batch(self, found: MicroBatchBin) -> Batch:
        groups = [tree.rows for tree in found.trees]
        distinct = ((*t.builder.branch_of, *t.builder.contained_in) for t in found.trees)
        lengths = [len(ids) for sequences in distinct for ids in sequences]
        cells = len(lengths) * self._width(max(lengths))
        limit = min(PADDED_DISCOUNT * found.size, max(self.micro_batch_tokens, found.size))
        if self.layout.layout == "mixed" and cells <= limit:
            return self._batch(groups, self._padded([row for group in groups for row in group]))
        return self._batch(groups, self._packed(found.trees))

    def _pack_padded(self, rows: Sequence[Row]) -> list[Batch]:
        """Longest first, to pad little; the first of a micro-batch sets its width."""
        groups: list[list[Row]] = []
        used = width = 0
        for row in sorted(rows, key=lambda row: max(map(len, row["tokens"])), reverse=True):
            count = len(row["tokens"])
            if not groups or used + count * width > self.micro_batch_tokens:
                groups.append([])
                used, width = 0, self._width(max(map(len, row["tokens"])))
            groups[-1].append(row)
            used += count * width
        return [self._batch([group], self._padded(group)) for group in groups]

    def _batch(self, groups: Sequence[Sequence[Row]], layout: dict[str, Any]) -> Batch:
        return _batch(groups, layout, self.attributes)

    def _width(self, longest: int) -> int:
        limit = self.layout.max_positions or sys.maxsize
        return min(bucketed(longest, BUCKET_WIDTHS), max(longest, limit))

    def _packed(self, prompt_trees: Sequence[PromptTree]) -> dict[str, Any]:
        trees: list[Tree] = []
        tokens: list[int] = []
        ends: list[np.ndarray] = []
        for one in prompt_trees:
            tree, packed = one.builder.packed()
            sequences = (ids for row in one.rows for ids in row["tokens"])
            ends.append(len(tokens) + np.array(one.builder.ends(tree, sequences)))
            tokens += packed
            trees.append(tree)
        width = row_width(len(tokens))
        positions = [tree.positions() for tree in trees] + [np.arange(width - len(tokens))]
        tokens += [self.pad_token_id] * (width - len(tokens))
        end_N = torch.from_numpy(np.concatenate(ends))
        pieces = [
            (ids, tree.shared_prefix if branch else 0)
            for tree, one in zip(trees, prompt_trees, strict=True)
            for ids, branch in one.builder.branch_of.items()
        ]
        return self._cached_states([pieces], width) | {
            "tokens_R_T": torch.tensor([tokens]),
            "positions_R_T": torch.from_numpy(np.concatenate(positions))[None],
            "trees": trees,
            "row_N": torch.zeros_like(end_N),
            "end_N": end_N,
        }

    def _padded(self, rows: list[Row]) -> dict[str, Any]:
        row_of: dict[tuple[int, ...], int] = {}
        row_N = [
            row_of.setdefault(tuple(ids), len(row_of)) for row in rows for ids in row["tokens"]
        ]
        lengths = np.array([len(ids) for ids in row_of])
        shape = (len(row_of), self._width(int(lengths.max())))
        padded = np.full(shape, self.pad_token_id, dtype=np.int64)
        for n, ids in enumerate(row_of):
            padded[n, : len(ids)] = ids
        return self._cached_states([[(ids, 0)] for ids in row_of], shape[1]) | {
            "tokens_R_T": torch.from_numpy(padded),
            "positions_R_T": torch.arange(shape[1]).expand(len(padded), -1),
            "trees": None,
            "row_N": torch.tensor(row_N),
            "end_N": torch.from_numpy(lengths - 1)[row_N],
        }

    def _cached_states(self, rows: list[list[Any]], width: int) -> dict[str, Tensor]:
        """The cached activations of a micro-batch; empty without a store.

        For each row of tokens, `rows` has its sequences and the token from which on each is there.
        """
        store = self.layout.activations
        if store is None:
            return {}
        states = np.zeros((len(rows), width, store.states_S_D.shape[1]), dtype=np.float32)
        for row, pieces in zip(states, rows, strict=True):
            flat = np.concatenate([store.of(ids)[first:] for ids, first in pieces])
            row[: len(flat)] = flat
        return {"hidden_R_T_D": torch.from_numpy(states)}

    def _pooled(self, rows: Sequence[Row], store: ActivationStore) -> dict[str, Any]:
        """A micro-batch for the head alone has no tokens."""
        found = [store.of(ids) for row in rows for ids in row["tokens"]]
        zeros_N = torch.zeros(len(found), dtype=torch.int64)
        return {
            "tokens_R_T": zeros_N.new_zeros((0, 0)),
            "positions_R_T": zeros_N.new_zeros((0, 0)),
            "trees": None,
            "row_N": zeros_N,
            "end_N": zeros_N,
            "pooled_N_D": torch.from_numpy(np.concatenate(found)),
        }


def unlabelled_row(tokens: Sequence[Sequence[int]], prompt_key: str = "") -> Row:
    """A row (see `Collate`) of sequences without labels: to score, or to test a model."""
    return {
        "tokens": tokens,
        "pairs": [],
        "margins": [],
        "votes": [],
        "weights": [],
        "ratings": [math.nan] * len(tokens),
        "attributes": [],
        "rank_levels": [-1] * len(tokens),
        "weight": 1.0,
        "prompt_key": prompt_key,
        "row": 0,
    }


def _batch(groups: Sequence[Sequence[Row]], layout: dict[str, Any], attributes: int) -> Batch:
    rows = [row for group in groups for row in group]
    pairs: tuple[list[Any], list[Any]] = ([], [])  # ties, strict preferences
    start = 0
    for row in rows:
        columns = (row["pairs"], row["margins"], row["votes"], row["weights"])
        for (i, j, label), margin, votes, weight in zip(*columns, strict=True):
            pairs[label].append((start + i, start + j, margin, votes, weight * row["weight"]))
        start += len(row["tokens"])
    tied, strict = pairs
    counts = [len(row["tokens"]) for row in rows]
    return Batch(
        **layout,
        better_P=_integers(i for i, *_ in strict),
        worse_P=_integers(j for _, j, *_ in strict),
        margins_P=_floats(margin for _, _, margin, *_ in strict),
        votes_P_3=_floats(votes for *_, votes, _ in strict).view(-1, 3),
        weights_P=_floats(weight for *_, weight in strict),
        tied_Q_2=_integers((i, j) for i, j, *_ in tied).view(-1, 2),
        votes_Q_3=_floats(votes for *_, votes, _ in tied).view(-1, 3),
        weights_Q=_floats(weight for *_, weight in tied),
        ratings_N=_floats(rating for row in rows for rating in row["ratings"]),
        attributes_N_A=_attributes(rows, counts, attributes),
        levels_N=_integers(level for row in rows for level in row["rank_levels"]),
        weights_N=_floats(np.repeat([row["weight"] for row in rows], counts)),
        list_N=_integers(np.repeat(np.arange(len(rows)), counts)),
        items_N=_integers(np.repeat([row["row"] for row in rows], counts)),
    )


def _attributes(rows: Sequence[Row], counts: Sequence[int], attributes: int) -> Tensor:
    """attributes_N_A: rows may have the first attributes only."""
    found_N_A = np.full((sum(counts), attributes), np.nan, dtype=np.float32)
    start = 0
    for row, count in zip(rows if attributes else (), counts, strict=False):
        for k, ratings in enumerate(row["attributes"]):
            found_N_A[start : start + count, k] = ratings
        start += count
    return torch.from_numpy(found_N_A)


def _integers(values: Iterable[Any]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _floats(values: Iterable[Any]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)
