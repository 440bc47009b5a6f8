"""What TRL and Axolotl both hand to Hugging Face's TrainingArguments, in rmexp's terms."""

import math
from dataclasses import dataclass
from typing import Literal

from rmexp.tasks.convert.settings import (
    Count,
    Decay,
    NotNegative,
    Positive,
    Row,
    Settings,
    Share,
    Whole,
)

SAME_ADAMW = ("adamw_torch", "adamw_torch_fused", "adamw_hf", "paged_adamw_32bit")


SCHEDULES = {
    "cosine": "cosine",
    "linear": "linear",
    "constant": "constant",
    "constant_with_warmup": "constant",
}


SELECTION = (
    "eval_steps",
    "evals_per_epoch",
    "load_best_model_at_end",
    "metric_for_best_model",
    "early_stopping_patience",
)


METRICS = {"loss": "val/loss", "accuracy": "val/accuracy", "margin": "val/margin"}


@dataclass(frozen=True)
class Dialect:
    """What a peer calls things, and what it does where they are absent."""

    batch: str
    batch_default: int
    total_batch: str | None
    epochs: str
    epochs_default: float
    rate_default: float | None
    optimizer: str
    optimizer_default: str
    schedule: str
    schedule_default: str
    warmup: str
    warmup_default: float
    bf16_default: bool | Literal["auto"]


ROWS = (
    Row("weight_decay", "optim.weight_decay", NotNegative, 0.0),
    Row("adam_beta1", "optim.beta1", Decay, 0.9),
    Row("adam_beta2", "optim.beta2", Decay, 0.999),
    Row("seed", "seed", Whole, 42),
)
"""The names and defaults are Hugging Face's."""


def convert_training(s: Settings, peer: Dialect, evaluates: bool) -> None:
    """Optimizer, schedule, length, batch, precision, selection and dropout.

    Args:
        s: the settings.
        peer: its names and defaults.
        evaluates: does it evaluate while it trains?
    """
    _optimizer(s, peer)
    _length(s, peer)
    _schedule(s, peer)
    _batch(s, peer)
    _precision(s, peer)
    _selection(s, evaluates)
    off = s.take("disable_dropout", bool, True)  # TRL's own, which Axolotl's trainer is made of
    s.state("model.dropout", 0.0 if off else None, "disable_dropout")


def _optimizer(s: Settings, peer: Dialect) -> None:
    s.take_rows([Row("learning_rate", "optim.lr", Positive, peer.rate_default)])
    if "optim.lr" in s.lines:
        s.put("optim.head_lr", None, f"null: as lr; {s.peer} has one learning rate")
    s.take_rows(ROWS)
    norm = s.take("max_grad_norm", NotNegative, 1.0)
    s.state("optim.clip", norm or None, "max_grad_norm")
    name = s.take(peer.optimizer, str, peer.optimizer_default)
    if name not in SAME_ADAMW:
        kind = "the same update, its state in fp32" if "adamw" in name else "another update"
        s.leave(peer.optimizer, f"AdamW takes the place of {name}: {kind}")


def _length(s: Settings, peer: Dialect) -> None:
    """Hugging Face's `max_steps` ends the run alone, after however many epochs."""
    steps = s.take("max_steps", int, -1)
    epochs = s.take(peer.epochs, Positive, peer.epochs_default)
    if steps > 0:
        s.put("trainer.max_steps", steps, "max_steps")
        s.put("trainer.max_epochs", steps, f"never reached: max_steps ends the run in {s.peer}")
        return
    if epochs != math.ceil(epochs):
        s.leave(peer.epochs, f"epochs are whole: for {epochs:g} set trainer.max_steps as well")
    s.state("trainer.max_epochs", math.ceil(epochs), peer.epochs)


def _schedule(s: Settings, peer: Dialect) -> None:
    name = s.take(peer.schedule, str, peer.schedule_default)
    if name in SCHEDULES:
        s.state("optim.schedule", SCHEDULES[name], peer.schedule)
    else:
        s.leave(peer.schedule, f"{name} is not there; optim.schedule is cosine, linear or constant")
    steps, share = s.take("warmup_steps", NotNegative, 0), s.take("warmup_ratio", Share)
    total, _ = s.lines.get("trainer.max_steps", (None, ""))
    if name == "constant":
        s.put("optim.warmup", 0.0, f"{peer.schedule} constant has no warm-up")
    elif 0 < steps < 1:  # a share, since transformers 5
        s.put("optim.warmup", steps, "warmup_steps")
    elif steps and total:
        s.put("optim.warmup", min(1.0, steps / total), f"warmup_steps {steps:g} of {total}")
    elif steps:
        s.leave("warmup_steps", f"set optim.warmup to {steps:g} / the number of steps of the run")
    elif share is not None:
        s.put("optim.warmup", share, "warmup_ratio")
    else:
        s.state("optim.warmup", peer.warmup_default, peer.warmup)


