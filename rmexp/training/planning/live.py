"""How many bytes a computation holds, as it goes: run on tensors that have shapes and no content.

Every operator's outputs are seen, those of backward passes too. A storage counts from the operator
that makes it until nothing refers to it, as an allocator would have it.
"""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

KINDS = ("activations", "casts", "gradients", "heap")
"""What is told apart: gradients of parameters; copies of parameters in another precision, as
autocast makes them; all else; and what a CPU's heap loses between blocks of the latter two."""


ACTIVATIONS, CASTS, GRADIENTS, HEAP = range(len(KINDS))


GAPS = 0.4
"""Freed blocks between those in use, as a share of the latter. Measured with glibc on runs of
SmolLM2: 0.33 to 0.63."""


MAPPED = 32 * 2**20
"""Bytes from which on glibc gives a block pages of its own, which go back when it is freed."""


@dataclass
class Stretch:
    """A part of the computation: bytes of each kind when it starts, at its peak, when it ends.

    layer  which layer is at work; None: what comes before, between or after layers
    """

    name: str
    layer: int | None
    start: np.ndarray
    peak: np.ndarray
    end: np.ndarray


class Live(TorchDispatchMode):
    """Within, memory is counted, from `mark` to `mark`.

    Args:
        parameters: they are there before, and are not counted.
        gaps: see `GAPS`; an accelerator's memory has none.
    """

    def __init__(self, parameters: Iterable[Tensor], gaps: float = 0.0) -> None:
        super().__init__()
        self.gaps = gaps
        self.stretches: list[Stretch] = []
        self._now = np.zeros(len(KINDS), dtype=np.int64)
        self._alive: dict[int, tuple[weakref.ref[Any], list[int]]] = {}
        self._given = {
            id(storage): storage for p in parameters for storage in [p.untyped_storage()]
        }

    def mark(self, name: str, layer: int | None = None) -> None:
        """A new stretch begins."""
        now = self._now.copy()
        if self.stretches:
            self.stretches[-1].end = now
        self.stretches.append(Stretch(name, layer, now, now, now))

    def finish(self) -> list[Stretch]:
        """The stretches, the last one closed."""
        self.stretches[-1].end = self._now.copy()
        return self.stretches

    def is_gradient(self, parameter: Tensor) -> None:
        """What `parameter.grad` holds is a gradient, whatever operator made it."""
        assert parameter.grad is not None
        found = self._alive.get(id(parameter.grad.untyped_storage()))
        if found is not None:
            size, kind = found[1]
            self._add(-size, kind)
            self._add(size, GRADIENTS)
            found[1][1] = GRADIENTS

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operator, and count what it made."""
        out = func(*args, **(kwargs or {}))
        cast = func is torch.ops.aten._to_copy.default and self._is_given(args[0])
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._count(tensor.untyped_storage(), CASTS if cast else ACTIVATIONS)
        return out

    def _is_given(self, tensor: Tensor) -> bool:
        return id(tensor.untyped_storage()) in self._given

    def _count(self, storage: torch.UntypedStorage, kind: int) -> None:
        key = id(storage)
        if key in self._alive or key in self._given:
            return
        entry = [storage.nbytes(), kind]
        self._alive[key] = (weakref.ref(storage, lambda _: self._forget(key)), entry)
        self._add(*entry)
        if self.stretches and self._now.sum() > self.stretches[-1].peak.sum():
            self.stretches[-1].peak = self._now.copy()

    def _forget(self, key: int) -> None:
        _, (size, kind) = self._alive.pop(key)
        self._add(-size, kind)

    def _add(self, size: int, kind: int) -> None:
        self._now[kind] += size
        if kind != GRADIENTS and abs(size) < MAPPED:
            self._now[HEAP] += int(self.gaps * size)


def repeated(
    stretches: Iterable[Stretch], counts: Mapping[int, int], share: float = 1.0
) -> tuple[str, np.ndarray]:
    """The peak of the whole computation, where layer k is met `counts[k]` times in a row.

    Args:
        share: of each gradient that is kept.

    Returns the name of the stretch that it is in, and the bytes of each kind.
    """
    live = np.zeros(len(KINDS))
    where, most, kept = "", live, np.ones(len(KINDS))
    kept[GRADIENTS] = share
    for one in stretches:
        times = 1 if one.layer is None else counts[one.layer]
        if not times:
            continue
        step = (one.end - one.start) * kept
        peak = live + (one.peak - one.start) * kept
        if step.sum() > 0:
            peak = peak + (times - 1) * step
        if peak.sum() > most.sum():
            where, most = one.name, peak
        live = live + times * step
    return where, most
