"""task=improve: reinforcement learning of a policy on a reward model, judged by another one."""

import importlib.util
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge
from omegaconf import DictConfig

from rmexp.analysis.report.improve_page import estimate_lines, improve_table, write_improve_page
from rmexp.config.compose import build
from rmexp.config.task_inputs import InputGroup
from rmexp.core.console import Reporter
from rmexp.core.errors import UserError, note_fallback
from rmexp.core.process_memory import peak_memory_gib
from rmexp.data.comparison_data import ComparisonData
from rmexp.evaluation.policy_effect import policy_effect, verdict
from rmexp.evaluation.stats.significance import MIN_CLUSTERS
from rmexp.inference.checkpoint import load_scorer
from rmexp.models.tuning import Full, LoRA
from rmexp.policy.held_out import Answers
from rmexp.policy.improve import PolicyImprovement
from rmexp.policy.policy_model import context_length, policy_model
from rmexp.policy.prompts import (
    PolicyPrompt,
    answerable,
    overlap_note,
    split_prompts,
    training_prompts,
)
from rmexp.policy.rewards import AnswerRewards
from rmexp.policy.settings import Judges, PolicyInputs
from rmexp.tracking.environment import describe_environment
from rmexp.tracking.run_directory import JsonLines, RunDirectory
from rmexp.training.setup import report_warnings, seed_everything
from rmexp.training.trainer import TrainerSettings

ANSWERS_SHOWN = 6
"""Prompts that the page shows with an answer before and after."""


@dataclass
class ImproveOutput(InputGroup):
    """Where results go; `name` is the title of the page."""

    run: RunDirectory
    loggers: list[Any]
    reporter: Reporter
    name: str


def improve(
    judges: Judges,
    inputs: PolicyInputs,
    data: ComparisonData,
    held_out: Annotated[int, Ge(MIN_CLUSTERS)] | None,
    answers: Annotated[int, Ge(2)],
    output: ImproveOutput,
    seed: int,
) -> dict[str, float]:
    """Improve a policy with GRPO or RLOO, and compare it before and after on held-out prompts.

    Args:
        judges: the reward model whose rewards train, and the gold that only judges.
        inputs: the policy, and how it trains.
        data: its train prompts train; its test prompts (val, where there are none) compare.
        held_out: maximum number of prompts to compare on; None takes all.
        answers: number of answers to each of them.

    Raises:
        UserError: a model or the data cannot be used, or no prompt is left.
    """
    run, reporter = output.run, output.reporter
    seed_everything(seed)
    splits = split_prompts(data, seed, reporter.count)
    split = "test" if splits["test"] else "val"
    source = policy_model(inputs.policy, inputs.cache)
    tokenizer = source.load_tokenizer()
    model = source.load_language_model(tokenizer, inputs.dtype)
    room = _room(context_length(model), inputs.settings.max_new_tokens)
    train = _answerable("train", splits["train"], tokenizer, room)
    compared = _answerable(split, splits[split], tokenizer, room)
    # By the hash of the prompt: runs of any seed compare on the same prompts.
    compared = sorted(compared, key=lambda prompt: prompt.key)[:held_out]
    _check_unchanged(run, data)
    facts: dict[str, Any] = {
        "trl": version("trl"),
        "data": data.report.to_dict(),
        "policy": source.path,
    }
    facts |= {"data_fingerprint": data.fingerprint, "seed": seed}
    run.write_json("environment.json", describe_environment(**facts))
    reporter.say(
        f"policy: {source.name}; {len(train)} prompts train, {len(compared)} of {split} compare"
    )
    for sentence in _overlaps(judges, compared, reporter):
        note_fallback(sentence)
    models = _open_judges(judges, inputs.trainer)
    stages = PolicyImprovement(
        run, source, tokenizer, model, inputs, models, train, compared, answers, seed, reporter
    )
    before = stages.before()
    if before.gold_repeats_proxy():
        note_fallback(
            "task.gold gives the rewards of the checkpoint itself, and says nothing that the proxy "
            "does not say: give a model that was trained on other data."
        )
    loggers = [JsonLines(run), *output.loggers]
    export = stages.improve(judges.control == "shuffled", loggers)
    after = stages.after(export)
    sides = before.measured(), after.measured()
    effect = policy_effect(*sides, list(models), after.values["kl"])
    proxy, gold = effect.changes["proxy"], effect.changes.get("gold")
    metrics = effect.metrics(split)
    for logger in loggers:
        logger.log_metrics(dict(metrics), inputs.settings.steps)
    report_warnings(verdict(proxy, gold, judges.control is not None), run, reporter)
    said = _on_training(run.metrics(), inputs, judges)
    reporter.say(*said)
    reporter.console.print(improve_table(effect))
    reporter.say(*(f"{label}: {value} ({note})" for label, value, note in estimate_lines(effect)))
    run.update(
        policy=source.path,
        evaluated=judges.checkpoint,
        gold=judges.gold,
        control=judges.control,
        peak_memory_gib=round(peak_memory_gib(), 2),
    )
    subtitle = f"task=improve · {source.name} by {judges.checkpoint}"
    shown = list(_examples(before, after))
    write_improve_page(run, output.name, subtitle, split, effect, sides, said, shown)
    if inputs.trainer.keep != "resume":
        shutil.rmtree(run.path / "checkpoints", ignore_errors=True)
    return metrics