def _batch(s: Settings, peer: Dialect) -> None:
    each = s.take(peer.batch, Count, peer.batch_default)
    times = s.take("gradient_accumulation_steps", Count, 1)
    total = s.take(peer.total_batch, Count) if peer.total_batch else None
    if total is not None:
        s.put("data.batch_size", total, f"{peer.total_batch}")
    elif s.whole or s.has(peer.batch) or s.has("gradient_accumulation_steps"):
        given = "" if s.has(peer.batch) else f" ({s.peer}'s default)"
        product = f"{peer.batch} {each}{given} x gradient_accumulation_steps {times}"
        s.put("data.batch_size", each * times, f"{product} (x devices, if there were more)")


def _precision(s: Settings, peer: Dialect) -> None:
    bf16 = s.take("bf16", bool | Literal["auto", "full"])
    if s.values.get("fp16") and bf16 in (None, False):
        s.put("trainer.precision", "auto", "fp16 is not there")
        return
    if bf16 == "full":
        s.leave("bf16", "full: weights are kept in fp32; bf16-mixed computes in bf16")
    named = {True: "bf16-mixed", "full": "bf16-mixed", "auto": "auto", False: "32-true"}
    s.state("trainer.precision", named[peer.bf16_default if bf16 is None else bf16], "bf16")


def _selection(s: Settings, evaluates: bool) -> None:
    """How often to validate, and which weights count: the best ones, or the last ones."""
    if not evaluates:
        for key in (key for key in SELECTION if s.values.get(key)):
            s.leave(key, f"{s.peer} evaluates nothing here")
        if s.whole:
            said = "eval_strategy no: " if s.has("eval_strategy") else ""
            why = f"{said}one, at the end, as {s.peer} keeps the last weights here"
            s.put("trainer.validations", 1, why)
        return
    _validations(s)
    s.take_rows([Row("early_stopping_patience", "trainer.patience", Count)])
    best = s.take("load_best_model_at_end", bool, False) or s.has("early_stopping_patience")
    metric = s.take("metric_for_best_model", str, "loss").removeprefix("eval_")
    if not best:
        s.notes.append(
            f"{s.peer} keeps the last weights here (load_best_model_at_end), rmexp those of the "
            "best validation; trainer.validations=1 keeps the last ones."
        )
    elif metric in METRICS:
        given = ", ".join(key for key in SELECTION[2:] if s.has(key))
        s.put("trainer.monitor", METRICS[metric], f"{given}: by the {metric}")
    else:
        s.leave("metric_for_best_model", "trainer.monitor is val/accuracy, val/loss or the like")


def _validations(s: Settings) -> None:
    """rmexp counts validations of the whole run, the peers steps between them."""
    every, each = s.take("eval_steps", Positive), s.take("evals_per_epoch", Count)
    steps, _ = s.lines.get("trainer.max_steps", (None, ""))
    epochs = None if steps else s.lines.get("trainer.max_epochs", (None, ""))[0]
    when = f"eval_strategy {s.values['eval_strategy']}" if s.has("eval_strategy") else ""
    said = when and f"{when}, "
    if each and epochs:
        s.put(
            "trainer.validations", each * epochs, f"{said}evals_per_epoch {each} x {epochs} epochs"
        )
    elif every and every < 1:
        s.put("trainer.validations", round(1 / every), f"{said}eval_steps {every:g} of the run")
    elif every and steps:
        count = max(1, int(steps // every))
        s.put("trainer.validations", count, f"{said}eval_steps {every:g} of {steps}")
    elif s.values.get("eval_strategy") == "epoch" and epochs:
        s.put("trainer.validations", epochs, when)
    else:
        key = next(k for k in ("eval_steps", "evals_per_epoch", "eval_strategy") if s.has(k))
        s.leave(key, "set trainer.validations to the number of validations of the whole run")
