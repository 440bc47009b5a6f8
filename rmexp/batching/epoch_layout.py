"""Micro-batches of an epoch before it runs: the largest one, and how much work there is."""

from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np

from rmexp.batching.batch import Batch
from rmexp.batching.collate import Collate
from rmexp.batching.rank_partition import RankPartition
from rmexp.batching.step_loader import IndexedRows

LAID_OUT = 128
"""Steps that are laid out; of an epoch of more, evenly spread ones and the largest."""


def lay_out_epoch(
    steps: Sequence[Sequence[int]], partition: RankPartition, rows: Any, collate: Collate
) -> tuple[Batch, dict[str, int]]:
    """The micro-batch with the most cells, and counts of the epoch on all devices.

    Tokens are distinct ones, keys those that they attend to; both are extrapolated from the steps
    that are laid out. `micro_batches` is the most that a device has in one of these.

    Args:
        steps: numbers of `rows` in each step.
    """
    sizes = np.array([partition.sizes[list(step)].sum() for step in steps])
    spread = np.linspace(0, len(steps) - 1, LAID_OUT).round().astype(int)
    chosen = np.unique([*spread, *np.argsort(-sizes, kind="stable")[: LAID_OUT // 8]])
    indexed, hands = IndexedRows(rows), chain(*(partition.by_rank(steps[n]) for n in chosen))
    dealt = [collate([indexed[int(row)] for row in hand]).batches for hand in hands]
    tokens, keys = _work(chain(*dealt)) * (sizes.sum() / sizes[chosen].sum())
    return max(chain(*dealt), key=lambda batch: batch.tokens_R_T.numel()), {
        "steps": len(steps),
        "comparisons": sum(map(len, steps)),
        "laid_out": len(chosen),
        "micro_batches": max(map(len, dealt)),
        "tokens": round(tokens),
        "keys": round(keys),
    }


def _work(batches: Iterable[Batch]) -> np.ndarray:
    """Tokens without padding, and keys: a token at position p attends to p + 1."""
    total = np.zeros(2)
    for batch in batches:
        ends = set(zip(batch.row_N.tolist(), batch.end_N.tolist(), strict=True))
        padded = [np.arange(end + 1) for _, end in ends]
        for positions in padded if batch.trees is None else [t.positions() for t in batch.trees]:
            total += len(positions), positions.sum() + len(positions)
    return total