def _room(limit: int | None, max_new_tokens: int) -> int | None:
    """Maximum tokens of a prompt, so that an answer fits the context.

    Raises:
        UserError: there is no room for a prompt.
    """
    if limit is not None and limit <= max_new_tokens:
        raise UserError(
            f"task.max_new_tokens={max_new_tokens}: the policy's context of {limit} tokens has no "
            "room for a prompt before such an answer."
        )
    return None if limit is None else limit - max_new_tokens


def _check_unchanged(run: RunDirectory, data: ComparisonData) -> None:
    """Refuse to resume with other data than the run was started with."""
    file = run.path / "environment.json"
    if file.is_file() and json.loads(file.read_bytes())["data_fingerprint"] != data.fingerprint:
        raise UserError(
            f"resume={run.path}: the data changed since the run stopped, so that it cannot go on "
            "exactly; put it back, or start a new run."
        )


def _answerable(
    split: str, prompts: Sequence[PolicyPrompt], tokenizer: Any, room: int | None
) -> list[PolicyPrompt]:
    """The prompts of a split that the policy can answer; others are noted.

    Raises:
        UserError: there are none.
    """
    found, notes = answerable(prompts, tokenizer, room)
    for sentence in notes:
        note_fallback(f"{split}: {sentence}")
    if not found:
        why = " ".join(notes) or "the data has none."
        raise UserError(f"No prompt of {split} is left: {why}")
    return found


def _overlaps(
    judges: Judges, compared: Sequence[PolicyPrompt], reporter: Reporter
) -> Iterator[str]:
    """Sentences on the prompts that both reward models, or one and the held-out set, share."""
    trained = {}
    for who, path in (("checkpoint", judges.checkpoint), ("gold", judges.gold)):
        if path is not None:
            trained[who] = training_prompts(path, judges.trust, reporter.count)
            if sentence := overlap_note(who, trained[who], compared):
                yield sentence
    one, other = trained["checkpoint"], trained.get("gold")
    if one and other and (shared := len(one & other)):
        yield (
            f"Checkpoint and gold were both trained on {shared} prompts ({len(one)} and "
            f"{len(other)} in all): gold may share the errors that the policy learns to use."
        )


def _open_judges(judges: Judges, trainer: TrainerSettings) -> dict[str, AnswerRewards]:
    paths = {"proxy": judges.checkpoint, "gold": judges.gold}
    return {
        name: AnswerRewards(
            load_scorer(
                path,
                precision=trainer.precision,
                accelerator=trainer.accelerator,
                trust_remote_code=judges.trust.remote_code,
                trust=judges.trust.targets,
            ),
            judges.cut_answers,
        )
        for name, path in paths.items()
        if path is not None
    }


def _on_training(
    logged: Sequence[Mapping[str, Any]], inputs: PolicyInputs, judges: Judges
) -> list[str]:
    """What the training consisted of, and the shares of it that gave no signal."""

    def mean(name: str) -> float:
        values = [line[f"train/{name}"] for line in logged if f"train/{name}" in line]
        return float(np.mean(values)) if values else 0.0

    s = inputs.settings
    how = "as if they ended there" if judges.cut_answers == "closed" else "as unfinished"
    lines = [
        f"{s.steps} steps of {s.algorithm.upper()}, {s.prompts_per_step} prompts x {s.generations} "
        f"answers each, KL weight {s.beta:g}.",
        f"{mean('frac_reward_zero_std'):.1%} of the groups had equal rewards and gave no signal.",
        f"{mean('completions/clipped_ratio'):.1%} of the training answers were cut at "
        f"{s.max_new_tokens} tokens, and scored {how}.",
    ]
    if lost := mean("rewards/proxy/unscored"):
        lines.append(
            f"{lost:.1%} of the training answers could not be scored, and did not train: they are "
            "longer than the reward model reads."
        )
    return lines


def _examples(before: Answers, after: Answers) -> Iterator[dict[str, Any]]:
    """An answer before and after to the prompts whose proxy rose most."""
    count = before.per_prompt
    gains_P = (after.values["proxy"] - before.values["proxy"]).reshape(-1, count).mean(1)
    for number in np.argsort(-np.nan_to_num(gains_P, nan=-np.inf), kind="stable")[:ANSWERS_SHOWN]:
        first = int(number) * count
        sides = (before, after)
        prompt = before.prompts[int(number)].messages
        yield {
            "summary": f"proxy {gains_P[number]:+.3f}: {str(prompt[-1]['content'])[:90]}",
            "prompt": "\n\n".join(f"{m['role']}: {m['content']}" for m in prompt),
            "answers": [side.texts[first] for side in sides],
            "rewards": [
                ", ".join(f"{n} {side.values[n][first]:.3f}" for n in before.values)
                for side in sides
            ],
        }


def check_improve(config: DictConfig) -> None:
    """Check the policy, the gold and the part that trains, and that TRL is installed."""
    if importlib.util.find_spec("trl") is None:
        raise UserError("task=improve is not installed: pip install 'rmexp[rl]'.")
    if not isinstance(build(config.tune), (Full, LoRA)):
        raise UserError(
            "A policy trains with tune=lora or tune=full; tune=head and "
            "tune=last_layers are for reward models."
        )
    policy_model(config.policy, config.cache).check()
    gold = config.task.gold
    if gold is not None and not Path(gold).expanduser().is_dir():
        raise UserError(f"task.gold={gold}: there is no such directory.")
