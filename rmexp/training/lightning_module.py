"""The LightningModule: a loader item is one update, for any number of processes."""

import contextlib
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.batch import Batch, Step
from rmexp.batching.collate import BatchLayout
from rmexp.core import distributed
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.attributes import attribute_metrics, attribute_sets
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.scored_set import EvalLabels, HeadOutputs, ScoredSet, eval_labels
from rmexp.losses.base import Loss
from rmexp.models.reward_model import combine_outputs, compute_outputs, last_layer
from rmexp.models.trained_state import load_trained_state, trained_state
from rmexp.training.divergence import Divergence
from rmexp.training.fsdp import average_gradients, clip_gradients, shard_model, sharded_state
from rmexp.training.optim import AdamW
from rmexp.training.random_state import random_state, set_random_state
from rmexp.training.step_terms import (
    GatherTotals,
    StepTotals,
    normalise_terms,
    step_sums,
    total_weights,
)


class TrainingFailed(RuntimeError):
    """Training cannot continue: the loss is not finite or diverges."""


class RewardModule(lightning.LightningModule):
    """Train a reward model with a loss, and score evaluation sets.

    Args:
        model: see `reward_model.prepare_model`.
        loss: of the outputs, see `heads.HeadSettings.losses`; its parameters train and are
            checkpointed.
        data: the rows that are evaluated.
        layout: of micro-batches, for evaluation and dummy batches.
        optim: builds optimizer and schedule; None only scores.
        steps: updates of the whole run, the length of the schedule.
        fingerprints: of template and data, for checkpoints.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        data: ComparisonData,
        layout: BatchLayout,
        optim: AdamW | None = None,
        steps: int = 0,
        fingerprints: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        # A step has several backward passes and one update.
        self.automatic_optimization = False
        self.model, self.loss, self.data, self.optim = model, loss, data, optim
        self.layout, self.steps = layout, steps
        self.fingerprints = fingerprints or {}
        self.computes_loss = self.logs = True
        self._gather_totals = GatherTotals()
        self.sharded = False
        self.rewards: dict[int, list[float]] = {}
        self._outputs: dict[int, list[list[float]]] = {}  # empty for a head with one output
        self.loss_sums: dict[str, Tensor] = {}
        self.seen = {"pairs": 0, "responses": 0}
        self.shown: dict[str, float] = {}
        self.divergence = Divergence()
        self.split = "test"
        self.metrics: dict[str, float] = {}
        self.validated_at = -1
        self.calibration: Calibration | None = None
        self.labels: dict[str, EvalLabels] = {}
        self._rng: Mapping[str, Any] | None = None
        self._totals: StepTotals | None = None  # of the step that comes next

    def forward(self, batch: Batch) -> Tensor:
        """outputs_N_K of the head."""
        return compute_outputs(self.model, batch)

    def combine(self, outputs_N_K: Tensor) -> Tensor:
        """rewards_N of the head's outputs."""
        return combine_outputs(self.model, outputs_N_K)

    # ---------------------------------------------------------------- training
    def configure_optimizers(self) -> Any:
        assert self.optim is not None, "a module without `optim` only scores"
        optimizer, self.schedule = self.optim.build(self.model, self.loss, self.steps)
        return [optimizer], [self.schedule]

    def configure_model(self) -> None:
        """With trainer=fsdp, shard the weights; Lightning calls this before every loop."""
        if self._device_mesh is not None and not self.sharded:
            bf16 = self.trainer.precision == "bf16-mixed"
            shard_model(self, self._device_mesh["data_parallel"], bf16)
            self.sharded = True

    def on_before_batch_transfer(self, batch: Step, dataloader_idx: int) -> Step:
        """Add up the weights of terms on the CPU, where that waits for no GPU."""
        here = not [*self.loss.parameters(), *self.loss.buffers()]
        self._totals = StepTotals.of(batch.batches, self.loss) if here and self.training else None
        return batch

    def training_step(self, step: Step, index: int) -> None:
        """One update; each loss term is normalised by its weight over all micro-batches.

        Gradients are summed over micro-batches and processes. A process without rows computes a
        dummy batch to take part in collectives. Sharded weights are gathered for each
        micro-batch, so that all processes compute the same number of them.
        """
        optimizer: Any = self.optimizers()
        parts = self._gather_totals(self._totals or StepTotals.of(step.batches, self.loss))
        totals, pairs = total_weights(parts), sum(part.pairs for part in parts)
        responses = sum(part.responses for part in parts)
        count = max(part.batches for part in parts) if self.sharded else 1
        batches = [*step.batches, *[None] * (count - len(step.batches))]
        sums = torch.zeros(4, device=self.device)
        for number, batch in enumerate(batches, 1):
            if batch is None:
                loss = 0 * self(self.dummy_batch).sum()
            else:
                outputs_N_K = self(batch)
                loss = normalise_terms(self.loss.of_outputs(outputs_N_K, batch), totals)
                rewards_N = self.combine(outputs_N_K)
                sums += step_sums(loss, rewards_N, batch, pairs, responses)
            with self._gradient_sync(number == len(batches)):
                # Strategies average over processes; the sum is needed.
                self.manual_backward(loss * distributed.world_size())
        if self.sharded:
            average_gradients(self.loss.parameters())
        weights = [p for group in optimizer.param_groups for p in group["params"]]
        norm = clip_gradients(weights, self.clip_limit)
        # One transfer, as each makes the CPU wait for the device.
        values = torch.cat([distributed.all_reduce_sum(sums), norm[None]]).tolist()
        logged = self.check_step(values, pairs, responses)
        optimizer.step()
        optimizer.zero_grad()
        self.schedule.step()
        self._log(logged)

    @functools.cached_property
    def dummy_batch(self) -> Batch:
        return self.data.dummy_batch(self.layout).to(self.device)

    def _gradient_sync(self, sync: bool) -> Any:
        """Context of a backward pass that reduces gradients over processes, or accumulates them.

        Gradients of sharded weights are always reduced: unreduced, they would be full tensors.
        """
        strategy: Any = self.trainer.strategy
        reduces = sync or distributed.world_size() == 1 or self.sharded
        return contextlib.nullcontext() if reduces else strategy.block_backward_sync()

    def check_step(self, values: Sequence[float], pairs: int, responses: int) -> dict[str, float]:
        """Check a step before its update; returns the values to log.

        Args:
            values: the step's `step_sums`, and its gradient norm before clipping.

        Raises:
            TrainingFailed: loss or gradient are not finite, or the loss diverges.
        """
        *values, norm = values
        shown = dict(zip(("loss", "accuracy", "margin", "reward_mean"), values, strict=True))
        if not pairs:
            del shown["accuracy"], shown["margin"]
        step, advice = self.global_step + 1, "a lower optim.lr may help"
        for what, value in (("train/loss", shown["loss"]), ("the gradient's norm", norm)):
            if not np.isfinite(value):
                raise TrainingFailed(f"{what} is {value} at step {step}; {advice}.")
        if sentence := self.divergence.add(shown["loss"]):
            raise TrainingFailed(f"{sentence} (step {step}); {advice}.")
        counts = {"pairs": pairs, "responses": responses}
        self.seen = {unit: self.seen[unit] + count for unit, count in counts.items()}
        self.shown = shown
        logged = {f"train/{name}": value for name, value in shown.items()}
        return logged | {"train/grad_norm": norm, "train/lr": self.schedule.get_last_lr()[0]}

    @property
    def clip_limit(self) -> float:
        return self.optim.clip if self.optim and self.optim.clip else float("inf")

    # -------------------------------------------------------------- evaluation
    def on_validation_epoch_start(self) -> None:
        self.rewards, self._outputs, self.loss_sums = {}, {}, {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, step: Step, index: int) -> None:
        # Sharded weights are gathered in each forward pass: all processes must run as many.
        count = max(distributed.all_gather_object(len(step.batches))) if self.sharded else 0
        for batch in step.batches:
            self.add_scored(batch, self(batch))
        for _ in range(count - len(step.batches)):
            self(self.dummy_batch)

    test_step = validation_step

    def add_scored(self, batch: Batch, outputs_N_K: Tensor) -> None:
        """Keep the rewards of a micro-batch, the outputs if there are several, and loss sums."""
        rewards_N, read_N_K = self.combine(outputs_N_K), outputs_N_K
        if read_N_K.shape[1] != self.loss.outputs:  # an export alone: the head's loss is not known
            read_N_K = rewards_N[:, None]
        terms = self.loss.of_outputs(read_N_K, batch) if self.computes_loss else {}
        for term, (values_U, weights_U) in terms.items():
            sums = torch.stack([(values_U * weights_U).sum(), weights_U.sum()]).cpu().double()
            self.loss_sums[term] = self.loss_sums.get(term, torch.zeros_like(sums)) + sums
        items = batch.items_N.tolist()
        for item, reward in zip(items, rewards_N.tolist(), strict=True):
            self.rewards.setdefault(item, []).append(reward)
        if outputs_N_K.shape[1] > 1:
            for item, outputs in zip(items, outputs_N_K.tolist(), strict=True):
                self._outputs.setdefault(item, []).append(outputs)

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`, except in Lightning's sanity check on a part of the rows."""
        self._merge()
        if not self.trainer.sanity_checking:
            self.metrics = self.evaluation("val", intervals=False)
            self.validated_at = self.global_step
            self._log(self.metrics)
            self.log_dict(self.metrics, logger=False)  # for the callbacks that select and stop

    def on_test_epoch_end(self) -> None:
        """Keep the metrics of `self.split` in `self.metrics`, and log them if `self.logs`."""
        self._merge()
        # The end of a run computes val's intervals, once val is calibrated.
        self.metrics = self.evaluation(self.split, intervals=self.split != "val")
        if self.logs:
            self._log(self.metrics)

    def _merge(self) -> None:
        """Gather rewards, outputs and loss sums of all processes on each of them."""
        parts = distributed.all_gather_object((self.rewards, self._outputs, self.loss_sums))
        self.rewards = {item: found for one, _, _ in parts for item, found in one.items()}
        self._outputs = {item: found for _, one, _ in parts for item, found in one.items()}
        self.loss_sums = {}
        for _, _, sums in parts:
            for term, value in sums.items():
                self.loss_sums[term] = self.loss_sums.get(term, torch.zeros_like(value)) + value

    def _log(self, values: Mapping[str, float]) -> None:
        """Log at the number of updates made so far.

        `self.log` would count steps from 0 and write after the step's checkpoint: a run killed in
        between would lose the line.
        """
        for logger in self.loggers:
            logger.log_metrics(dict(values), self.global_step)

    @property
    def outputs(self) -> HeadOutputs:
        """The outputs of the head for the rows that were scored last."""
        if not self._outputs:
            return HeadOutputs()
        head = last_layer(self.model)
        return HeadOutputs(head.kind, head.names, self._outputs)

    def scored(self, split: str) -> ScoredSet:
        """The split that was just scored, with its labels, which are read once."""
        if split not in self.labels:
            self.labels[split] = eval_labels(self.data.rows, self.data.splits[split])
        return self.labels[split].with_rewards(self.rewards, self.outputs)

    def evaluation(self, split: str, intervals: bool = True) -> dict[str, float]:
        """The metrics of the split that was just scored, by their full names.

        Args:
            intervals: bootstrap 95% intervals too.
        """
        values = compute_metrics(self.scored(split), self.calibration, intervals=intervals)
        sets = self.attribute_sets(split)
        own = self.calibration.attributes if self.calibration else {}
        values |= attribute_metrics(sets, own, intervals)
        terms = [float(value / weight) for value, weight in self.loss_sums.values() if weight]
        if terms:  # no label of this split is one that the loss reads
            values["loss"] = sum(terms)
        return {f"{split}/{name}": value for name, value in values.items() if value == value}

    def attribute_sets(self, split: str) -> dict[str, ScoredSet]:
        """The set of each attribute of the head that the rows are rated in; see the function."""
        return attribute_sets(self.scored(split), self.data.rows, self.data.attributes)

    # ------------------------------------------------------------------ resume
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """State for a checkpoint, without frozen weights."""
        return trained_state(self, super().state_dict(*args, **kwargs))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        return load_trained_state(self, sharded_state(self, state_dict), strict)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the random states of each process, for the same dropout masks after a resume."""
        checkpoint["rng"] = distributed.all_gather_object(random_state())
        checkpoint["seen"] = self.seen
        checkpoint["divergence"] = self.divergence.state()
        checkpoint["fingerprints"] = self.fingerprints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until the first step: building loaders may draw numbers before."""
        states = checkpoint["rng"]  # further processes keep their seed
        self._rng = states[distributed.rank()] if distributed.rank() < len(states) else None
        self.seen = checkpoint["seen"]
        self.divergence.load(checkpoint["divergence"])

    def on_train_batch_start(self, step: Step, index: int) -> None:
        if self._rng is not None:
            set_random_state(self._rng)
            self._rng = None
