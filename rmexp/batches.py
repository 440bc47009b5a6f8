"""Micro-batches: how the comparisons of an optimizer step are laid out, and the tensors of each.

Shape legend, used all over rmexp: N responses, P strictly judged pairs, R rows of T tokens.
"""

import dataclasses
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rmexp.trees import Growth, Tree, bucketed, row_width

WIDTHS = 8
"""Padded rows are as wide as a multiple of this: few shapes, and little more padding."""

AS_CHEAP = 1.1
"""A token of padded rows costs so much less than one of a tree, whose attention is in pieces."""

Layout = Literal["mixed", "tree", "padded"]


@dataclass
class Batch:
    """One micro-batch of whole comparisons, laid out as rows of tokens in one of two ways.

    Tree layout: one row, the packed trees one after another. Padded layout: one row a response,
    padded on the right, which a causal model never looks at.

    tokens_R_T     int64
    positions_R_T  int64, the position of each token in its own sequence
    trees          the packed trees, in order; None in the padded layout
    row_N, end_N   int64, where the last token of each response lies in `tokens_R_T`
    better_P       int64, index of the better response of each judged pair; worse_P the other
    margins_P      float32, the data's own margin of the pair; NaN where it has none
    weights_P      float32
    ratings_N      float32, higher is better; NaN where unrated
    items_N        int64, the data set's row that the response belongs to
    """

    tokens_R_T: Tensor
    positions_R_T: Tensor
    trees: list[Tree] | None
    row_N: Tensor
    end_N: Tensor
    better_P: Tensor
    worse_P: Tensor
    margins_P: Tensor
    weights_P: Tensor
    ratings_N: Tensor
    items_N: Tensor

    def to(self, device: Any, non_blocking: bool = False) -> "Batch":
        """A copy on `device`."""
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        moved: Any = {name: v.to(device) for name, v in fields.items() if isinstance(v, Tensor)}
        return dataclasses.replace(self, **moved)


@dataclass
class Step:
    """One item of the loader and one update of the optimizer: its micro-batches."""

    batches: list[Batch]

    def to(self, device: Any, non_blocking: bool = False) -> "Step":
        """A copy on `device`."""
        return Step([batch.to(device) for batch in self.batches])


