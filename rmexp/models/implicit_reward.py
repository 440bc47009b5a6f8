"""The implicit reward of a policy: how much more probable it made a response than its reference.

r = beta (log p(y | x) - log p_ref(y | x)), summed over the tokens of the response y to prompt x.
DPO trains this reward (Rafailov et al. 2023, arXiv:2305.18290, section 4 and equation 7).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.batching.prefix_tree import Tree
from rmexp.core.errors import UserError
from rmexp.models.reward_model import BATCH_INVARIANCE_TOLERANCE, backbone, random_tokens
from rmexp.models.tree_attention import TREE_ATTENTION, TreeRow

LOGITS_AT_ONCE = 2**24
"""Maximum logits in memory, 64 MiB in fp32: the head of a large vocabulary is applied in chunks."""


class ImplicitReward(nn.Module):
    """A policy and its reference, two causal language models with one tokenizer.

    Args:
        policy: trained by DPO, or any other way.
        reference: the model that it was trained from.
        beta: strength of the KL penalty that it was trained with, above 0: scales all rewards.

    Raises:
        UserError: a model's logits are not its output layer of its hidden states.
    """

    def __init__(self, policy: Any, reference: Any, beta: float) -> None:
        super().__init__()
        self.policy, self.reference, self.beta = policy, reference, beta
        self.padded_attention = [model.config._attn_implementation for model in self.models]
        for name, model in zip(("policy", "reference"), self.models, strict=True):
            _check_logits(name, model)

    @property
    def models(self) -> tuple[Any, Any]:
        """The policy and the reference."""
        return self.policy, self.reference

    def rewards(self, batch: Batch, starts_N: Sequence[int]) -> Tensor:
        """rewards_N in fp64, in either layout.

        Args:
            batch: sequences of prompt and response.
            starts_N: number of tokens before each response; a first token without any before it
                has no probability and is left out.
        """
        paths = [
            path[max(start, 1) - 1 :]
            for path, start in zip(token_paths(batch), starts_N, strict=True)
        ]
        before = {int(to): int(one) for path in paths for one, to in pairwise(path)}
        targets = sorted(before)
        device = batch.tokens_R_T.device
        at_E, to_E = (
            torch.tensor(places, dtype=torch.int64, device=device)
            for places in ([before[to] for to in targets], targets)
        )
        logprobs = [
            token_logprobs(model, self._hidden(model, batch, attention), batch, at_E, to_E)
            for model, attention in zip(self.models, self.padded_attention, strict=True)
        ]
        gains = dict(zip(targets, (logprobs[0] - logprobs[1]).tolist(), strict=True))
        sums = [self.beta * sum(gains[int(to)] for to in path[1:]) for path in paths]
        return torch.tensor(sums, dtype=torch.float64)

    def _hidden(self, model: Any, batch: Batch, padded_attention: str) -> Tensor:
        """(R, T, D); rows are padded on the right, so that a causal model needs no mask."""
        padded = batch.trees is None
        model.config._attn_implementation = padded_attention if padded else TREE_ATTENTION
        layout: dict[str, Any] = {}
        if batch.trees is not None:
            row = TreeRow(batch.trees, batch.tokens_R_T.shape[1], batch.tokens_R_T.device)
            layout = {"position_ids": batch.positions_R_T, "trees": row}
        body = backbone(model)
        return body(input_ids=batch.tokens_R_T, use_cache=False, **layout).last_hidden_state


def token_paths(batch: Batch) -> list[np.ndarray]:
    """Of each sequence, the index of each of its tokens in the flat `tokens_R_T`, in order."""
    rows, ends = batch.row_N.tolist(), batch.end_N.tolist()
    if batch.trees is None:
        width = batch.tokens_R_T.shape[1]
        return [row * width + np.arange(end + 1) for row, end in zip(rows, ends, strict=True)]
    sizes = [tree.size for tree in batch.trees]
    offsets = np.cumsum([0, *sizes[:-1]])
    homes = np.searchsorted(offsets, ends, side="right") - 1
    return [
        offsets[home] + _tree_path(batch.trees[home], end - int(offsets[home]))
        for home, end in zip(homes.tolist(), ends, strict=True)
    ]


def _tree_path(tree: Tree, end: int) -> np.ndarray:
    if end < tree.shared_prefix:
        return np.arange(end + 1)
    ends = tree.ends()
    branch = int(np.searchsorted(ends, end))
    first = int(ends[branch]) - tree.branches[branch] + 1
    return np.concatenate([np.arange(tree.shared_prefix), np.arange(first, end + 1)])


def token_logprobs(
    model: Any, hidden_R_T_D: Tensor, batch: Batch, at_E: Tensor, to_E: Tensor
) -> Tensor:
    """(E,) fp64 log-probability of the token at `to_E`, predicted from the hidden state at `at_E`.

    Both are indices in the flat `tokens_R_T`.
    """
    flat_D, tokens = hidden_R_T_D.flatten(0, 1), batch.tokens_R_T.flatten()[to_E]
    chunk = max(1, LOGITS_AT_ONCE // model.get_output_embeddings().weight.shape[0])
    found = [
        logits.gather(1, token[:, None])[:, 0] - logits.logsumexp(1)
        for at, token in zip(at_E.split(chunk), tokens.split(chunk), strict=True)
        for logits in [_logits(model, flat_D[at])]
    ]
    return torch.cat(found).double()


def _logits(model: Any, hidden_E_D: Tensor) -> Tensor:
    """(E, V) in fp32."""
    head = model.get_output_embeddings()
    with torch.autocast(hidden_E_D.device.type, enabled=False):
        logits = head(hidden_E_D.to(head.weight.dtype)).float()
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)


@torch.no_grad()
def _check_logits(name: str, model: Any) -> None:
    model.eval()
    tokens = torch.tensor([random_tokens(model)], device=next(model.parameters()).device)
    out = backbone(model)(input_ids=tokens, use_cache=False).last_hidden_state
    expected = model(input_ids=tokens, use_cache=False).logits[0].float()
    tolerance = BATCH_INVARIANCE_TOLERANCE
    if not torch.allclose(_logits(model, out[0]), expected, rtol=tolerance, atol=tolerance):
        raise UserError(
            f"{name}: {type(model).__name__} rescales its logits in a way of its own, so that "
            "model=implicit cannot compute the probabilities of its tokens."
        )
