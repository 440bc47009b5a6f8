"""The LightningModule: one loader item is one update, however it is cut into micro-batches, and
however many processes share it."""

import contextlib
import functools
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.collate import Batch, BatchLayout, Step
from rmexp.core import distributed
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.calibration import Calibration
from rmexp.evaluation.metric_values import compute_metrics
from rmexp.evaluation.scored_set import EvalLabels, ScoredSet, eval_labels
from rmexp.losses.base import Loss
from rmexp.models.reward_model import compute_rewards
from rmexp.models.trained_state import load_trained_state, trained_state
from rmexp.training.divergence import Divergence
from rmexp.training.fsdp import average_gradients, clip_gradients, shard_model, sharded_state
from rmexp.training.optim import AdamW


class TrainingFailed(RuntimeError):
    """Training cannot go on: the loss is not finite, or diverges."""


@dataclass(frozen=True)
class StepTotals:
    """What a process has of a step: weight of each term, pairs, responses, micro-batches."""

    weights: Mapping[str, float]
    pairs: int
    responses: int
    batches: int


class RewardModule(lightning.LightningModule):
    """Trains a reward model under a loss; scores evaluation sets.

    Args:
        model: see `model.prepare`.
        loss: see `losses.Loss`; its own parameters train and are checkpointed.
        data: the rows that evaluation steps come from.
        layout: how their micro-batches are laid out for the model.
        optim: builds optimizer and schedule; not needed to score.
        steps: updates of the whole run, over which the schedule is laid.
        fingerprints: of template and data; checkpoints carry them.
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
        # Lightning must not step for us: a step has several backward passes and one update.
        self.automatic_optimization = False
        self.model, self.loss, self.data, self.optim = model, loss, data, optim
        self.layout, self.steps = layout, steps
        self.fingerprints = fingerprints or {}
        self.judges_loss = self.logs = True
        self.sharded = False
        self.rewards: dict[int, list[float]] = {}
        self.loss_sums: dict[str, Tensor] = {}
        self.seen = {"pairs": 0, "responses": 0}
        self.shown: dict[str, float] = {}
        self.divergence = Divergence()
        self.split = "test"
        self.metrics: dict[str, float] = {}
        self.validated_at = -1
        self.calibration: Calibration | None = None
        self.judged: dict[str, EvalLabels] = {}
        self._rng: Mapping[str, Any] | None = None

    def forward(self, batch: Batch) -> Tensor:
        """rewards_N, fp32."""
        return compute_rewards(self.model, batch)

    # ---------------------------------------------------------------- training
    def configure_optimizers(self) -> Any:
        """Optimizer and schedule over all steps of the run."""
        assert self.optim is not None, "a module without `optim` only scores"
        optimizer, self.schedule = self.optim.build(self.model, self.loss, self.steps)
        return [optimizer], [self.schedule]

    def configure_model(self) -> None:
        """With trainer=fsdp, part the weights; Lightning calls this before every loop."""
        if self._device_mesh is not None and not self.sharded:
            bf16 = self.trainer.precision == "bf16-mixed"
            shard_model(self, self._device_mesh["data_parallel"], bf16)
            self.sharded = True

    def training_step(self, step: Step, index: int) -> None:
        """One update: every term is normalised by its weight over all micro-batches of the step.

        Processes are like micro-batches: gradients are added up over both. One without rows has
        an idle micro-batch, as it must take part in the exchange; parted weights are exchanged for
        each micro-batch, so that all processes then have as many of them.
        """
        optimizer: Any = self.optimizers()
        tallies = distributed.all_gather_object(self._tally(step))
        totals = _totals(tallies)
        pairs, responses = sum(t.pairs for t in tallies), sum(t.responses for t in tallies)
        most = max(t.batches for t in tallies) if self.sharded else 1
        batches = [*step.batches, *[None] * (most - len(step.batches))]
        sums = torch.zeros(4, device=self.device)
        for number, batch in enumerate(batches, 1):
            if batch is None:
                loss = 0 * self(self.dummy_batch).sum()
            else:
                rewards_N = self(batch)
                loss = normalise_terms(self.loss(rewards_N, batch), totals)
                sums += step_sums(loss, rewards_N, batch, pairs, responses)
            with self._exchange(number == len(batches)):
                # Strategies take the mean over processes, and it is the sum that is wanted.
                self.manual_backward(loss * distributed.world_size())
        if self.sharded:
            average_gradients(self.loss.parameters())
        norm = self._clip(optimizer)
        # One transfer for all of them: each would make the processor wait for the device.
        values = torch.cat([distributed.all_reduce_sum(sums), norm[None]]).tolist()
        self._log(self.take_step(optimizer, values, pairs, responses))

    def _tally(self, step: Step) -> StepTotals:
        return StepTotals(
            self.loss.total_weights(step.batches),
            sum(len(batch.better_P) for batch in step.batches),
            sum(len(batch.items_N) for batch in step.batches),
            len(step.batches),
        )

    @functools.cached_property
    def dummy_batch(self) -> Batch:
        """See `ComparisonData.dummy_batch`."""
        return self.data.dummy_batch(self.layout).to(self.device)

    def _exchange(self, now: bool) -> Any:
        """Within, a backward pass sends its gradients to the other processes, or keeps them. Parted
        ones are sent each time: kept, they would be whole."""
        strategy: Any = self.trainer.strategy
        together = now or distributed.world_size() == 1 or self.sharded
        return contextlib.nullcontext() if together else strategy.block_backward_sync()

    def take_step(
        self, optimizer: Any, values: Sequence[float], pairs: int, responses: int
    ) -> dict[str, float]:
        """Update by the clipped gradients; returns what the step was like, see `told_of_step`."""
        told = self.check_and_log_step(values, pairs, responses)
        optimizer.step()
        optimizer.zero_grad()
        self.schedule.step()
        return told

    def check_and_log_step(
        self, values: Sequence[float], pairs: int, responses: int
    ) -> dict[str, float]:
        """What a step that may be taken is like, to be logged.

        Args:
            values: the step's `step_sums`, and the norm of its gradient before it was clipped.

        Raises:
            TrainingFailed: loss or gradient is not finite, or the loss grows and grows.
        """
        *values, size = values
        shown = dict(zip(("loss", "accuracy", "margin", "reward_mean"), values, strict=True))
        if not pairs:
            del shown["accuracy"], shown["margin"]
        for what, value in (("train/loss", shown["loss"]), ("the gradient's norm", size)):
            if not np.isfinite(value):
                raise TrainingFailed(
                    f"{what} is {value} at step {self.global_step + 1}; a lower optim.lr may help."
                )
        if sentence := self.divergence.add(shown["loss"]):
            raise TrainingFailed(
                f"{sentence} (step {self.global_step + 1}); a lower optim.lr may help."
            )
        self.seen = {
            "pairs": self.seen["pairs"] + pairs,
            "responses": self.seen["responses"] + responses,
        }
        self.shown = shown
        told = {f"train/{name}": value for name, value in shown.items()}
        return told | {"train/grad_norm": size, "train/lr": self.schedule.get_last_lr()[0]}

    @property
    def clip_limit(self) -> float:
        """The largest norm of a step's gradients."""
        return self.optim.clip if self.optim and self.optim.clip else float("inf")

    def _clip(self, optimizer: Any) -> Tensor:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        return clip_gradients(parameters, self.clip_limit)

    # -------------------------------------------------------------- evaluation
    def on_validation_epoch_start(self) -> None:
        """Forget what was scored before."""
        self.rewards, self.loss_sums = {}, {}

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, step: Step, index: int) -> None:
        """Score every response of the step."""
        # Parted weights come together in each forward pass: all processes make as many.
        most = max(distributed.all_gather_object(len(step.batches))) if self.sharded else 0
        for batch in step.batches:
            self.add_scored(batch, self(batch))
        for _ in range(most - len(step.batches)):
            self(self.dummy_batch)

    test_step = validation_step

    def add_scored(self, batch: Batch, rewards_N: Tensor) -> None:
        """Keep the rewards of a micro-batch, and their share of the loss."""
        terms = self.loss(rewards_N, batch) if self.judges_loss else {}
        for term, (values_U, weights_U) in terms.items():
            sums = torch.stack([(values_U * weights_U).sum(), weights_U.sum()]).cpu().double()
            self.loss_sums[term] = self.loss_sums.get(term, torch.zeros_like(sums)) + sums
        for item, reward in zip(batch.items_N.tolist(), rewards_N.tolist(), strict=True):
            self.rewards.setdefault(item, []).append(reward)

    def on_validation_epoch_end(self) -> None:
        """Log `val/...`; not during Lightning's sanity check, which sees a part of the rows."""
        self._merge()
        if not self.trainer.sanity_checking:
            self.metrics = self.evaluation("val", intervals=False)
            self.validated_at = self.global_step
            self._log(self.metrics)
            self.log_dict(self.metrics, logger=False)  # for the callbacks that select and stop

    def on_test_epoch_end(self) -> None:
        """Keep the metrics of `self.split` in `self.metrics`, and log them if `self.logs`."""
        self._merge()
        self.metrics = self.evaluation(self.split)
        if self.logs:
            self._log(self.metrics)

    def _merge(self) -> None:
        """What every process scored, to all of them: each row is one's, each metric everybody's."""
        parts = distributed.all_gather_object((self.rewards, self.loss_sums))
        self.rewards = {item: found for rewards, _ in parts for item, found in rewards.items()}
        self.loss_sums = {}
        for _, sums in parts:
            for term, value in sums.items():
                self.loss_sums[term] = self.loss_sums.get(term, torch.zeros_like(value)) + value

    def _log(self, values: Mapping[str, float]) -> None:
        """Log at the number of updates made so far.

        At once and not through `self.log`, which counts steps from 0 and writes after the step's
        checkpoint: a run killed in between would lose the line.
        """
        for logger in self.loggers:
            logger.log_metrics(dict(values), self.global_step)

    def scored(self, split: str) -> ScoredSet:
        """The split that was just scored; what people said of it is read once."""
        if split not in self.judged:
            self.judged[split] = eval_labels(self.data.rows, self.data.splits[split])
        return self.judged[split].with_rewards(self.rewards)

    def evaluation(self, split: str, intervals: bool = True) -> dict[str, float]:
        """The metrics of the split that was just scored, by their full names.

        Args:
            intervals: bootstrap 95% intervals too.
        """
        values = compute_metrics(self.scored(split), self.calibration, intervals=intervals)
        if self.judges_loss:
            values["loss"] = sum(float(v / w) if w else 0.0 for v, w in self.loss_sums.values())
        return {f"{split}/{name}": value for name, value in values.items() if value == value}

    # ------------------------------------------------------------------ resume
    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """What a checkpoint holds: all but frozen weights, which the base has."""
        return trained_state(self, super().state_dict(*args, **kwargs))

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take what `state_dict` gave, whole; frozen weights stay as they are."""
        return load_trained_state(self, sharded_state(self, state_dict), strict)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Random states of each process: a resumed run then draws the same dropout masks."""
        checkpoint["rng"] = distributed.all_gather_object(random_state())
        checkpoint["seen"] = self.seen
        checkpoint["divergence"] = self.divergence.state()
        checkpoint["fingerprints"] = self.fingerprints

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states for the first step: building loaders may draw in between."""
        states = checkpoint["rng"]  # where there are more processes now, the others have their seed
        self._rng = states[distributed.rank()] if distributed.rank() < len(states) else None
        self.seen = checkpoint["seen"]
        self.divergence.load(checkpoint["divergence"])

    def on_train_batch_start(self, step: Step, index: int) -> None:
        """Set the random states where the interrupted run left them."""
        if self._rng is not None:
            set_random_state(self._rng)
            self._rng = None


def _totals(tallies: Sequence[StepTotals]) -> dict[str, float]:
    """The weight of each term over all processes."""
    totals: dict[str, float] = {}
    for tally in tallies:
        for term, weight in tally.weights.items():
            totals[term] = totals.get(term, 0.0) + weight
    return totals


def normalise_terms(
    terms: Mapping[str, tuple[Tensor, Tensor]], totals: Mapping[str, float]
) -> Tensor:
    """This micro-batch's share of the step's loss.

    It is sum(values x weights) / total weight, summed over terms.
    """
    # A term without weight in the whole step adds nothing, but stays part of the graph.
    parts = [(v * w).sum() / (totals[term] or 1.0) for term, (v, w) in terms.items()]
    return torch.stack(parts).sum()


def step_sums(losses: Tensor, rewards: Tensor, batch: Batch, pairs: int, responses: int) -> Tensor:
    """(4,) a micro-batch's share of the step's loss, accuracy, margin and mean reward.

    Args:
        losses: () of one head, or (H,) of several.
        rewards: (N,), or (N, H); what is returned is then (4, H).
    """
    found = rewards.detach()
    gaps = found[batch.better_P] - found[batch.worse_P]
    # A step of ratings alone has no pairs; what is divided by 1 then is not shown.
    won, lead = (gaps > 0).sum(0) / max(1, pairs), gaps.sum(0) / max(1, pairs)
    return torch.stack([losses.detach(), won, lead, found.sum(0) / responses])


def random_state() -> dict[str, Any]:
    """The state of every generator that training may draw from, as types `weights_only` loads."""
    name, keys, *rest = np.random.get_state(legacy=True)
    python = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.tensor(np.asarray(keys).astype(np.int64)), *rest],
        "python": [python[0], list(python[1]), python[2]],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """The inverse of `random_state`."""
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all([part.cpu() for part in state["cuda"]])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
