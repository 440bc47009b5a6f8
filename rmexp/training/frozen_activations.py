"""Cached activations: the output of a model's frozen part, computed once and read from disk.

With `tune=last_layers` the frozen part is the layers below the first one that trains, with
`tune=head` everything below the reward head. Its output for a token sequence never changes, so that
epochs, jobs of a sweep and later sweeps read it from the cache (`activation_store`).
"""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.activation_store import FACTS, ActivationStore
from rmexp.batching.collate import BatchLayout
from rmexp.batching.prefix_tree import tree_size
from rmexp.batching.step_loader import IndexedRows
from rmexp.core.console import format_bytes
from rmexp.core.disk_cache import directory_bytes, load_or_build, remove_oldest
from rmexp.core.errors import note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.models.frozen_layers import ReplayLayer, SkippedLayer
from rmexp.models.reward_model import (
    DROPOUTS,
    backbone,
    compute_rewards,
    head_layers,
    model_facts,
)
from rmexp.models.tuning import frozen_layers, layers
from rmexp.training.frozen_part import FrozenPart, prompt_sequences

STORES = "features"
"""The folder of the cache that has the stores of all models and data sets."""

TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 3e-2}
"""Maximum relative difference of rewards with and without cached activations, by precision."""


@dataclass(frozen=True)
class CachedActivations:
    """The cached activations of a model's frozen part.

    Attributes:
        features: the store.
        layers: number of leading layers that are skipped; all of them and the final norm if the
            store is `pooled`.
        facts: about the store, for `result.json`.
    """

    features: ActivationStore
    layers: int
    facts: dict[str, Any]

    def line(self) -> str:
        part = "the frozen model" if self.features.pooled else f"{self.layers} frozen layers"
        size = format_bytes(self.facts["mib"] * 2**20)
        how = "from the cache" if self.facts["from_cache"] else f"{self.facts['seconds']} s"
        return f"features: cached activations of {part}, {size}, {how}"


def load_or_compute(
    model: Any,
    data: ComparisonData,
    layout: BatchLayout,
    precision: str,
    limit_gib: float,
    progress: Callable[[str, int], None],
) -> CachedActivations | None:
    """The cached activations of all rows of `data`, computed now if the cache has none.

    Rows outside the splits are included, so that folds and other losses share a store. The stores
    of all models and data have `limit_gib` together: those that were used longest ago go.

    Returns:
        None with a note if the frozen part cannot be computed separately; None without one if
        nothing is frozen or `limit_gib` is 0.
    """
    count = frozen_layers(model) if limit_gib else 0
    if not count:
        return None
    pooled = not any(p.requires_grad for p in backbone(model).parameters())
    part = FrozenPart(model, data, layout, count, pooled, precision)
    started = time.monotonic()
    home = data.cache / STORES / part.cache_key()
    reason = _not_separable(model)
    # Computing the size of a store reads all rows: not needed for an existing store.
    if reason is None and not (home / FACTS).is_file():
        needed = _bytes_needed(model, data, pooled)
        reason = _too_large(needed, home.parent, limit_gib)
        if reason is None:
            room = min(int(limit_gib * 2**30), _disk_room(home.parent))
            remove_oldest(home.parent, room - needed)
    if reason is not None:
        note_fallback(f"The frozen part of the model is computed in each step, as {reason}.")
        return None
    store, from_cache = load_or_build(
        home, ActivationStore.open, lambda folder: part.compute(folder, progress)
    )
    difference = _reward_difference(part, store)
    if not difference <= TOLERANCES[precision]:
        note_fallback(
            "The frozen part of the model is computed in each step: with cached activations it "
            f"gives rewards that differ by {difference:.1e} (relative)."
        )
        return None
    facts = {
        "layers": count,
        "pooled": pooled,
        "mib": round(store.states_S_D.nbytes / 2**20, 1),
        "from_cache": from_cache,
        "seconds": round(time.monotonic() - started, 1),
    }
    return CachedActivations(store, count, facts)


@contextlib.contextmanager
def skip_frozen_layers(
    model: Any, layout: BatchLayout, cached: CachedActivations | None
) -> Iterator[BatchLayout]:
    """Let the model read cached activations; yields the layout of batches that carry them."""
    if cached is None:
        yield layout
        return
    replaced: dict[str, nn.Module] = {}
    if not cached.features.pooled:
        below = {id(layer) for layer in layers(model)[: cached.layers]}
        replaced = {name: module for name, module in model.named_modules() if id(module) in below}
        for name, layer in replaced.items():
            model.set_submodule(name, SkippedLayer(layer))
        *_, last = replaced
        model.set_submodule(last, ReplayLayer(replaced[last]))
    try:
        yield dataclasses.replace(layout, activations=cached.features)
    finally:
        for name, layer in replaced.items():
            model.set_submodule(name, layer)


def reason_not_cached(
    model: Any, data: ComparisonData, pooled: bool, limit_gib: float
) -> str | None:
    """Why the activations of the frozen part cannot be cached, or None."""
    return _not_separable(model) or _too_large(
        _bytes_needed(model, data, pooled), data.cache / STORES, limit_gib
    )


def _not_separable(model: Any) -> str | None:
    config = model.config.get_text_config()
    if head_layers(model) is None or model_facts(model).attends_to_future:
        return "it does not read one token after the other"
    if any(getattr(config, name, 0) for name in DROPOUTS):
        return "it has dropout"
    return None


def _bytes_needed(model: Any, data: ComparisonData, pooled: bool) -> int:
    """The size of a store of all rows."""
    size = sum(len(chunk) if pooled else tree_size(chunk) for _, chunk in prompt_sequences(data))
    return size * model.config.get_text_config().hidden_size * 4


def _too_large(needed: int, stores: Path, limit_gib: float) -> str | None:
    """Why a store of `needed` bytes cannot be among these stores, or None."""
    if needed > limit_gib * 2**30:
        return f"it would take {format_bytes(needed)} on disk, and tune.cache_gib={limit_gib:g}"
    stores.mkdir(parents=True, exist_ok=True)
    if needed > (room := _disk_room(stores)):
        most, left = format_bytes(needed), format_bytes(room)
        return f"it would take {most} in {stores}, and {left} are free"
    return None


def _disk_room(stores: Path) -> int:
    """Bytes that the disk has for all stores."""
    return shutil.disk_usage(stores).free + directory_bytes(stores)


@torch.no_grad()
def _reward_difference(part: FrozenPart, store: ActivationStore) -> float:
    """Relative difference of the rewards of two short rows with and without the store."""
    model, data = part.model, part.data
    model.eval()
    shortest = np.argsort(data.rows.data.column("size").to_numpy(), kind="stable")[:2]
    indexed = IndexedRows(data.rows)
    rows = [indexed[int(row)] for row in shortest]

    def rewards(layout: BatchLayout) -> Tensor:
        batches = [batch.to(part.device) for batch in data.collate(layout)(rows).batches]
        order = torch.cat([batch.items_N for batch in batches]).argsort(stable=True)
        return torch.cat([compute_rewards(model, batch) for batch in batches])[order]

    with part.autocast():
        plain_N = rewards(part.layout)
        try:
            cached = CachedActivations(store, part.layers, {})
            with skip_frozen_layers(model, part.layout, cached) as layout:
                cached_N = rewards(layout)
        except (AttributeError, TypeError, ValueError):  # a family that reads more of its layers
            return float("inf")
    return float((plain_N - cached_N).norm() / plain_N.norm().clamp_min(1e-12))
