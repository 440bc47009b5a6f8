"""Goodput MFU: the FLOPs that a step needs, over what matmuls of this model's shapes reach here.

FLOPs = 6 (N T + M E) + 12 L d K: N weights without embeddings, T distinct tokens, M weights of the
final layer that are used at the E tokens alone that the head reads (they are not in N), L layers, d
the width of all query heads, K attended keys summed over tokens (a token at position p attends to
p + 1).
"""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F

from rmexp.batching.prefix_tree import Tree
from rmexp.models.final_layer import per_token_parts
from rmexp.models.reward_model import backbone, last_layer
from rmexp.models.tuning import layers


def step_flops(model: Any, trees: Sequence[Tree]) -> float:
    """FLOPs of forward and backward over a step's trees, each distinct token once."""
    config = model.config.get_text_config()
    body = backbone(model)
    weights = sum(p.numel() for p in body.parameters())
    weights -= model.get_input_embeddings().weight.numel()
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    tokens = sum(tree.size for tree in trees)
    keys = sum(int(tree.positions().sum()) + tree.size for tree in trees)
    products = weights * tokens
    if last_layer(model).read is not None:
        parts = per_token_parts(layers(model)[-1])
        narrow = sum(p.numel() for part in parts for p in part.parameters())
        products -= narrow * (tokens - sum(len(tree.branches) for tree in trees))
    depth, heads = config.num_hidden_layers, config.num_attention_heads
    return 6.0 * products + 12.0 * depth * heads * width * keys


def gemm_peak(model: Any, tokens: int, dtype: torch.dtype) -> float:
    """FLOP/s of forward, input-gradient and weight-gradient matmuls of `tokens` tokens.

    Over all matrices of the layers, so that each shape weighs as much as it does in a step.
    """
    embeddings = model.get_input_embeddings().weight
    shapes = Counter(
        tuple(p.shape) for p in backbone(model).parameters() if p.ndim == 2 and p is not embeddings
    )
    flops = seconds = 0.0
    for (out, wide), count in shapes.items():
        w, x, g = (
            torch.randn(shape, dtype=dtype, device=embeddings.device)
            for shape in ((out, wide), (tokens, wide), (tokens, out))
        )
        for multiply in (
            lambda w=w, x=x: F.linear(x, w),
            lambda w=w, g=g: g @ w,
            lambda x=x, g=g: g.t() @ x,
        ):
            seconds += count * _seconds(multiply)
            flops += count * 2.0 * tokens * out * wide
    return flops / seconds


@torch.no_grad()
def _seconds(multiply: Callable[[], Any]) -> float:
    """Median of repeats over a tenth of a second, after two that are not counted."""

    def finished() -> None:
        if multiply().is_cuda:
            torch.cuda.synchronize()

    finished()
    finished()
    found: list[float] = []
    while sum(found) < 0.1 or len(found) < 5:
        start = time.perf_counter()
        finished()
        found.append(time.perf_counter() - start)
    return median(found)
