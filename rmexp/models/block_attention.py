"""Attention of a packed row on a CPU: block by block, with explicit matmuls in both directions.

Shapes: H query heads, G key heads (H a multiple of G), T tokens, d and e widths of a key and value.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from rmexp.batching.prefix_tree import Block

KEPT_SCORES = 2**24
"""Maximum attention weights that a layer keeps for its backward pass; more are recomputed."""


class BlockAttention(torch.autograd.Function):
    """Attention block by block with explicit matmuls, without copies of shared keys.

    Rows of queries that pad a block to its bucket have weights of zero: they contribute nothing to
    keys and values, and their output is not written.
    """

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        blocks: Sequence[tuple[Block, Tensor]],
        softcap: float | None,
    ) -> Tensor:
        """Scaled q (T, H, d), k (T, G, d), v (T, G, e), sinks (H,) -> (T, H, e)."""
        out = v.new_zeros(q.shape[0], q.shape[1], v.shape[2])
        scores = sum(hidden.shape[0] * (b.first + hidden.shape[1]) for b, hidden in blocks)
        keep = softcap is None and any(ctx.needs_input_grad) and scores * q.shape[1] <= KEPT_SCORES
        kept = []
        for block, hidden in blocks:
            weights, _ = _weights(q, k, sinks, block, hidden, softcap)
            mixed = weights @ _keys(v, block)
            _write(out, mixed, block)
            if keep:
                kept.append(weights)
        ctx.save_for_backward(q, k, v, sinks, *kept)
        ctx.blocks, ctx.softcap = blocks, softcap
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Softmax attention's gradients, from the kept weights or from new ones."""
        q, k, v, sinks, *kept = ctx.saved_tensors
        grads = [torch.zeros_like(x, dtype=torch.float32) for x in (k, v)]
        grad_k, grad_v = grads
        grad_q = torch.zeros_like(q)
        grad_sinks = None if sinks is None else torch.zeros_like(sinks, dtype=torch.float32)
        for number, (block, hidden) in enumerate(ctx.blocks):
            slope = None
            if kept:
                weights = kept[number]
            else:
                weights, slope = _weights(q, k, sinks, block, hidden, ctx.softcap)
            grad_b, q_b = _queries(grad, k.shape[1], block), _queries(q, k.shape[1], block)
            _add(grad_v, weights.transpose(1, 2) @ grad_b, block)
            grad_weights = grad_b @ _keys(v, block).transpose(1, 2)
            if grad_sinks is not None:
                assert sinks is not None
                grad_sinks -= _sink_gradient(weights, grad_weights, len(sinks))
            grad_scores = torch._softmax_backward_data(grad_weights, weights, -1, weights.dtype)
            if slope is not None:
                grad_scores *= slope
            _write(grad_q, grad_scores @ _keys(k, block), block)
            _add(grad_k, grad_scores.transpose(1, 2) @ q_b, block)
        sink = None if sinks is None or grad_sinks is None else grad_sinks.to(sinks.dtype)
        return grad_q, grad_k.to(k.dtype), grad_v.to(v.dtype), sink, None, None


def _queries(x: Tensor, groups: int, block: Block) -> Tensor:
    """A block's rows of x (T, H, d) as (G, H/G x wide, d), grouped by the heads that share keys."""
    rows = x[block.start : block.start + block.width]
    return rows.unflatten(1, (groups, -1)).permute(1, 2, 0, 3).flatten(1, 2)


def _keys(x: Tensor, block: Block) -> Tensor:
    """A block's keys or values of x (T, G, d) as (G, keys, d)."""
    parts = [x[start : start + length] for start, length in block.keys]
    return (parts[0] if len(parts) == 1 else torch.cat(parts)).transpose(0, 1)


def _write(out: Tensor, found: Tensor, block: Block) -> None:
    """Write (G, H/G x wide, e) to the rows of the block's queries in `out` (T, H, e)."""
    groups = found.shape[0]
    counted = found.unflatten(1, (-1, block.width))[:, :, : block.queries]
    rows = out[block.start : block.start + block.queries].unflatten(1, (groups, -1))
    rows.copy_(counted.permute(2, 0, 1, 3))


def _add(total: Tensor, found: Tensor, block: Block) -> None:
    """Add (G, keys, d) to the rows of the block's keys in `total` (T, G, d)."""
    parts = found.transpose(0, 1).split([length for _, length in block.keys])
    for (start, length), part in zip(block.keys, parts, strict=True):
        total[start : start + length] += part


def _weights(
    q: Tensor,
    k: Tensor,
    sinks: Tensor | None,
    block: Block,
    hidden: Tensor,
    softcap: float | None,
) -> tuple[Tensor, Tensor | None]:
    """Attention weights of a block (G, H/G x wide, keys), and the slope of the soft cap."""
    scores = _queries(q, k.shape[1], block) @ _keys(k, block).transpose(1, 2)
    slope = None
    if softcap is not None:
        scores = torch.tanh(scores / softcap)
        slope = 1 - scores.square()
        scores = scores * softcap
    by_head = scores.unflatten(1, (-1, block.width))
    by_head[..., block.first :].masked_fill_(hidden, float("-inf"))
    if sinks is None:
        weights = torch.softmax(scores, -1).to(scores.dtype)  # autocast on CUDA gives fp32
    else:
        sink = sinks.to(scores.dtype).view(k.shape[1], -1, 1, 1).expand(*by_head.shape[:3], 1)
        every = torch.softmax(torch.cat([by_head, sink], -1), -1).to(scores.dtype)
        weights = every[..., :-1].flatten(1, 2)
    if block.width > block.queries:
        weights.unflatten(1, (-1, block.width))[:, :, block.queries :] = 0
    return weights, slope


def _sink_gradient(weights: Tensor, grad_weights: Tensor, heads: int) -> Tensor:
    """(H,) gradient of the sinks' scores, with opposite sign."""
    mean = (weights.float() * grad_weights.float()).sum(-1)
    return ((1 - weights.float().sum(-1)) * mean).view(heads, -1).sum(1)
