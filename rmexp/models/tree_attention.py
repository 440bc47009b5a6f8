"""Tree attention for Hugging Face models: three kernels behind one registered implementation.

It is registered without a mask function, so that Hugging Face passes no mask; the trees of the
packed row reach every layer as a model argument. On a CPU the row is computed in dense blocks with
their own backward pass (bench/: faster than SDPA, whose backward is slow there). On CUDA it is
FlexAttention with a block mask, or SDPA with a dense mask; these two have only been run on a CPU.

Shapes: H query heads, G key heads (H a multiple of G), T tokens, d and e widths of a key and value.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface

from rmexp.batching.prefix_tree import Block, Tree, attention_blocks

TREE_ATTENTION = "rmexp_tree"
"""Name of the attention implementation."""

Kernel = Literal["blocks", "flex", "sdpa"]

KEPT_SCORES = 2**24
"""Maximum attention weights that a layer keeps for its backward pass; more are recomputed."""


def best_kernel(device: torch.device) -> Kernel:
    """Blocks on a CPU; on CUDA FlexAttention if Triton is installed, else SDPA."""
    if device.type != "cuda":
        return "blocks"
    from torch.utils._triton import has_triton

    return "flex" if has_triton() else "sdpa"


class TreeRow:
    """The trees of one packed row and their masks, shared by all layers.

    Args:
        trees: the packed trees, in order; tokens after them are padding.
        row: tokens of the row, padding included; `prefix_tree.row_width` of the trees' tokens.
        device: of the row.
        kernel: None takes the best for the device.
    """

    calls = 0
    """Attention calls in this process; the layout probe checks that every layer makes one."""

    windowed = 0
    """Calls with a sliding window; some families apply theirs only in the mask."""

    def __init__(
        self, trees: Sequence[Tree], row: int, device: Any, kernel: Kernel | None = None
    ) -> None:
        self.trees, self.row, self.device = list(trees), row, torch.device(device)
        self.kernel = kernel or best_kernel(self.device)
        self._made: dict[tuple[Kernel, int | None], Any] = {}

    def layout(self, kernel: Kernel, window: int | None) -> Any:
        """The kernel's blocks or mask for a sliding window (None: no window)."""
        if window is not None and window >= max(
            t.shared_prefix + max(t.branches) for t in self.trees
        ):
            window = None
        if (kernel, window) not in self._made:
            make: dict[Kernel, Callable[[int | None], Any]] = {
                "blocks": self._blocks,
                "flex": self._block_mask,
                "sdpa": self._seen,
            }
            self._made[kernel, window] = make[kernel](window)
        return self._made[kernel, window]

    def _blocks(self, window: int | None) -> Any:
        return [
            (block, torch.from_numpy(block.hidden).to(self.device))
            for block in attention_blocks(self.trees, window)
        ]

    def _labels(self) -> Tensor:
        """(3, T): tree, segment (0: shared prefix) and position of each token; padding: tree -1."""
        labels = np.full((3, self.row), -1)
        used = sum(tree.size for tree in self.trees)
        labels[0, :used] = np.repeat(np.arange(len(self.trees)), [t.size for t in self.trees])
        labels[1, :used] = np.concatenate([tree.segments() for tree in self.trees])
        labels[2, :used] = np.concatenate([tree.positions() for tree in self.trees])
        labels[2, used:] = np.arange(self.row - used)
        return torch.from_numpy(labels).to(self.device)

    def _seen(self, window: int | None) -> Tensor:
        """(T, T) true where a query may attend."""
        every = torch.arange(self.row, device=self.device)
        return _rule(self._labels(), window)(None, None, every[:, None], every[None])

    def _block_mask(self, window: int | None) -> Any:
        from torch.nn.attention.flex_attention import create_block_mask

        rule = _rule(self._labels(), window)
        return create_block_mask(rule, None, None, self.row, self.row, device=str(self.device))


def _rule(labels: Tensor, window: int | None) -> Callable[..., Tensor]:
    """FlexAttention's `mask_mod`: whether query q may attend to key k."""
    tree, segment, position = labels

    def seen(batch: Any, head: Any, q: Tensor, k: Tensor) -> Tensor:
        distance = position[q] - position[k]
        same = (tree[q] == tree[k]) & ((segment[q] == segment[k]) | (segment[k] == 0))
        near = distance >= 0 if window is None else (distance >= 0) & (distance < window)
        return same & near

    return seen


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
    s_aux: Tensor | None = None,
    trees: TreeRow | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Attention of one packed row.

    query (1, H, T, d), key (1, G, T, d), value (1, G, T, e) -> (1, T, H, e). `s_aux` (H,) are
    attention sinks, one extra score without a key per head (gpt-oss).
    """
    if trees is None:
        raise RuntimeError(
            f"attention implementation {TREE_ATTENTION!r} was called without its trees"
        )
    if dropout:
        raise RuntimeError("tree attention has no dropout")
    TreeRow.calls += 1
    TreeRow.windowed += sliding_window is not None
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    # Under autocast rotated queries and keys are in fp32, values in the lower precision.
    q, k, v = query.to(value.dtype), key.to(value.dtype), value
    kernel = "blocks" if softcap is not None or s_aux is not None else trees.kernel
    layout = trees.layout(kernel, sliding_window)
    if kernel == "blocks":
        rows = (x[0].transpose(0, 1) for x in (q * scaling, k, v))
        return BlockAttention.apply(*rows, s_aux, layout, softcap)[None], None
    if kernel == "flex":
        out = _flex()(q, k, v, block_mask=layout, scale=scaling, enable_gqa=True)
    else:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=layout, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2), None


AttentionInterface.register(TREE_ATTENTION, tree_attention)


@functools.cache
def _flex() -> Callable[..., Tensor]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Tensor] = torch.compile(flex_attention, dynamic=True)
    return compiled


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


def leave_attention_uncompiled() -> None:
    """Exclude tree attention from compiled layers: its loop over blocks must not be traced.

    Called only when layers are compiled, as it imports the compiler.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))
