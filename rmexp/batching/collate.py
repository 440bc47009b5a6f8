"""Micro-batches: how the comparisons of an optimizer step are laid out, and the tensors of each.

Shape legend, used all over rmexp: N responses, P strictly judged pairs, Q tied ones, R rows of T
tokens, D the width of a hidden state.
"""

import dataclasses
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from rmexp.batching.activation_store import ActivationStore
from rmexp.batching.prefix_tree import PrefixTreeBuilder, Tree, bucketed, row_width

BUCKET_WIDTHS = 8
"""Padded rows are as wide as a multiple of this: few shapes, and little more padding."""


AS_CHEAP = 1.1
"""A token of padded rows costs so much less than one of a tree, whose attention is in pieces."""


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
    votes_P_3      float32, shares of the votes for the better one, the worse one, and a tie
    weights_P      float32, of the judgement times that of its row
    tied_Q_2       int64, indices of the responses of each pair that people tied
    votes_Q_3      float32, shares of the votes for its first, its second, and a tie
    weights_Q      float32
    ratings_N      float32, higher is better; NaN where unrated
    levels_N       int64, the place in the order of its comparison, 0 the lowest; -1 outside of it
    weights_N      float32, of the row
    list_N         int64, which comparison of this micro-batch it belongs to; never falls
    items_N        int64, the data set's row that the response belongs to
    hidden_R_T_D   float32, the tokens' states at the end of the model's frozen part; None: not kept
    pooled_N_D     float32, what the reward head reads, where all below it is frozen; None: not kept
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
    levels_N: Tensor
    weights_N: Tensor
    list_N: Tensor
    items_N: Tensor
    hidden_R_T_D: Tensor | None = None
    pooled_N_D: Tensor | None = None

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
    """Rows of the data set (see `token_dataset.TOKEN_SCHEMA`) -> a `Step`.

    Comparisons are packed into micro-batches of at most `micro_batch_tokens` tokens (padded rows
    with their padding), comparisons of one prompt into one tree; a single larger one is a
    micro-batch by itself. Neither the packing nor the layout changes the update. Widths are rounded
    up, but not beyond the model's positions.
    """

    pad_token_id: int
    micro_batch_tokens: int
    layout: BatchLayout

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Step:
        """The step of these rows; without rows it has no micro-batches."""
        if not rows:
            return Step([])
        if self.layout.activations is not None and self.layout.activations.pooled:
            return Step([self._batch([list(rows)], self._headed(rows))])
        pack = self._by_length if self.layout.layout == "padded" else self._trees
        return Step(pack(rows))

    def _trees(self, rows: Sequence[dict[str, Any]]) -> list[Batch]:
        """First fit, largest comparisons first; where its prompt is already, one costs little."""
        bins: list[_Bin] = []
        for row in sorted(rows, key=lambda row: sum(map(len, row["tokens"])), reverse=True):
            alone = _Growing([], PrefixTreeBuilder()).with_row(row)
            if not any(found.add(row, alone, self.micro_batch_tokens) for found in bins):
                bins.append(_Bin())
                bins[-1].add(row, alone, math.inf)
        return [self._as_trees(found) for found in bins]

    def _as_trees(self, found: "_Bin") -> Batch:
        """The micro-batch of a bin."""
        groups = [tree.rows for tree in found.trees]
        distinct = ((*tree.growth.places, *tree.growth.inside) for tree in found.trees)
        lengths = [len(ids) for sequences in distinct for ids in sequences]
        cells = len(lengths) * self._width(max(lengths))
        most = min(AS_CHEAP * found.size, max(self.micro_batch_tokens, found.size))
        if self.layout.layout == "mixed" and cells <= most:
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
        limit = self.layout.max_positions or sys.maxsize
        return min(bucketed(longest, BUCKET_WIDTHS), max(longest, limit))

    def _batch(self, groups: list[list[dict[str, Any]]], layout: dict[str, Any]) -> Batch:
        rows = [row for group in groups for row in group]
        judged: tuple[list[Any], list[Any]] = ([], [])  # ties, strict verdicts
        start = 0
        for row in rows:
            parts = (row["pairs"], row["margins"], row["votes"], row["weights"])
            for (i, j, verdict), margin, votes, weight in zip(*parts, strict=True):
                found = (start + i, start + j, margin, votes, weight * row["weight"])
                judged[verdict].append(found)
            start += len(row["tokens"])
        tied, strict = judged
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
            levels_N=_integers(level for row in rows for level in row["levels"]),
            weights_N=_floats(np.repeat([row["weight"] for row in rows], counts)),
            list_N=_integers(np.repeat(np.arange(len(rows)), counts)),
            items_N=_integers(np.repeat([row["row"] for row in rows], counts)),
        )

    def _packed(self, grown: Sequence["_Growing"]) -> dict[str, Any]:
        trees: list[Tree] = []
        tokens: list[int] = []
        ends: list[np.ndarray] = []
        for one in grown:
            tree, packed = one.growth.packed()
            sequences = (ids for row in one.rows for ids in row["tokens"])
            ends.append(len(tokens) + np.array(one.growth.ends(tree, sequences)))
            tokens += packed
            trees.append(tree)
        wide = row_width(len(tokens))
        positions = [tree.positions() for tree in trees] + [np.arange(wide - len(tokens))]
        tokens += [self.pad_token_id] * (wide - len(tokens))
        end_N = torch.from_numpy(np.concatenate(ends))
        stretches = [
            (ids, tree.trunk if place else 0)
            for tree, one in zip(trees, grown, strict=True)
            for ids, place in one.growth.places.items()
        ]
        return self._frozen([stretches], wide) | {
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
        stretches = [[(ids, 0)] for ids in places]
        return self._frozen(stretches, padded.shape[1]) | {
            "tokens_R_T": torch.from_numpy(padded),
            "positions_R_T": torch.arange(padded.shape[1]).expand(len(padded), -1),
            "trees": None,
            "row_N": torch.tensor(row_N),
            "end_N": torch.from_numpy(lengths - 1)[row_N],
        }

    def _frozen(self, stretches: list[list[Any]], wide: int) -> dict[str, Tensor]:
        """What the frozen part makes of a micro-batch, where that is kept.

        `stretches` are, for each row of tokens, the sequences in it, and the token from which on
        each of them is there.
        """
        kept = self.layout.activations
        if kept is None:
            return {}
        states = np.zeros((len(stretches), wide, kept.states_S_D.shape[1]), dtype=np.float32)
        for row, parts in zip(states, stretches, strict=True):
            flat = np.concatenate([kept.of(ids)[first:] for ids, first in parts])
            row[: len(flat)] = flat
        return {"hidden_R_T_D": torch.from_numpy(states)}

    def _headed(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """A micro-batch that goes through the head alone has no tokens."""
        kept = self.layout.activations
        assert kept is not None
        found = [kept.of(ids) for row in rows for ids in row["tokens"]]
        nowhere = torch.zeros(len(found), dtype=torch.int64)
        return {
            "tokens_R_T": nowhere.new_zeros((0, 0)),
            "positions_R_T": nowhere.new_zeros((0, 0)),
            "trees": None,
            "row_N": nowhere,
            "end_N": nowhere,
            "pooled_N_D": torch.from_numpy(np.concatenate(found)),
        }


def unlabelled_row(tokens: Sequence[Sequence[int]], prompt_key: str = "") -> dict[str, Any]:
    """The row (see `Collate`) of sequences that nobody judged: to be scored, or to try a model."""
    return {
        "tokens": tokens,
        "pairs": [],
        "margins": [],
        "votes": [],
        "weights": [],
        "ratings": [math.nan] * len(tokens),
        "levels": [-1] * len(tokens),
        "weight": 1.0,
        "prompt_key": prompt_key,
        "row": 0,
    }


def _integers(values: Iterable[Any]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.int64)


def _floats(values: Iterable[Any]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)


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
    growth: PrefixTreeBuilder

    def with_row(self, row: dict[str, Any]) -> "_Growing":
        """The tree with one more comparison."""
        return _Growing([*self.rows, row], self.growth.with_sequences(row["tokens"]))

    @property
    def size(self) -> int:
        """Tokens of the packed tree."""
        return self.growth.size
