"""The part of a model that does not train: computed once, kept on disk, and passed by from then on.

With `tune=last_layers` that is the layers under the first trainable one, with `tune=head` all below
the reward head. What they make of a token sequence never changes, so that epochs, jobs of a sweep
and later sweeps look it up (`features.Features`).
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.activation_store import (
    FACTS,
    ActivationStore,
    ActivationWriter,
    unique_prefixes,
)
from rmexp.batching.collate import Batch, BatchLayout, unlabelled_row
from rmexp.batching.prefix_tree import PrefixTreeBuilder
from rmexp.core.disk_cache import build_once
from rmexp.core.errors import note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.models.frozen_layers import ReplayLayer, SkippedLayer
from rmexp.models.reward_model import (
    DROPOUTS,
    backbone,
    compute_rewards,
    head_layers,
    hidden_states,
    model_facts,
)
from rmexp.models.tuning import frozen_layers, layers

ACTIVATION_CACHE_VERSION = 2
"""Part of every store's key: raise it when what is stored changes."""


TOGETHER = 32
"""Most responses of a prompt in one tree while they are computed, and trees packed at once."""


TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 3e-2}
"""Largest relative difference of rewards with and without the store, by precision."""


@dataclass(frozen=True)
class CachedActivations:
    """What is kept of a model's frozen part.

    features   the store
    layers     leading layers that are passed by; all of them, and the norm, where it is `pooled`
    facts      of the store, for `result.json`
    """

    features: ActivationStore
    layers: int
    facts: dict[str, Any]

    def line(self) -> str:
        """What to say of it."""
        layers = f"{self.layers} frozen layers make"
        what = "the frozen model makes" if self.features.pooled else layers
        how = "known before" if self.facts["from_cache"] else f"{self.facts['seconds']} s"
        return f"features: what {what} of the rows, {self.facts['mib']} MiB, {how}"


def load_or_compute(
    model: Any,
    data: ComparisonData,
    layout: BatchLayout,
    precision: str,
    limit_gib: float,
    progress: Callable[[str, int], None],
) -> CachedActivations | None:
    """The kept states for all rows of `data`, computed now if nobody did before.

    Rows that no split has count too: folds, and losses that learn from other rows, share a store.

    Returns None, and says why, where a model's frozen part cannot be kept apart; silently where
    nothing is frozen or `limit_gib` is 0.
    """
    count = frozen_layers(model) if limit_gib else 0
    if not count:
        return None
    pooled = not any(p.requires_grad for p in backbone(model).parameters())
    started = time.monotonic()
    home = data.cache / "features" / _key(model, data, layout, count, pooled, precision)
    # Counting what a store would take goes through all rows: not for one that is there.
    there = (home / FACTS).is_file()
    reason = _unfit(model) if there else reason_not_cached(model, data, pooled, limit_gib)
    if reason is not None:
        note_fallback(f"The frozen part of the model is computed anew in each step, as {reason}.")
        return None
    with build_once(home, FACTS) as folder:
        if folder is not None:
            _compute(model, data, layout, count, pooled, precision, folder, progress)
    features = ActivationStore.open(home)
    if (difference := _difference(model, data, layout, features, count, precision)) is not None:
        note_fallback(
            "The frozen part of the model is computed anew in each step: kept apart, it gives "
            f"rewards that differ by {difference:.1e} (relative)."
        )
        return None
    size = features.states_S_D.nbytes / 2**20
    facts = {"layers": count, "pooled": pooled, "mib": round(size, 1), "from_cache": folder is None}
    return CachedActivations(
        features, count, facts | {"seconds": round(time.monotonic() - started, 1)}
    )


