"""Optimizer steps: which comparisons share one, and the loaders that yield them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from rmexp.batching.batch import Step
from rmexp.batching.collate import Collate
from rmexp.batching.rank_partition import RankPartition


@dataclass(frozen=True)
class BatchPlan:
    """Which comparisons share an optimizer step; the same for every layout and number of workers.

    Units (comparisons, or all comparisons of a prompt) are shuffled by seed and epoch; a step takes
    the next `batch_size` of them or, with `tokens_per_batch`, units with about that many distinct
    tokens. Every epoch has the same number of steps.

    Args:
        rows: rows of the data set, C of them.
        units: (C,) the unit of each, 0 to U - 1.
        sizes: (C,) distinct tokens of each.
        batch_size: units of a step.
        tokens_per_batch: no unit may have more tokens; None: `batch_size` decides.
        seed: of the order.
        sampling_rate: (C,) expected draws of each row in an epoch, mean 1; None: each once. A unit
            of several rows has their mean. An epoch has as many draws as units either way, and a
            unit's draws differ from its `unit_rates` by less than one.
    """

    rows: np.ndarray
    units: np.ndarray
    sizes: np.ndarray
    batch_size: int
    tokens_per_batch: int | None
    seed: int
    sampling_rate: np.ndarray | None = None

    def __len__(self) -> int:
        if self.tokens_per_batch is None:
            return -(-self._count // self.batch_size)
        # Rounded down, so that a step's share is at least as large as any unit and none is empty.
        return max(1, int(self.sizes.sum()) // self.tokens_per_batch)

    @property
    def _count(self) -> int:
        return int(self.units.max()) + 1 if len(self.units) else 0

    def steps(self, epoch: int) -> list[list[int]]:
        """The rows of each step of an epoch."""
        drawn_U = self._draw(np.random.default_rng([self.seed, epoch]))
        by_unit_C = self.rows[np.argsort(self.units, kind="stable")]
        rows_U = np.split(by_unit_C, np.cumsum(np.bincount(self.units))[:-1])
        if self.tokens_per_batch is None:
            step_U = np.arange(self._count) // self.batch_size
        else:
            sizes_U = np.bincount(self.units, weights=self.sizes)[drawn_U]
            before_U = np.cumsum(sizes_U) - sizes_U
            step_U = (before_U * len(self) // sizes_U.sum()).astype(np.int64)
        steps: list[list[int]] = [[] for _ in range(len(self))]
        for unit, step in zip(drawn_U.tolist(), step_U.tolist(), strict=True):
            steps[step] += rows_U[unit].tolist()
        return steps

    def unit_rates(self) -> np.ndarray:
        """(U,) expected draws of each unit in an epoch; mean 1."""
        if self.sampling_rate is None:
            return np.ones(self._count)
        rates_U = np.bincount(self.units, weights=self.sampling_rate) / np.bincount(self.units)
        return rates_U / rates_U.sum() * self._count

    def _draw(self, rng: np.random.Generator) -> np.ndarray:
        """(U,) the units of an epoch in order."""
        order_U = np.argsort(rng.permutation(self._count))
        if self.sampling_rate is None:
            return order_U
        # Systematic sampling: U evenly spaced marks over the units laid end to end, each as long as
        # its rate.
        ends_U = np.cumsum(self.unit_rates()[order_U])
        marks_U = rng.random() + np.arange(self._count)
        drawn_U = np.searchsorted(ends_U, marks_U, side="right").clip(max=self._count - 1)
        return rng.permutation(order_U[drawn_U])


class StepLoader:
    """Yields the steps of an epoch, and resumes in the middle of one.

    Lightning stores and restores `state_dict()`; a plain `DataLoader` would replay the start of the
    epoch. Worker seeds come from a generator of the loader, not from the global random state.

    Args:
        partition: the part of each step that this process takes, which may be empty; None: the
            whole step. Steps are the same for any number of processes.
    """

    def __init__(
        self,
        rows: Any,
        plan: BatchPlan,
        collate: Collate,
        workers: int,
        partition: RankPartition | None = None,
    ) -> None:
        self.rows, self.plan, self.collate, self.workers = rows, plan, collate, workers
        self.partition = partition
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        """Steps of a whole epoch."""
        return len(self.plan)

    def __iter__(self) -> Iterator[Step]:
        if self.done >= len(self):
            self.epoch, self.done = self.epoch + 1, 0
        left = self.plan.steps(self.epoch)[self.done :]
        loader: DataLoader = DataLoader(
            IndexedRows(self.rows),
            batch_sampler=left if self.partition is None else map(self.partition.of, left),
            collate_fn=self.collate,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),
        )
        for step in loader:
            self.done += 1
            yield step

    def state_dict(self) -> dict[str, int]:
        """Epoch, and the number of its steps that were yielded."""
        return {"epoch": self.epoch, "done": self.done}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Resume where `state_dict()` was called."""
        self.epoch, self.done = state["epoch"], state["done"]


class IndexedRows(Dataset):
    """A memory-mapped data set whose rows have their index; `texts` stay on disk."""

    def __init__(self, rows: Any) -> None:
        self.rows = rows.remove_columns("texts") if "texts" in rows.column_names else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "row": index}


def evaluation_loader(
    rows: Any,
    indices: np.ndarray,
    units: np.ndarray,
    lengths: np.ndarray,
    collate: Collate,
    batch_size: int,
    rank: int = 0,
    count: int = 1,
) -> DataLoader:
    """Every row once, longest first to pad little; rows of one prompt share a step.

    The `count` processes take the steps in turn; the last step of some may be empty.

    Args:
        indices: the rows to score, C of them.
        units: (C,) the prompt of each, 0 to U - 1.
        lengths: (C,) tokens of the longest response of each.
        batch_size: a step ends with the prompt that reaches this many comparisons.
    """
    longest_U = np.zeros(int(units.max()) + 1 if len(units) else 0)
    np.maximum.at(longest_U, units, lengths)
    order_C = np.lexsort((units, -longest_U[units]))
    steps: list[list[int]] = []
    last = -1
    for index, unit in zip(indices[order_C].tolist(), units[order_C].tolist(), strict=True):
        if not steps or (unit != last and len(steps[-1]) >= batch_size):
            steps.append([])
        steps[-1].append(index)
        last = unit
    steps += [[] for _ in range(-len(steps) % count)]
    return DataLoader(
        IndexedRows(rows),
        batch_sampler=steps[rank::count],
        collate_fn=collate,
        generator=torch.Generator().manual_seed(0),
    )
