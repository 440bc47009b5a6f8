"""Expected time of a run, from one measured forward and backward pass of its rows."""

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from rmexp.batching.collate import BatchLayout
from rmexp.data.comparison_data import ComparisonData
from rmexp.losses import Loss
from rmexp.models.reward_model import compute_outputs
from rmexp.training.step_terms import normalise_terms
from rmexp.training.trainer import TrainerSettings

FORWARD_SHARE = 1 / 3
"""Of the time of a step: a backward pass costs about two forward passes."""

MEASURED_TOKENS = 512
"""Distinct tokens of the measured rows: enough for matrix products at full speed."""

LONG_SECONDS = 5.0
"""A first pass that takes this long is accurate enough, with its warm-up."""


@dataclass(frozen=True)
class MeasuredStep:
    """Measurements of a run's step, for its time.

    Attributes:
        step_seconds: of one optimizer step; comparisons: its mean number of comparisons.
        epoch_steps: steps of an epoch.
        val, test: comparisons in these splits.
    """

    step_seconds: float
    comparisons: float
    epoch_steps: int
    val: int
    test: int

    def seconds(self, trainer: TrainerSettings, share: float = 1.0) -> float:
        """Seconds of training, validations and test with a share of the rows.

        Loading, caching of activations, export and report are not included.
        """
        steps = trainer.steps(max(1, round(self.epoch_steps * share)))
        scored = share * (trainer.validations * self.val + self.test)
        return self.step_seconds * (steps + FORWARD_SHARE * scored / self.comparisons)


def measure_step(
    model: Any,
    loss: Loss,
    data: ComparisonData,
    layout: BatchLayout,
    device: str,
    precision: str,
) -> MeasuredStep:
    """Time training rows of median size; gradients and random states stay as they were.

    Args:
        model: with the part that trains chosen; in training mode.
        loss: on the model's device.
        layout: as it is trained in, see `skip_frozen_layers`.
        precision: resolved, see `TrainerSettings`.
    """
    train = data.splits["train"]
    sizes = data.columns.numbers("size")[train]
    order = np.argsort(sizes, kind="stable")
    middle = max(1, int(np.median(sizes)))
    count = min(len(train), -(-MEASURED_TOKENS // middle))
    first = (len(train) - count) // 2
    chosen = order[first : first + count]
    rows = [{**data.rows[int(row)], "row": int(row)} for row in train[chosen]]
    batches = [batch.to(device) for batch in data.collate(layout)(rows).batches]
    autocast = torch.autocast(device, torch.bfloat16, enabled=precision == "bf16-mixed")
    with autocast, torch.random.fork_rng():
        seconds = _timed(model, loss, batches)
        if seconds < LONG_SECONDS:
            seconds = _timed(model, loss, batches)
    epoch_steps = len(data.plan())
    tokens_a_step = float(sizes.sum()) / epoch_steps
    return MeasuredStep(
        step_seconds=seconds * tokens_a_step / max(1.0, float(sizes[chosen].sum())),
        comparisons=max(1.0, len(train) / epoch_steps),
        epoch_steps=epoch_steps,
        val=len(data.splits["val"]),
        test=len(data.splits["test"]),
    )


def _timed(model: Any, loss: Any, batches: Any) -> float:
    """Seconds of a forward and backward pass."""
    started = time.monotonic()
    totals = loss.total_weights(batches)
    for batch in batches:
        normalise_terms(loss.of_outputs(compute_outputs(model, batch), batch), totals).backward()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    model.zero_grad(set_to_none=True)
    loss.zero_grad(set_to_none=True)
    return time.monotonic() - started
