"""A policy before and after reinforcement learning: answers, training, export, and the effect."""

import contextlib
import dataclasses
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rmexp.core.atomic_file import replace_directory
from rmexp.core.console import Reporter
from rmexp.core.process_memory import trim_heap
from rmexp.models.tuning import LoRA
from rmexp.policy.held_out import (
    Answers,
    kl_divergence,
    read_answers,
    sample_answers,
    score_answers,
)
from rmexp.policy.policy_model import PolicyModel, end_tokens
from rmexp.policy.prompts import PolicyPrompt
from rmexp.policy.rewards import AnswerRewards, RewardFunction, ShuffledRewards
from rmexp.policy.sampling import Decoding
from rmexp.policy.settings import PolicyInputs
from rmexp.tracking.run_directory import RunDirectory


@dataclass
class PolicyImprovement:
    """The stages of task=improve; each leaves a file, so that a resumed run skips it.

    Args:
        run: its directory gets answers/before.parquet, checkpoints/, export/ and
            answers/after.parquet.
        source: of the initial policy.
        tokenizer: of `source`.
        model: the initial policy.
        inputs: how it trains.
        judges: `proxy`, and `gold` if there is one.
        train, held_out: prompts.
        answers: number of answers to each held-out prompt.
        seed: of sampling and training.
        reporter: prints the progress.
    """

    run: RunDirectory
    source: PolicyModel
    tokenizer: Any
    model: Any
    inputs: PolicyInputs
    judges: dict[str, AnswerRewards]
    train: Sequence[PolicyPrompt]
    held_out: Sequence[PolicyPrompt]
    answers: int
    seed: int
    reporter: Reporter

    def before(self) -> Answers:
        """Answers of the initial policy to the held-out prompts."""
        file = self.run.path / "answers" / "before.parquet"
        if file.is_file():
            return read_answers(file, self.held_out)
        found = self._answers(self._initial())
        found.save(file)
        return found

    def improve(self, shuffled: bool, loggers: Sequence[Any]) -> Path:
        """Train the policy, and save it as a plain Hugging Face directory.

        Args:
            shuffled: train on permuted rewards.
            loggers: get what TRL logs.
        """
        home, folder = self.run.path / "export", self.run.path / "checkpoints"
        if home.is_dir():
            return home
        with contextlib.redirect_stdout(io.StringIO()):  # transformers prints that W&B is offline
            from rmexp.policy.trl_training import RunCallback, resume_point, train_policy
        if step := resume_point(folder)[1]:
            self.reporter.say(f"resuming after step {step}")
            self.run.cut_metrics(step)
        model = self._initial()
        self.model = None  # it trains in place
        if not isinstance(self.inputs.tune, LoRA):  # TRL loads the reference from where it lies
            _save_reference(model, folder / "reference")
        functions, weights = self._functions(end_tokens(model, self.tokenizer), shuffled)
        trained = train_policy(
            model,
            self.tokenizer,
            self.train,
            functions,
            weights,
            self.inputs,
            self.seed,
            folder,
            RunCallback(loggers, folder, self.reporter),
        )
        with replace_directory(home) as aside:
            trained.save_pretrained(aside)
            self.tokenizer.save_pretrained(aside)
        del model, trained
        trim_heap()
        return home

    def after(self, export: Path) -> Answers:
        """Answers of the exported policy; `kl` is its divergence from the initial one."""
        file = self.run.path / "answers" / "after.parquet"
        if file.is_file():
            return read_answers(file, self.held_out)
        trained = _exported(export, self.inputs.dtype).to(self._device)
        found = self._answers(trained)
        temperature = self.inputs.settings.temperature
        kl_N = kl_divergence(trained, self._initial(), self.tokenizer, found, temperature)
        found = dataclasses.replace(found, values={**found.values, "kl": kl_N})
        found.save(file)
        return found

    def _initial(self) -> Any:
        """The initial policy, on the device."""
        if self.model is None:
            self.model = self.source.load_language_model(self.tokenizer, self.inputs.dtype)
        return self.model.to(self._device)

    @property
    def _device(self) -> str:
        return self.inputs.trainer.device()

    def _answers(self, model: Any) -> Answers:
        settings = self.inputs.settings
        texts, tokens, finished_N = sample_answers(
            model,
            self.tokenizer,
            self.held_out,
            self.answers,
            Decoding(settings.temperature, 1.0, settings.max_new_tokens),
            self.seed,
            self.reporter.count,
        )
        values = {
            name: score_answers(self.held_out, texts, finished_N, rewards)
            for name, rewards in self.judges.items()
        }
        return Answers(self.held_out, texts, tokens, finished_N, values)

    def _functions(
        self, ends: Sequence[int], shuffled: bool
    ) -> tuple[list[RewardFunction | ShuffledRewards], list[float]]:
        """The reward functions and their weights: TRL logs all, and trains on one."""
        messages = [prompt.messages for prompt in self.train]
        judges = [
            RewardFunction(name, rewards, messages, ends) for name, rewards in self.judges.items()
        ]
        first = 0.0 if shuffled else 1.0
        weights = [first, *[0.0] * (len(judges) - 1)]
        if not shuffled:
            return [*judges], weights
        return [*judges, ShuffledRewards(judges[0], self.seed)], [*weights, 1.0]


def _save_reference(model: Any, folder: Path) -> None:
    """Save the initial policy, and name the directory in its configuration."""
    if not folder.is_dir():
        with replace_directory(folder) as aside:
            model.save_pretrained(aside)
    model.config._name_or_path = str(folder)


def _exported(home: Path, dtype: torch.dtype) -> Any:
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(home, dtype=dtype).eval()
