"""Reinforcement learning of a policy by TRL's trainers; needs the extra `rl`.

With TRL 1.16, the divergence from the initial policy is measured only if its weight is above 0, and
a reward function of weight 0 is logged without training.
"""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import peft
import torch
import trl
from transformers import PrinterCallback, TrainerCallback

from rmexp.core.atomic_file import replace_file
from rmexp.core.console import Reporter
from rmexp.models.tuning import LoRA
from rmexp.policy.prompts import PolicyPrompt
from rmexp.policy.rewards import RewardFunction, ShuffledRewards
from rmexp.policy.settings import PolicyInputs, RLSettings

RESUME_FILE = "last.ckpt"
"""File in checkpoints/ that names the checkpoint to resume from; it is written after all of it."""

TIMINGS = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
"""What TRL logs that differs between equal runs; metrics.jsonl has no times."""


class _Quiet:
    """Leaves out what TRL would send to its makers, and the model card of each checkpoint."""

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """No card."""

    def _send_telemetry(self) -> None:
        """Nothing leaves this machine unasked."""


class _GRPO(_Quiet, trl.GRPOTrainer):
    """GRPO."""


class _RLOO(_Quiet, trl.RLOOTrainer):
    """RLOO."""


class RunCallback(TrainerCallback):
    """Passes TRL's logs to loggers, under `train/` and TRL's own names, and marks checkpoints.

    Args:
        loggers: of rmexp.
        folder: of the checkpoints.
        reporter: prints the progress.
    """

    def __init__(self, loggers: Sequence[Any], folder: Path, reporter: Reporter) -> None:
        self.loggers, self.folder, self.reporter = loggers, folder, reporter

    def on_log(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Log what has a value; the closing line of a training is its means, and is left out."""
        logs: dict[str, Any] = more["logs"]
        if "train_runtime" in logs:
            return
        values = {
            f"train/{name}": float(value)
            for name, value in logs.items()
            if name not in TIMINGS and isinstance(value, (int, float))
        }
        for logger in self.loggers:
            logger.log_metrics(dict(values), state.global_step)
        shown = ("rewards/proxy/mean", "rewards/gold/mean", "kl")
        words = [f"{n.split('/')[-2:][0]} {logs[n]:.3f}" for n in shown if logs.get(n) is not None]
        self.reporter.count(f"of {args.max_steps} steps: {', '.join(words)}", state.global_step)

    def on_save(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        """Name the checkpoint that was just completed as the one to resume from."""
        content = {"checkpoint": f"checkpoint-{state.global_step}", "step": state.global_step}
        with replace_file(self.folder / RESUME_FILE) as temporary:
            temporary.write_text(json.dumps(content) + "\n", encoding="utf-8")


def resume_point(folder: Path) -> tuple[Path | None, int]:
    """The last complete checkpoint and its step; None and 0 if there is none yet."""
    file = folder / RESUME_FILE
    if not file.is_file():
        return None, 0
    content = json.loads(file.read_bytes())
    return folder / content["checkpoint"], int(content["step"])


def train_policy(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[PolicyPrompt],
    functions: Sequence[RewardFunction | ShuffledRewards],
    weights: Sequence[float],
    inputs: PolicyInputs,
    seed: int,
    folder: Path,
    callback: RunCallback,
) -> Any:
    """Train a policy, or resume it from its last checkpoint.

    Args:
        model: the initial policy; to train all weights, its configuration names a directory that
            has them, from where TRL loads the reference.
        prompts: to train on; the functions' `number` indexes them.
        functions: rewards, with their `weights`; those of weight 0 are only logged.
        inputs: how it trains.
        seed: of the order of prompts, of sampling and of LoRA's matrices.
        folder: of the checkpoints.
        callback: gets the logs.

    Returns:
        The trained model in fp32 on the CPU, with LoRA's matrices merged.
    """
    settings, tune = inputs.settings, inputs.tune
    lora = isinstance(tune, LoRA)
    trainer_class, config_class = {
        "grpo": (_GRPO, trl.GRPOConfig),
        "rloo": (_RLOO, trl.RLOOConfig),
    }[settings.algorithm]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # TRL's own use of transformers
        trainer: Any = trainer_class(
            model=model,
            reward_funcs=list(functions),
            args=config_class(
                output_dir=str(folder),
                reward_weights=list(weights),
                seed=seed,
                **_arguments(inputs),
            ),
            train_dataset=_steps_data(prompts, settings, seed),
            processing_class=tokenizer,
            callbacks=[callback],
            peft_config=_lora_config(tune) if lora else None,
        )
        trainer.remove_callback(PrinterCallback)
        checkpoint = resume_point(folder)[0]
        trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = trainer.accelerator.unwrap_model(trainer.model, keep_fp32_wrapper=False)
    trained = trained.to("cpu", torch.float32)  # bf16 would lose small updates when they are added
    return trained.merge_and_unload(safe_merge=True) if lora else trained


def _arguments(inputs: PolicyInputs) -> dict[str, Any]:
    """Arguments of GRPO and of RLOO; a forward pass of an update takes one prompt's answers."""
    settings, optim = inputs.settings, inputs.optim
    gpu = inputs.trainer.resolved_accelerator() == "gpu"
    return {
        "max_steps": settings.steps,
        "per_device_train_batch_size": settings.generations,
        "gradient_accumulation_steps": settings.prompts_per_step,
        "num_generations": settings.generations,
        "max_completion_length": settings.max_new_tokens,
        "temperature": settings.temperature,
        "beta": settings.beta,
        "shuffle_dataset": False,  # `_steps_data` has the order
        "learning_rate": optim.lr,
        "weight_decay": optim.weight_decay,
        "adam_beta1": optim.beta1,
        "adam_beta2": optim.beta2,
        "max_grad_norm": optim.clip or 0.0,
        "lr_scheduler_type": "constant_with_warmup"
        if optim.schedule == "constant"
        else optim.schedule,
        "warmup_steps": round(optim.warmup * settings.steps),
        "bf16": inputs.trainer.resolved_precision() == "bf16-mixed",
        "use_cpu": not gpu,
        "dataloader_pin_memory": gpu,
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": settings.checkpoint_every,
        "save_total_limit": 2,  # the one before stays until the next is complete
        "report_to": "none",
        "disable_tqdm": True,
    }


def _lora_config(tune: LoRA) -> Any:
    return peft.LoraConfig(
        r=tune.rank,
        lora_alpha=tune.alpha or 2 * tune.rank,
        lora_dropout=tune.dropout,
        target_modules=tune.target_modules,
        task_type="CAUSAL_LM",
    )


def _steps_data(
    prompts: Sequence[PolicyPrompt], settings: RLSettings, seed: int
) -> datasets.Dataset:
    """The prompts of all steps in a row: with one epoch, a resumed run finds its place exactly."""
    rng, needed = np.random.default_rng(seed), settings.steps * settings.prompts_per_step
    epochs = -(-needed // len(prompts))
    order = np.concatenate([rng.permutation(len(prompts)) for _ in range(epochs)])[:needed]
    rows = [{"prompt": list(p.messages), "number": n} for n, p in enumerate(prompts)]
    return datasets.Dataset.from_list(rows).select(order)
