"""Attention of a packed row on a CPU in fp32: torch's fused kernel on each stretch of a tree.

A segment (the prefix, or a branch) attends to itself causally, and the branches of a tree together
to its prefix. Two parts of a softmax are merged by their log-sum-exp, and the kernel's backward
pass is exact for each part if it is given the merged output and log-sum-exp (Dao,
FlashAttention-2, arXiv 2307.08691).

Shapes: H query heads, G key heads (H a multiple of G), T tokens, d the width of a key and a value.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmexp.batching.prefix_tree import Stretch

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class FlashAttention(torch.autograd.Function):
    """Attention without masks, without copies of shared keys and without stored weights."""

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, stretches: Sequence[Stretch], scaling: float
    ) -> Tensor:
        """q (1, H, T, d), k and v (1, G, T, d) -> (1, H, T, d); padding gets zeros."""
        out = torch.zeros_like(q)
        log_sums = q.new_zeros(q.shape[:3])
        for queries, keys, causal in stretches:
            part, log_sum = _forward(
                q[:, :, queries], k[:, :, keys], v[:, :, keys], 0.0, causal, scale=scaling
            )
            own, own_sum = out[:, :, queries], log_sums[:, :, queries]
            if causal:
                own.copy_(part)
                own_sum.copy_(log_sum)
            else:
                own.lerp_(part, torch.sigmoid(log_sum - own_sum)[..., None])
                torch.logaddexp(log_sum, own_sum, out=own_sum)
        ctx.save_for_backward(q, k, v, out, log_sums)
        ctx.stretches, ctx.scaling = stretches, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of q, k and v: the sums over the stretches."""
        q, k, v, out, log_sums = ctx.saved_tensors
        grads = [torch.zeros_like(x) for x in (q, k, v)]
        for queries, keys, causal in ctx.stretches:
            parts = _backward(
                grad[:, :, queries], q[:, :, queries], k[:, :, keys], v[:, :, keys],
                out[:, :, queries], log_sums[:, :, queries], 0.0, causal, scale=ctx.scaling,
            )  # fmt: skip
            for total, part, where in zip(grads, parts, (queries, keys, keys), strict=True):
                total[:, :, where].add_(part)
        return *grads, None, None