@contextlib.contextmanager
def skip_frozen_layers(
    model: Any, layout: BatchLayout, frozen: CachedActivations | None
) -> Iterator[BatchLayout]:
    """Within, the model takes cached activations; yields the layout whose batches have them."""
    if frozen is None:
        yield layout
        return
    if frozen.features.pooled:
        places: dict[str, nn.Module] = {}
    else:
        below = {id(layer) for layer in layers(model)[: frozen.layers]}
        places = {name: module for name, module in model.named_modules() if id(module) in below}
        for name, layer in places.items():
            model.set_submodule(name, SkippedLayer(layer))
        *_, last = places
        model.set_submodule(last, ReplayLayer(places[last]))
    try:
        yield dataclasses.replace(layout, activations=frozen.features)
    finally:
        for name, layer in places.items():
            model.set_submodule(name, layer)


def reason_not_cached(
    model: Any, data: ComparisonData, pooled: bool, limit_gib: float
) -> str | None:
    """Why the states of the frozen part cannot be kept, or None."""
    return _unfit(model) or _too_large(model, data, pooled, limit_gib)


def _unfit(model: Any) -> str | None:
    """Why the frozen part cannot be kept apart, or None."""
    config = model.config.get_text_config()
    if head_layers(model) is None or model_facts(model).attends_to_future:
        return "it does not read one token after the other"
    if any(getattr(config, name, 0) for name in DROPOUTS):
        return "it has dropout"
    return None


def _too_large(model: Any, data: ComparisonData, pooled: bool, limit_gib: float) -> str | None:
    """Why its states cannot be written, or None."""
    size = sum(
        len(chunk) if pooled else PrefixTreeBuilder().with_sequences(chunk).size
        for _, chunk in unique_prefixes(_sequences(data), TOGETHER)
    )
    needed = size * model.config.get_text_config().hidden_size * 4 / 2**30
    if needed > limit_gib:
        return f"it would take {needed:.1f} GiB on disk, and tune.cache_gib={limit_gib:g}"
    data.cache.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(data.cache).free / 2**30
    if needed > free:
        return f"it would take {needed:.1f} GiB in {data.cache}, and {free:.1f} GiB are free"
    return None


def _sequences(data: ComparisonData) -> Iterator[tuple[str, Sequence[Sequence[int]]]]:
    for row in data.rows.select_columns(["prompt_key", "tokens"]):
        yield row["prompt_key"], row["tokens"]


def _key(
    model: Any,
    data: ComparisonData,
    layout: BatchLayout,
    count: int,
    pooled: bool,
    precision: str,
) -> str:
    """A name made of everything that decides what is stored (24 hex digits)."""
    digest = hashlib.sha256()
    for name, parameter in backbone(model).named_parameters():
        if not parameter.requires_grad:
            digest.update(name.encode())
            digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    for column in ("prompt_key", "tokens"):
        for chunk in data.rows.data.column(column).chunks:
            digest.update(f"{chunk.offset} {len(chunk)}".encode())
            for buffer in chunk.buffers():
                if buffer is not None:
                    digest.update(buffer)
    facts = [
        ACTIVATION_CACHE_VERSION,
        count,
        pooled,
        precision,
        layout.layout,
        str(model.config.to_dict()),
    ]
    digest.update(json.dumps(facts).encode())
    return digest.hexdigest()[:24]


@torch.no_grad()
def _compute(
    model: Any,
    data: ComparisonData,
    layout: BatchLayout,
    count: int,
    pooled: bool,
    precision: str,
    folder: Path,
    progress: Callable[[str, int], None],
) -> None:
    model.eval()
    device = next(model.parameters()).device
    writer = ActivationWriter(folder, model.config.get_text_config().hidden_size, pooled)
    chunks = [
        unlabelled_row(tokens, f"{prompt} {n}") | {"row": n}  # a tree each
        for n, (prompt, tokens) in enumerate(unique_prefixes(_sequences(data), TOGETHER))
    ]
    collate = data.collate(layout)
    done = 0
    with _precision(device, precision), _upto(model, None if pooled else count) as below:
        for start in range(0, len(chunks), TOGETHER):
            few = chunks[start : start + TOGETHER]
            for batch in collate(few).batches:
                hidden_R_T_D = below(batch.to(device)).float().cpu()
                tokens_N = _tokens(batch, chunks)
                _store(batch, tokens_N, hidden_R_T_D, writer)
                done += len(tokens_N)
                progress("responses through the frozen part", done)
    writer.finish()


