"""The forward pass through a model's frozen part, whose output goes to an activation store."""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rmexp.batching.activation_store import ActivationWriter, unique_sequences
from rmexp.batching.batch import Batch
from rmexp.batching.collate import BatchLayout, unlabelled_row
from rmexp.batching.packing import Row
from rmexp.core.console import format_duration
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.encode import batched_list
from rmexp.data.token_columns import TokenColumns
from rmexp.models.reward_model import backbone, hidden_states
from rmexp.models.tuning import layers

ACTIVATION_CACHE_VERSION = 4
"""Part of every store's key; increase it when the content of stores changes."""

MAX_TREE_RESPONSES = 32
"""Maximum responses of a prompt in one tree of the pass, and trees collated at once."""

ROWS_AT_ONCE = 256
"""Rows whose tokens are in memory as Python integers."""


def prompt_sequences(data: ComparisonData) -> Iterator[tuple[str, list[tuple[int, ...]]]]:
    """The distinct sequences of each prompt, in the groups that share a tree."""
    return unique_sequences(_rows_by_prompt(data.rows), MAX_TREE_RESPONSES)


def _rows_by_prompt(rows: Any) -> Iterator[tuple[str, list[list[int]]]]:
    """Prompt and tokens of each row, prompt by prompt; a few rows at a time are in memory."""
    order_C = np.argsort(TokenColumns(rows).prompts(np.arange(len(rows))), kind="stable")
    rows = rows.select_columns(["prompt_key", "tokens"])
    for start in range(0, len(order_C), ROWS_AT_ONCE):
        found = rows[order_C[start : start + ROWS_AT_ONCE].tolist()]
        yield from zip(found["prompt_key"], found["tokens"], strict=True)


@dataclass(frozen=True)
class FrozenPart:
    """A model's frozen part and the rows that pass through it.

    Args:
        layers: number of leading layers that are frozen.
        pooled: the whole backbone is frozen: only the state of each response's last token is kept.
    """

    model: Any
    data: ComparisonData
    layout: BatchLayout
    layers: int
    pooled: bool
    precision: str

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def autocast(self) -> Any:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.precision == "bf16-mixed"
        )

    def cache_key(self) -> str:
        """24 hex digits from the frozen weights, the tokens and everything else that matters."""
        digest = hashlib.sha256()
        for name, parameter in backbone(self.model).named_parameters():
            if not parameter.requires_grad:
                digest.update(name.encode())
                digest.update(parameter.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        for column in ("prompt_key", "tokens"):
            for chunk in self.data.rows.data.column(column).chunks:
                digest.update(f"{chunk.offset} {len(chunk)}".encode())
                for buffer in chunk.buffers():
                    if buffer is not None:
                        digest.update(buffer)
        facts = [
            ACTIVATION_CACHE_VERSION,
            self.layers,
            self.pooled,
            self.precision,
            self.layout.layout,
            str(self.model.config.to_dict()),
        ]
        digest.update(json.dumps(facts).encode())
        return digest.hexdigest()[:24]

    @torch.no_grad()
    def compute(self, folder: Path, progress: Callable[[str, int], None]) -> None:
        """Write the activations of all rows to a new store in `folder`."""
        self.model.eval()
        hidden_size = self.model.config.get_text_config().hidden_size
        writer = ActivationWriter(folder, hidden_size, self.pooled)
        collate, done, started = self.data.collate(self.layout), 0, time.monotonic()
        count, read = len(self.data.rows), 0

        def rows_read() -> Iterator[tuple[str, list[list[int]]]]:
            nonlocal read
            for row in _rows_by_prompt(self.data.rows):
                read += 1
                yield row

        sequences = unique_sequences(rows_read(), MAX_TREE_RESPONSES)
        with self.autocast(), self._frozen_forward() as forward:
            passed = 0  # rows whose responses are all done
            for groups in batched_list(sequences, MAX_TREE_RESPONSES):
                first, size = done, sum(len(tokens) for _, tokens in groups)
                rows = [
                    unlabelled_row(tokens, f"{prompt} {n}") | {"row": n}  # a tree each
                    for n, (prompt, tokens) in enumerate(groups)
                ]
                for batch in collate(rows).batches:
                    hidden_R_T_D = forward(batch.to(self.device)).float().cpu()
                    tokens_N = _response_tokens(batch, rows)
                    _write(batch, tokens_N, hidden_R_T_D, writer)
                    done += len(tokens_N)
                    share = (passed + (read - passed) * (done - first) / size) / count
                    left = format_duration((time.monotonic() - started) * (1 / share - 1))
                    progress(f"responses through the frozen part, {left} left", done)
                passed = read
        writer.finish()

    @contextlib.contextmanager
    def _frozen_forward(self) -> Iterator[Callable[[Batch], Tensor]]:
        """A function of a micro-batch to the frozen part's output (R, T, D)."""
        if self.pooled:
            yield lambda batch: hidden_states(self.model, batch)
            return

        class FrozenPartEnd(Exception):
            pass

        found: list[Tensor] = []

        def stop(module: Any, args: Any, kwargs: Any) -> None:
            found.append(args[0] if args else kwargs["hidden_states"])
            raise FrozenPartEnd

        def forward(batch: Batch) -> Tensor:
            with contextlib.suppress(FrozenPartEnd):
                hidden_states(self.model, batch)
            return found.pop()

        first_trained = layers(self.model)[self.layers]
        hook = first_trained.register_forward_pre_hook(stop, with_kwargs=True)
        try:
            yield forward
        finally:
            hook.remove()


def _response_tokens(batch: Batch, rows: Sequence[Row]) -> list[tuple[int, ...]]:
    iterators = {item: iter(rows[item]["tokens"]) for item in set(batch.items_N.tolist())}
    return [next(iterators[item]) for item in batch.items_N.tolist()]


def _write(
    batch: Batch,
    tokens_N: Sequence[tuple[int, ...]],
    hidden_R_T_D: Tensor,
    writer: ActivationWriter,
) -> None:
    """Write a micro-batch's activations, shared prefixes once, and index them by response."""
    if writer.pooled:
        start = writer.add(hidden_R_T_D[batch.row_N, batch.end_N].numpy())
        for n, tokens in enumerate(tokens_N):
            writer.add_sequence(tokens, start + n, 1, 0)
        return
    if batch.trees is None:
        for tokens, row in zip(tokens_N, batch.row_N.tolist(), strict=True):
            start = writer.add(hidden_R_T_D[row, : len(tokens)].numpy())
            writer.add_sequence(tokens, start, len(tokens), 0)
        return
    used = sum(tree.size for tree in batch.trees)
    start = writer.add(hidden_R_T_D[0, :used].numpy())
    firsts = np.cumsum([0, *(tree.size for tree in batch.trees)])
    for tokens, end in zip(tokens_N, batch.end_N.tolist(), strict=True):
        number = int(np.searchsorted(firsts, end, side="right")) - 1
        first, tree = int(firsts[number]), batch.trees[number]
        shared = min(tree.shared_prefix, len(tokens))
        # A response may end inside a longer one's branch: its own part is counted from its end.
        rest = end + 1 - (len(tokens) - shared)
        writer.add_sequence(tokens, start + first, shared, start + rest)
