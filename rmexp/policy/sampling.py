"""Sampling responses of a policy, several to each prompt.

The prompt's keys and values are computed once, and repeated for its responses. Each response draws
from random numbers of its own, which depend on the seed, the prompt and the response's number
alone: not on the other prompts, nor on where an interrupted run resumes.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

COMPACT_BELOW = 0.75
"""Share of unfinished responses below which the finished ones leave the batch."""

NUCLEUS = 1024
"""Most probable tokens that are sorted first for top_p; all are where these do not suffice."""


@dataclass(frozen=True)
class Decoding:
    """How responses are drawn.

    Args:
        temperature: divides the logits, above 0.
        top_p: draw from the fewest tokens with this total probability, above 0 up to 1.
        max_new_tokens: tokens after which a response is cut.
    """

    temperature: float
    top_p: float
    max_new_tokens: int


@dataclass(frozen=True)
class Sampled:
    """A response as token ids (its end token included, unless it was cut).

    `logprob` is the sum of the log-probabilities of these tokens under the policy at temperature 1
    and without top_p, whatever they were drawn with.
    """

    tokens: list[int]
    logprob: float
    cut: bool


@torch.inference_mode()
def sample_responses(
    model: Any,
    prompts: Sequence[Sequence[int]],
    keys: Sequence[str],
    numbers: Sequence[int],
    decoding: Decoding,
    ends: Sequence[int],
    seed: int,
) -> list[list[Sampled]]:
    """Draw responses to each prompt of a batch.

    Args:
        model: a causal language model.
        prompts: token ids of each prompt.
        keys: content of each prompt, from which its random numbers come.
        numbers: of the responses to draw to each prompt, from 0.
        ends: ids of the tokens that end a response.
        seed: of the random numbers.
    """
    device, k = next(model.parameters()).device, len(numbers)
    draws_N_T = torch.tensor(
        np.stack([
            _uniform(seed, key, number, decoding.max_new_tokens)
            for key in keys
            for number in numbers
        ]),
        device=device,
    )  # fmt: skip
    rows = len(draws_N_T)
    tokens_N_T = torch.zeros((rows, decoding.max_new_tokens), dtype=torch.long, device=device)
    lengths_N = torch.zeros(rows, dtype=torch.long, device=device)
    logprobs_N = torch.zeros(rows, dtype=torch.float64, device=device)
    ended_N = torch.zeros(rows, dtype=torch.bool, device=device)
    end_tokens = torch.tensor(ends, device=device)

    ids_B_P, mask_B_P = _left_padded(prompts, device)
    out = model(
        input_ids=ids_B_P,
        attention_mask=mask_B_P,
        position_ids=(mask_B_P.cumsum(1) - 1).clamp(min=0),
        use_cache=True,
        logits_to_keep=1,
    )
    cache = out.past_key_values
    cache.batch_repeat_interleave(k)
    logits = out.logits[:, -1].float().repeat_interleave(k, 0)
    mask = mask_B_P.repeat_interleave(k, 0)
    live = torch.arange(rows, device=device)  # the response of each row of the batch
    for step in range(decoding.max_new_tokens):
        chosen = _draw(logits, decoding, draws_N_T[live, step])
        open_ = ~ended_N[live]
        logprobs = logits.log_softmax(-1).gather(1, chosen[:, None])[:, 0].double()
        tokens_N_T[live, step] = chosen
        lengths_N[live] += open_
        logprobs_N[live] += torch.where(open_, logprobs, 0.0)
        ended_N[live] |= torch.isin(chosen, end_tokens)
        left = (~ended_N[live]).nonzero()[:, 0]
        if not len(left) or step + 1 == decoding.max_new_tokens:
            break
        if len(left) < COMPACT_BELOW * len(live):
            cache.batch_select_indices(left)
            live, chosen, mask = live[left], chosen[left], mask[left]
        mask = torch.cat([mask, mask.new_ones((len(mask), 1))], 1)
        out = model(
            input_ids=chosen[:, None],
            attention_mask=mask,
            position_ids=mask.sum(1, keepdim=True) - 1,
            past_key_values=cache,
            use_cache=True,
        )
        logits = out.logits[:, -1].float()
    found = [
        Sampled(ids[:length], logprob, not ended)
        for ids, length, logprob, ended in zip(
            tokens_N_T.tolist(),
            lengths_N.tolist(),
            logprobs_N.tolist(),
            ended_N.tolist(),
            strict=True,
        )
    ]
    return [found[start : start + k] for start in range(0, rows, k)]


def _uniform(seed: int, key: str, number: int, count: int) -> np.ndarray:
    """Uniform numbers of one response, one a token."""
    digest = hashlib.sha256(f"{seed} {number} {key}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16]))).random(count)


def _left_padded(prompts: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask (B, P): prompts end at the last column, where responses begin."""
    width = max(map(len, prompts))
    ids = [[0] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def _draw(logits_N_V: Tensor, decoding: Decoding, uniform_N: Tensor) -> Tensor:
    """(N,) the token at which the cumulative probability passes each uniform number."""
    probabilities = (logits_N_V / decoding.temperature).softmax(-1).double()
    if decoding.top_p >= 1:
        return _inverse(probabilities, uniform_N)
    width = probabilities.shape[1]
    for count in (min(NUCLEUS, width), width):
        ordered, tokens = probabilities.topk(count)
        before = ordered.cumsum(1) - ordered
        if count == width or bool((before[:, -1] >= decoding.top_p).all()):
            break
    kept = ordered * (before < decoding.top_p)
    return tokens.gather(1, _inverse(kept, uniform_N)[:, None])[:, 0]


def _inverse(weights_N_V: Tensor, uniform_N: Tensor) -> Tensor:
    """Draw an index with a chance in proportion to its weight, by the inverse of the sums."""
    sums = weights_N_V.cumsum(1)
    total = sums[:, -1]
    target = torch.minimum(uniform_N * total, total.nextafter(torch.zeros_like(total)))
    return torch.searchsorted(sums, target[:, None], right=True)[:, 0]
