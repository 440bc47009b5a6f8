"""Answers of a policy to held-out prompts: sampled, scored, stored and read again."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch

from rmexp.core.atomic_file import replace_file
from rmexp.evaluation.policy_effect import Measured, distinct_n
from rmexp.policy.policy_model import end_tokens
from rmexp.policy.prompts import PolicyPrompt, prompt_tokens
from rmexp.policy.rewards import AnswerGroup, AnswerRewards
from rmexp.policy.sampling import Decoding, Sampled, sample_responses

PROMPTS_TOGETHER = 8
"""Prompts whose answers are sampled or scored in one call."""


@dataclass(frozen=True)
class Answers:
    """K answers to each of P prompts, prompt by prompt.

    Attributes:
        prompts: the P prompts.
        texts, tokens: of the N = P x K answers; tokens include the end of the turn.
        finished_N: whether an answer ended by itself.
        values: name -> (N,) rewards and other numbers, NaN where an answer has none.
    """

    prompts: Sequence[PolicyPrompt]
    texts: Sequence[str]
    tokens: Sequence[Sequence[int]]
    finished_N: np.ndarray
    values: Mapping[str, np.ndarray]

    @property
    def per_prompt(self) -> int:
        """K, the number of answers to each prompt."""
        return len(self.texts) // len(self.prompts)

    @property
    def prompts_N(self) -> np.ndarray:
        """Index of the prompt of each answer."""
        return np.repeat(np.arange(len(self.prompts)), self.per_prompt)

    def measured(self) -> Measured:
        """The values, lengths, what was cut, and the diversity of the answers to a prompt."""
        count = self.per_prompt
        groups = [self.tokens[n : n + count] for n in range(0, len(self.tokens), count)]
        diversity = [distinct_n(group) for group in groups]
        lengths = np.array([len(ids) for ids in self.tokens], dtype=np.float64)
        return Measured(
            self.prompts_N,
            {
                **self.values,
                "tokens": lengths,
                "cut": (~self.finished_N).astype(np.float64),
                "distinct_2": np.repeat(diversity, count),
            },
        )

    def save(self, file: Path) -> None:
        """Write a parquet file with a row for each answer."""
        keys = [self.prompts[n].key for n in self.prompts_N]
        columns: dict[str, Any] = {
            "id": keys,
            "prompt": [list(self.prompts[n].messages) for n in self.prompts_N],
            "response": list(self.texts),
            "tokens": [len(ids) for ids in self.tokens],
            "token_ids": [list(ids) for ids in self.tokens],
            "finished": self.finished_N,
            **self.values,
        }
        file.parent.mkdir(parents=True, exist_ok=True)
        with replace_file(file) as temporary:
            pyarrow.parquet.write_table(pyarrow.table(columns), temporary)

    def gold_repeats_proxy(self) -> bool:
        """Whether the gold gives the proxy's own rewards."""
        proxy, gold = self.values["proxy"], self.values.get("gold")
        return gold is not None and np.allclose(gold, proxy, atol=1e-4, equal_nan=True)


ANSWER_COLUMNS = ("id", "prompt", "response", "tokens", "token_ids", "finished")
"""Columns of an answers file; the others are `values`."""


def read_answers(file: Path, prompts: Sequence[PolicyPrompt]) -> Answers:
    """The answers that `Answers.save` wrote, to these prompts."""
    table = pyarrow.parquet.read_table(file)
    return Answers(
        prompts,
        table["response"].to_pylist(),
        table["token_ids"].to_pylist(),
        table["finished"].to_numpy(zero_copy_only=False),
        {n: table[n].to_numpy() for n in table.column_names if n not in ANSWER_COLUMNS},
    )


def sample_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[PolicyPrompt],
    count: int,
    decoding: Decoding,
    seed: int,
    progress: Callable[[str, int], None],
) -> tuple[list[str], list[list[int]], np.ndarray]:
    """Texts, token ids and whether they are finished of `count` answers to each prompt.

    Two policies draw with the same random numbers, which makes their difference more precise.
    """
    sampled: list[Sampled] = []
    ends = end_tokens(model, tokenizer)
    for start in range(0, len(prompts), PROMPTS_TOGETHER):
        part = prompts[start : start + PROMPTS_TOGETHER]
        ids = [prompt_tokens(tokenizer, prompt) for prompt in part]
        keys = [prompt.key for prompt in part]
        for group in sample_responses(model, ids, keys, range(count), decoding, ends, seed):
            sampled += group
        progress(f"of {count * len(prompts)} answers to held-out prompts", len(sampled))
    tokens = [one.tokens for one in sampled]
    texts = tokenizer.batch_decode(tokens, skip_special_tokens=True)
    return texts, tokens, np.array([not one.cut for one in sampled])


def score_answers(
    prompts: Sequence[PolicyPrompt],
    texts: Sequence[str],
    finished_N: np.ndarray,
    rewards: AnswerRewards,
) -> np.ndarray:
    """(N,) the rewards of the answers to each prompt."""
    count = len(texts) // len(prompts)
    groups = [
        AnswerGroup(
            p.messages,
            texts[n * count : (n + 1) * count],
            list(finished_N[n * count : (n + 1) * count]),
        )
        for n, p in enumerate(prompts)
    ]
    found: list[float] = []
    for start in range(0, len(groups), PROMPTS_TOGETHER):
        found += rewards(groups[start : start + PROMPTS_TOGETHER])
    return np.array(found)


@torch.inference_mode()
def kl_divergence(
    new: Any, initial: Any, tokenizer: Any, answers: Answers, temperature: float
) -> np.ndarray:
    """(N,) estimates of KL(new || initial) of an answer in nats, from answers of the new policy.

    The sum over an answer's tokens of the divergence between the two distributions of the next
    token. It has the same mean as the log-ratio of the answer's probabilities, is never negative,
    and varies less (Amini, Vieira and Cotterell 2025, "Better Estimation of the KL Divergence
    Between Language Models", arXiv:2504.10637).

    Args:
        new, initial: policies that sample at the temperature.
    """
    count = answers.per_prompt
    found: list[float] = []
    for n, prompt in enumerate(answers.prompts):
        start = prompt_tokens(tokenizer, prompt)
        group = [list(ids) for ids in answers.tokens[n * count : (n + 1) * count]]
        width = max(map(len, group))
        padded, mask = (
            torch.tensor(rows, device=new.device)
            for rows in (
                [start + ids + [tokenizer.pad_token_id] * (width - len(ids)) for ids in group],
                [[1] * (len(start) + len(ids)) + [0] * (width - len(ids)) for ids in group],
            )
        )
        log_p, log_q = (
            torch.log_softmax(
                model(padded, attention_mask=mask, logits_to_keep=width + 1).logits[:, :-1].float()
                / temperature,
                dim=-1,
            )
            for model in (new, initial)
        )
        per_token = (log_p.exp() * (log_p - log_q)).sum(-1)
        found += (per_token * mask[:, len(start) :]).double().sum(1).tolist()
    return np.array(found)
