"""Steps and micro-batches: which comparisons share an optimizer step, and the tensors of each.

Shape legend, used all over rmexp: N responses, P strictly judged pairs, R rows of T tokens.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from rmexp.trees import Tree, grow


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
    comparisons: int

    def to(self, device: Any, non_blocking: bool = False) -> "Step":
        """A copy on `device`."""
        return Step([batch.to(device) for batch in self.batches], self.comparisons)


@dataclass(frozen=True)
class Collate:
    """Rows of the data set (see `tokenised.FEATURES`) -> a `Step`.

    Rows are sorted by length and cut into micro-batches of at most `micro_batch_tokens` tokens,
    padding included; a single comparison above that is a micro-batch of its own. Neither the cut
    nor the layout changes the update.
    """

    pad_token_id: int
    micro_batch_tokens: int
    layout: Literal["tree", "padded"]

    def __call__(self, rows: Sequence[dict[str, Any]]) -> Step:
        """The step of these rows, longest first."""
        order = sorted(rows, key=lambda row: max(map(len, row["tokens"])), reverse=True)
        groups: list[list[dict[str, Any]]] = []
        used = 0
        for row in order:
            size = self._size(row, groups[-1][0] if groups else row)
            if not groups or used + size > self.micro_batch_tokens:
                groups.append([])
                used, size = 0, self._size(row, row)
            groups[-1].append(row)
            used += size
        return Step([self._batch(group) for group in groups], len(rows))

    def _size(self, row: dict[str, Any], longest: dict[str, Any]) -> int:
        if self.layout == "tree":
            return grow(row["tokens"])[0].size
        return len(row["tokens"]) * max(map(len, longest["tokens"]))

    def _batch(self, rows: list[dict[str, Any]]) -> Batch:
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
        layout = self._packed(rows) if self.layout == "tree" else self._padded(rows)
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

    def _packed(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        trees: list[Tree] = []
        tokens: list[int] = []
        ends: list[np.ndarray] = []
        for row in rows:
            tree, packed = grow(row["tokens"])
            ends.append(len(tokens) + tree.ends())
            tokens += packed
            trees.append(tree)
        end_N = torch.from_numpy(np.concatenate(ends))
        return {
            "tokens_R_T": torch.tensor([tokens]),
            "positions_R_T": torch.from_numpy(np.concatenate([tree.positions() for tree in trees]))[
                None
            ],
            "trees": trees,
            "row_N": torch.zeros_like(end_N),
            "end_N": end_N,
        }

    def _padded(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        tokens = [ids for row in rows for ids in row["tokens"]]
        padded = np.full((len(tokens), max(map(len, tokens))), self.pad_token_id, dtype=np.int64)
        for n, ids in enumerate(tokens):
            padded[n, : len(ids)] = ids
        return {
            "tokens_R_T": torch.from_numpy(padded),
            "positions_R_T": torch.arange(padded.shape[1]).expand(len(tokens), -1),
            "trees": None,
            "row_N": torch.arange(len(tokens)),
            "end_N": torch.tensor([len(ids) - 1 for ids in tokens]),
        }


def shuffled_steps(rows: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """The steps of one epoch: a permutation of `rows` by seed and epoch, cut into `batch_size`s."""
    order = np.random.default_rng([seed, epoch]).permutation(rows)
    return [
        order[start : start + batch_size].tolist() for start in range(0, len(order), batch_size)
    ]


class StepLoader:
    """Yields the steps of an epoch, knows where it is, and goes on from there after a resume.

    Lightning stores and restores `state_dict()`. A plain `DataLoader` would replay the epoch's
    start. Its own generator keeps worker seeds from drawing on the global random state.
    """

    def __init__(
        self,
        rows: Any,
        indices: np.ndarray,
        collate: Collate,
        batch_size: int,
        seed: int,
        workers: int,
    ) -> None:
        self.rows, self.indices, self.collate = rows, indices, collate
        self.batch_size, self.seed, self.workers = batch_size, seed, workers
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        """Steps of a whole epoch, wherever the loader stands."""
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[Step]:
        if self.done >= len(self):
            self.epoch, self.done = self.epoch + 1, 0
        steps = shuffled_steps(self.indices, self.batch_size, self.seed, self.epoch)[self.done :]
        loader: DataLoader = DataLoader(
            IndexedRows(self.rows),
            batch_sampler=steps,
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),
        )
        for step in loader:
            self.done += 1
            yield step

    def state_dict(self) -> dict[str, int]:
        """Epoch, and steps of it that were handed out."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where `state_dict()` was taken."""
        self.epoch, self.done = state["epoch"], state["done"]


class IndexedRows(Dataset):
    """A memory-mapped data set whose rows know their number; `texts` stay on disk."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows.remove_columns("texts") if "texts" in rows.column_names else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "row": index}


def evaluation_loader(
    rows: Any, indices: np.ndarray, collate: Collate, batch_size: int
) -> DataLoader:
    """Rows in order of length, so that little is padded; every row exactly once."""
    lengths = np.array([max(map(len, ids)) for ids in rows.select(indices)["tokens"]])
    order = indices[np.argsort(-lengths, kind="stable")].tolist()
    steps = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return DataLoader(
        IndexedRows(rows),
        batch_sampler=steps,
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
    )
