"""The reward head: the linear layer on top of a model, with one output or several.

A sum of linear outputs with fixed weights is linear: a head with several outputs gives one reward,
and is exported as a head with one (`MultiOutputHead.single`).
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.models.final_layer import ReadTokens

HEAD_RECORD = "head.json"
"""File of a run directory: kind, names and combine of a `MultiOutputHead`, once it is trained."""


@dataclass(frozen=True)
class ModelFacts:
    """What loading found out about a model.

    Attributes:
        fresh_head: the head was initialised randomly, not loaded.
        only_head_drawn: no weights but the head's were initialised randomly: models of other
            seeds have the same backbone.
        size: number of parameters, without LoRA's.
        attends_to_future: a token's hidden state depends on later tokens.
        padded_attention: the attention implementation for padded rows.
        rounded: frozen weights are held in bf16 and have lost digits, see `hold_in_bf16`.
    """

    fresh_head: bool
    only_head_drawn: bool
    size: int
    attends_to_future: bool
    padded_attention: str
    rounded: bool = False


class RewardHead(nn.Linear):
    """The last layer of the head, which computes its outputs in fp32; here the reward alone.

    Attributes:
        facts: of the model that the head belongs to.
        read: the tokens that it reads, for a final layer that computes no others; None: it does.
        kind: the option of the group `head` that it is of.
        names: of its outputs, where there are several.
    """

    facts: ModelFacts
    read: ReadTokens | None = None
    kind: str = "linear"
    names: tuple[str, ...] = ()

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., K)."""
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return F.linear(hidden.float(), self.weight.float(), bias)

    def rewards(self, outputs_N_K: Tensor) -> Tensor:
        """rewards_N of the head's outputs."""
        return outputs_N_K[:, 0]


class MultiOutputHead(RewardHead):
    """A head with K outputs, of which a weighted sum is the reward.

    Args:
        inputs: width of a hidden state.
        bias: whether the outputs have biases.
        kind: the option of the group `head` that it is of.
        names: of the outputs.
        combine: (K,) the weight of each output in the reward.

    Attributes:
        combine_K: the same, a buffer, so that it moves with the model.
    """

    combine_K: Tensor

    def __init__(
        self, inputs: int, bias: bool, kind: str, names: Sequence[str], combine: Sequence[float]
    ) -> None:
        super().__init__(inputs, len(names), bias=bias)
        self.kind, self.names = kind, tuple(names)
        # Not in checkpoints: weights that are learnt at the end of a run are in its HEAD_FILE.
        combine_K = torch.tensor(combine, dtype=torch.float32)
        self.register_buffer("combine_K", combine_K, persistent=False)

    def rewards(self, outputs_N_K: Tensor) -> Tensor:
        with torch.autocast(outputs_N_K.device.type, enabled=False):
            return outputs_N_K @ self.combine_K

    @torch.no_grad()
    def single(self) -> RewardHead:
        """The head with one output that gives the same rewards."""
        with torch.device(self.weight.device):
            head = RewardHead(self.in_features, 1, bias=self.bias is not None)
        combine_K = self.combine_K.double()
        head.weight.copy_((combine_K @ self.weight.double())[None])
        if self.bias is not None:
            head.bias.copy_((combine_K @ self.bias.double())[None])
        if hasattr(self, "facts"):
            head.facts = self.facts
        return head


def find_head(model: Any) -> tuple[str, RewardHead]:
    """Name and module of the head's last layer."""
    return next((n, m) for n, m in model.named_modules() if isinstance(m, RewardHead))


def replace_head(model: Any, head: RewardHead) -> None:
    """Put another head in the place of a model's; the model's facts stay."""
    name, old = find_head(model)
    head.read = old.read
    head.facts = dataclasses.replace(
        old.facts, size=old.facts.size + _parameters(head) - _parameters(old)
    )
    model.set_submodule(name, head)


def _parameters(head: nn.Module) -> int:
    return sum(p.numel() for p in head.parameters())


@torch.no_grad()
def draw_head(head: nn.Linear, *seeds: int) -> None:
    """Draw a head's weights from N(0, 1/(d+1)) for d inputs, each output with a seed of its own.

    Source: Stiennon et al. 2020, arXiv:2009.01325, appendix B.1.
    """
    d = head.in_features
    for row, seed in enumerate(seeds):
        generator = torch.Generator().manual_seed(seed)
        head.weight[row : row + 1].copy_(torch.randn(1, d, generator=generator) / (d + 1) ** 0.5)
    if head.bias is not None:
        head.bias.zero_()