@dataclass(frozen=True)
class Collate:
    """Rows of the data set (see `tokenised.FEATURES`) -> a `Step`.

    Comparisons are packed into micro-batches of at most `micro_batch_tokens` tokens (padded rows
    with their padding), comparisons of one prompt into one tree; a single one above that is a
    micro-batch of its own. The mixed layout is trees, but padded rows for a micro-batch in which
    trees save next to nothing. Neither the packing nor the layout changes the update. Widths are
    rounded up, but not beyond the model's `places`.
    """

    pad_token_id: int
    micro_batch_tokens: int
    layout: Layout
    places: int | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Step:
        """The step of these rows."""
        pack = self._by_length if self.layout == "padded" else self._trees
        return Step(pack(rows))

    def _trees(self, rows: Sequence[dict[str, Any]]) -> list[Batch]:
        """First fit, largest comparisons first; where its prompt is already, one costs little."""
        bins: list[_Bin] = []
        for row in sorted(rows, key=lambda row: sum(map(len, row["tokens"])), reverse=True):
            alone = _Growing([], Growth()).with_row(row)
            if not any(found.add(row, alone, self.micro_batch_tokens) for found in bins):
                bins.append(_Bin())
                bins[-1].add(row, alone, math.inf)
        return [self._as_trees(found) for found in bins]

    def _as_trees(self, found: "_Bin") -> Batch:
        """The micro-batch of a bin."""
        groups = [tree.rows for tree in found.trees]
        lengths = [len(ids) for tree in found.trees for ids in tree.growth.places]
        cells = len(lengths) * self._width(max(lengths))
        most = min(AS_CHEAP * found.size, max(self.micro_batch_tokens, found.size))
        if self.layout == "mixed" and cells <= most:
            return self._batch(groups, self._padded([row for group in groups for row in group]))
        return self._batch(groups, self._packed(found.trees))

    def _by_length(self, rows: Sequence[dict[str, Any]]) -> list[Batch]:
        """Longest first, so that little is padded; the first of a micro-batch sets its width."""
        groups: list[list[dict[str, Any]]] = []
        used = width = 0
        for row in sorted(rows, key=lambda row: max(map(len, row["tokens"])), reverse=True):
            count = len(row["tokens"])
            if not groups or used + count * width > self.micro_batch_tokens:
                groups.append([])
                used, width = 0, self._width(max(map(len, row["tokens"])))
            groups[-1].append(row)
            used += count * width
        return [self._batch([group], self._padded(group)) for group in groups]

    def _width(self, longest: int) -> int:
        return min(bucketed(longest, WIDTHS), max(longest, self.places or sys.maxsize))

    def _batch(self, groups: list[list[dict[str, Any]]], layout: dict[str, Any]) -> Batch:
        rows = [row for group in groups for row in group]
        pairs, margins, weights, start = [], [], [], 0
        for row in rows:
            for (i, j, verdict), m, w in zip(
                row["pairs"], row["margins"], row["weights"], strict=True
            ):
                if verdict:
                    pairs.append((start + i, start + j))
                    margins.append(m)
                    weights.append(w)
            start += len(row["tokens"])
        pairs_P_2 = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
        return Batch(
            **layout,
            better_P=pairs_P_2[:, 0],
            worse_P=pairs_P_2[:, 1],
            margins_P=torch.tensor(margins, dtype=torch.float32),
            weights_P=torch.tensor(weights, dtype=torch.float32),
            ratings_N=torch.tensor(
                [r for row in rows for r in row["ratings"]], dtype=torch.float32
            ),
            items_N=torch.tensor([row["row"] for row in rows for _ in row["tokens"]]),
        )

    def _packed(self, grown: Sequence["_Growing"]) -> dict[str, Any]:
        trees: list[Tree] = []
        tokens: list[int] = []
        ends: list[np.ndarray] = []
        for one in grown:
            tree, packed = one.growth.packed()
            branch = [one.growth.places[tuple(ids)] for row in one.rows for ids in row["tokens"]]
            ends.append(len(tokens) + tree.ends()[branch])
            tokens += packed
            trees.append(tree)
        wide = row_width(len(tokens))
        positions = [tree.positions() for tree in trees] + [np.arange(wide - len(tokens))]
        tokens += [self.pad_token_id] * (wide - len(tokens))
        end_N = torch.from_numpy(np.concatenate(ends))
        return {
            "tokens_R_T": torch.tensor([tokens]),
            "positions_R_T": torch.from_numpy(np.concatenate(positions))[None],
            "trees": trees,
            "row_N": torch.zeros_like(end_N),
            "end_N": end_N,
        }

    def _padded(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        places: dict[tuple[int, ...], int] = {}
        row_N = [
            places.setdefault(tuple(ids), len(places)) for row in rows for ids in row["tokens"]
        ]
        lengths = np.array([len(ids) for ids in places])
        shape = (len(places), self._width(int(lengths.max())))
        padded = np.full(shape, self.pad_token_id, dtype=np.int64)
        for n, ids in enumerate(places):
            padded[n, : len(ids)] = ids
        return {
            "tokens_R_T": torch.from_numpy(padded),
            "positions_R_T": torch.arange(padded.shape[1]).expand(len(padded), -1),
            "trees": None,
            "row_N": torch.tensor(row_N),
            "end_N": torch.from_numpy(lengths - 1)[row_N],
        }


class _Bin:
    """A micro-batch while it fills: the trees in it, a group of comparisons each."""

    def __init__(self) -> None:
        self.trees: list[_Growing] = []
        self.size = 0

    def add(self, row: dict[str, Any], alone: "_Growing", most: float) -> bool:
        """Take the comparison, `alone` its tree, if all trees then have `most` tokens or fewer.

        It joins a tree of its prompt where that saves tokens: prompts of which one lost its oldest
        turns, or pairs of responses that share much themselves, stay apart.
        """
        place, grown, more = len(self.trees), alone, alone.size
        for n, tree in enumerate(self.trees):
            if tree.rows[0]["prompt_key"] == row["prompt_key"]:
                joined = tree.with_row(row)
                if joined.size - tree.size < more:
                    place, grown, more = n, joined, joined.size - tree.size
        if self.size + more > most:
            return False
        self.trees[place:] = [grown, *self.trees[place + 1 :]]
        self.size += more
        return True


@dataclass(frozen=True)
class _Growing:
    """A tree in a bin: its comparisons and their responses."""

    rows: list[dict[str, Any]]
    growth: Growth

    def with_row(self, row: dict[str, Any]) -> "_Growing":
        """The tree with one more comparison."""
        return _Growing([*self.rows, row], self.growth.with_sequences(row["tokens"]))

    @property
    def size(self) -> int:
        """Tokens of the packed tree."""
        return self.growth.size
