"""The prompts of a data set by split, and those that a reward model was trained on."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.comparison import Message
from rmexp.config.compose import build
from rmexp.config.trust import Trust
from rmexp.core.errors import UserError, collect_fallbacks, note_fallback
from rmexp.data.comparison_data import ComparisonData
from rmexp.inference.checkpoint import is_run, saved_config


@dataclass(frozen=True)
class PolicyPrompt:
    """A prompt; `key` is that of the comparisons that have it, `tools` whether they have tools."""

    key: str
    messages: tuple[Message, ...]
    tools: bool = False


def split_prompts(
    data: ComparisonData, seed: int, progress: Callable[[str, int], None]
) -> dict[str, list[PolicyPrompt]]:
    """Split -> its prompts, each once, in the order of the rows; loads no tokenizer.

    Raises:
        UserError: the data cannot be used.
    """
    data.source.check()
    data.prepare(None, seed, progress)
    keys = data.rows["prompt_key"][:]
    wanted = {name: dict.fromkeys(keys[int(n)] for n in rows) for name, rows in data.splits.items()}
    missing = {key for found in wanted.values() for key in found}
    prompts: dict[str, PolicyPrompt] = {}
    templated = False
    for one, source in data.source.comparisons():
        if one.prompt_key in missing:
            templated |= bool(source.templates)
            prompts[one.prompt_key] = PolicyPrompt(one.prompt_key, one.prompt, bool(one.tools))
            missing.discard(one.prompt_key)
            if not missing:
                break
    if templated:
        note_fallback(
            "data.template and data.system are not used: the policy has its own template."
        )
    return {name: [prompts[key] for key in found] for name, found in wanted.items()}


def prompt_tokens(tokenizer: Any, prompt: PolicyPrompt) -> list[int]:
    """A prompt as the policy reads it, up to the start of its answer."""
    ids: list[int] = tokenizer.apply_chat_template(
        list(prompt.messages), add_generation_prompt=True, return_dict=False
    )
    return ids


def answerable(
    prompts: Sequence[PolicyPrompt], tokenizer: Any, room: int | None
) -> tuple[list[PolicyPrompt], list[str]]:
    """The prompts that a policy can answer, and a sentence for each reason that leaves some out.

    Args:
        tokenizer: the policy's.
        room: maximum tokens of a prompt, so that an answer fits the context; None: no limit.
    """
    plain, fitting = [], []
    for prompt in prompts:
        texts = (
            set(m) <= {"role", "content"} and isinstance(m["content"], str) for m in prompt.messages
        )
        if not prompt.tools and all(texts):
            plain.append(prompt)
    for prompt in plain:
        ids = prompt_tokens(tokenizer, prompt)
        if room is None or len(ids) <= room:
            fitting.append(prompt)
    notes = []
    if lost := len(prompts) - len(plain):
        notes.append(
            f"{lost} prompts with tools, reasoning or parts that are not text are left out."
        )
    if lost := len(plain) - len(fitting):
        notes.append(
            f"{lost} prompts of more than {room} tokens are left out: with task.max_new_tokens "
            "they would not fit the policy's context."
        )
    return fitting, notes


def training_prompts(
    checkpoint: str, trust: Trust, progress: Callable[[str, int], None]
) -> frozenset[str] | None:
    """The keys of the prompts that the reward model of a run was trained on.

    Returns:
        None where nobody can tell: the directory is no run, or its data is gone or has changed.
    """
    home = Path(checkpoint).expanduser()
    if not is_run(home):
        return None
    try:
        saved = saved_config(home, trust)
        data: ComparisonData = build(saved.data)
        with collect_fallbacks(lambda sentence: None):  # that run has noted them
            data.prepare(None, saved.seed, progress)
        known = json.loads((home / "environment.json").read_bytes())["data_fingerprint"]
    except (UserError, OSError, ValueError, KeyError):
        return None
    if data.fingerprint != known:
        return None
    keys = data.rows["prompt_key"][:]
    return frozenset(keys[int(n)] for n in data.splits["train"])


def overlap_note(
    who: str, trained: frozenset[str] | None, held_out: Iterable[PolicyPrompt]
) -> str | None:
    """A sentence on held-out prompts that a reward model was trained on; None if there are none."""
    if trained is None:
        return f"Whether the {who} was trained on some of the held-out prompts is not known."
    prompts = list(held_out)
    if shared := sum(prompt.key in trained for prompt in prompts):
        return f"The {who} was trained on {shared} of the {len(prompts)} held-out prompts."
    return None
