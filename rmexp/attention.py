"""Tree attention for Hugging Face models, and the gate and probe that decide whether to trust it.

Registered as an attention implementation without a mask function, so that Hugging Face passes no
mask; the trees of the packed row reach every layer as a model argument.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from rmexp.trees import Tree

NAME = "rmexp_tree"


class TreeMasks:
    """Which keys each query of a packed row may see: a (t, t) boolean mask a tree, once a batch."""

    counted = 0
    """Attention calls so far in this process: the probe checks that every layer made one."""

    def __init__(self, trees: Sequence[Tree], device: Any) -> None:
        self.sizes = [tree.size for tree in trees]
        self._segments = [torch.from_numpy(tree.segments()).to(device) for tree in trees]
        self._positions = [torch.from_numpy(tree.positions()).to(device) for tree in trees]
        self._masks: dict[int | None, list[Tensor]] = {}

    def masks(self, window: int | None) -> list[Tensor]:
        """True where a query must not look; `window` counts positions, like sliding attention."""
        if window not in self._masks:
            self._masks[window] = [
                ~_visible(s, p, window)
                for s, p in zip(self._segments, self._positions, strict=True)
            ]
        return self._masks[window]


def _visible(segments_t: Tensor, positions_t: Tensor, window: int | None) -> Tensor:
    own = segments_t[:, None] == segments_t[None, :]
    trunk = segments_t[None, :] == 0
    distance = positions_t[:, None] - positions_t[None, :]
    seen = (own | trunk) & (distance >= 0)
    return seen if window is None else seen & (distance < window)


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    trees: TreeMasks | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row, tree by tree.

    query (1, H, T, d), key and value (1, G, T, d) with H a multiple of G -> (1, T, H, d).
    """
    if trees is None:
        raise RuntimeError(f"attention implementation {NAME!r} was called without its trees")
    TreeMasks.counted += 1
    h, g, d = query.shape[1], key.shape[1], query.shape[3]
    scaling = d**-0.5 if scaling is None else scaling
    # `split`, not slices: the backward of a slice zero-fills the whole row each time.
    parts = zip(
        (query[0] * scaling).split(trees.sizes, dim=1),
        key[0].split(trees.sizes, dim=1),
        value[0].split(trees.sizes, dim=1),
        trees.masks(sliding_window),
        strict=True,
    )
    out = []
    for q_H_t_d, k_G_t_d, v_G_t_d, hidden_t_t in parts:
        t = q_H_t_d.shape[1]
        # Query heads of one key head stand in one matrix, so that keys are never repeated.
        scores = q_H_t_d.reshape(g, h // g * t, d) @ k_G_t_d.transpose(1, 2)
        scores = scores.view(g, h // g, t, t)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        scores = scores.masked_fill(hidden_t_t, float("-inf"))
        weights = F.softmax(scores, dim=-1, dtype=torch.float32).to(v_G_t_d.dtype)
        weights = F.dropout(weights, dropout, module.training) if dropout else weights
        out.append((weights.view(g, h // g * t, t) @ v_G_t_d).view(h, t, d))
    return torch.cat(out, dim=1).transpose(0, 1).unsqueeze(0), None


AttentionInterface.register(NAME, tree_attention)


@contextmanager
def tree_layout(model: Any) -> Iterator[None]:
    """Use tree attention inside, and the model's own implementation again outside."""
    before = model.config._attn_implementation
    model.config._attn_implementation = NAME
    try:
        yield
    finally:
        model.config._attn_implementation = before