@contextlib.contextmanager
def _upto(model: Any, count: int | None) -> Iterator[Callable[[Batch], Tensor]]:
    """A function that gives a micro-batch's states after `count` layers; None: at the very end."""
    if count is None:
        yield lambda batch: hidden_states(model, batch)
        return

    class Reached(Exception):
        pass

    found: list[Tensor] = []

    def stop(module: nn.Module, args: Any, kwargs: Any) -> None:
        found.append(args[0] if args else kwargs["hidden_states"])
        raise Reached

    def below(batch: Batch) -> Tensor:
        with contextlib.suppress(Reached):
            hidden_states(model, batch)
        return found.pop()

    hook = layers(model)[count].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield below
    finally:
        hook.remove()


def _precision(device: torch.device, precision: str) -> Any:
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16-mixed")


def _tokens(batch: Batch, chunks: Sequence[dict[str, Any]]) -> list[tuple[int, ...]]:
    """The token sequence of each of the N responses."""
    items, seen = batch.items_N.tolist(), dict.fromkeys(batch.items_N.tolist(), 0)
    found = []
    for item in items:
        found.append(chunks[item]["tokens"][seen[item]])
        seen[item] += 1
    return found


def _store(
    batch: Batch,
    tokens_N: Sequence[tuple[int, ...]],
    hidden_R_T_D: Tensor,
    writer: ActivationWriter,
) -> None:
    """Write the states of a micro-batch, what is shared once, and where each response has its."""
    rows, ends = batch.row_N.tolist(), batch.end_N.tolist()
    if writer.pooled:
        start = writer.add(hidden_R_T_D[batch.row_N, batch.end_N].numpy())
        for n, tokens in enumerate(tokens_N):
            writer.place(tokens, start + n, 1, 0)
        return
    if batch.trees is None:
        lengths = dict(zip(rows, ends, strict=True))
        starts = {
            row: writer.add(hidden_R_T_D[row, : end + 1].numpy()) for row, end in lengths.items()
        }
        for tokens, row in zip(tokens_N, rows, strict=True):
            writer.place(tokens, starts[row], len(tokens), 0)
        return
    used = sum(tree.size for tree in batch.trees)
    start = writer.add(hidden_R_T_D[0, :used].numpy())
    firsts = np.cumsum([0, *(tree.size for tree in batch.trees)])
    for tokens, end in zip(tokens_N, ends, strict=True):
        number = int(np.searchsorted(firsts, end, side="right")) - 1
        first, tree = int(firsts[number]), batch.trees[number]
        shared = min(tree.trunk, len(tokens))
        # A response ends in its branch, or inside of a longer one's: counted back from there.
        rest = end + 1 - (len(tokens) - shared)
        writer.place(tokens, start + first, shared, start + rest)


@torch.no_grad()
def _difference(
    model: Any,
    data: ComparisonData,
    layout: BatchLayout,
    features: ActivationStore,
    count: int,
    precision: str,
) -> float | None:
    """How far rewards with kept states are off those without, where that is too much."""
    model.eval()
    device = next(model.parameters()).device
    shortest = np.argsort(data.rows.data.column("size").to_numpy(), kind="stable")[:2]
    few = [{**data.rows[int(row)], "row": int(row)} for row in shortest]

    def scored(layout: BatchLayout) -> Tensor:
        batches = [batch.to(device) for batch in data.collate(layout)(few).batches]
        order = torch.cat([batch.items_N for batch in batches]).argsort(stable=True)
        return torch.cat([compute_rewards(model, batch) for batch in batches])[order]

    with _precision(device, precision):
        plain_N = scored(layout)
        try:
            frozen = CachedActivations(features, count, {})
            with skip_frozen_layers(model, layout, frozen) as skipping:
                kept_N = scored(skipping)
        except (AttributeError, TypeError, ValueError):  # a family that needs more of its layers
            return float("inf")
    difference = float((plain_N - kept_N).norm() / plain_N.norm().clamp_min(1e-12))
    return None if difference <= TOLERANCES[precision] else difference
