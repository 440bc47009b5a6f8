"""Tree attention for Hugging Face models: four kernels behind one registered implementation.

It is registered without a mask function, so that Hugging Face passes no mask; the trees of the
packed row reach every layer as a model argument. On a CPU fp32 is computed with torch's fused
kernel (`flash_attention`); bf16, where that kernel's backward pass is slow, windows, soft caps and
sinks are computed in dense blocks (`block_attention`). On CUDA it is FlexAttention with a block
mask, or SDPA with a dense mask; these two have only been run on a CPU.

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

from rmexp.batching.prefix_tree import (
    Tree,
    attention_blocks,
    attention_stretches,
    visible_pairs,
)
from rmexp.core.devices import host_to_device
from rmexp.models.block_attention import BlockAttention
from rmexp.models.flash_attention import FlashAttention

TREE_ATTENTION = "rmexp_tree"
"""Name of the attention implementation."""

MASK_BLOCK = 128
"""Queries and keys of a block of FlexAttention's mask; torch's default."""

Kernel = Literal["flash", "blocks", "flex", "sdpa"]


def best_kernel(device: torch.device) -> Kernel:
    """The fused kernel on a CPU; on CUDA FlexAttention if Triton is installed, else SDPA."""
    if device.type != "cuda":
        return "flash"
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

    def reach(self, window: int | None) -> int | None:
        """The window, or None if no sequence is longer."""
        longest = max(tree.shared_prefix + max(tree.branches) for tree in self.trees)
        return None if window is None or window >= longest else window

    def layout(self, kernel: Kernel, window: int | None) -> Any:
        """The kernel's stretches, blocks or mask for a sliding window (see `reach`)."""
        if (kernel, window) not in self._made:
            make: dict[Kernel, Callable[[int | None], Any]] = {
                "flash": lambda _: list(attention_stretches(self.trees)),
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
        return host_to_device(torch.from_numpy(labels), self.device)

    def _seen(self, window: int | None) -> Tensor:
        """(T, T) true where a query may attend."""
        every = torch.arange(self.row, device=self.device)
        return _rule(self._labels(), window)(None, None, every[:, None], every[None])

    def _block_mask(self, window: int | None) -> Any:
        """FlexAttention's mask. `create_block_mask` would make tensors of T x T for it."""
        from torch.nn.attention.flex_attention import BlockMask

        seen = visible_pairs(self.trees, self.row, MASK_BLOCK, window)
        whole = seen == MASK_BLOCK**2
        # Numbers and indices of the blocks seen in part, and of those seen whole.
        part_counts, parts, whole_counts, wholes = (
            host_to_device(torch.from_numpy(numbers)[None, None].int(), self.device)
            for kind in ((seen > 0) & ~whole, whole)
            for numbers in (kind.sum(1), np.argsort(~kind, 1, kind="stable"))
        )
        return BlockMask.from_kv_blocks(
            part_counts,
            parts,
            whole_counts,
            wholes,
            BLOCK_SIZE=MASK_BLOCK,
            mask_mod=_rule(self._labels(), window),
            seq_lengths=(self.row, self.row),
        )


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
    kernel, window = trees.kernel, trees.reach(sliding_window)
    fits = softcap is None and s_aux is None
    if kernel == "flash":
        fits &= window is None and v.dtype == torch.float32 and v.shape[3] == k.shape[3]
    if kernel in ("flash", "sdpa") and not fits:
        kernel = "blocks"
    layout = trees.layout(kernel, window)
    if kernel == "blocks":
        rows = (x[0].transpose(0, 1) for x in (q * scaling, k, v))
        return BlockAttention.apply(*rows, s_aux, layout, softcap)[None], None
    if kernel == "flash":
        out = FlashAttention.apply(q, k, v, layout, scaling)
    elif kernel == "flex":
        out = _flex_attention(q, k, v, layout, scaling, softcap, s_aux)
    else:
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=layout, scale=scaling, enable_gqa=True
        )
    return out.transpose(1, 2), None


def _flex_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Any,
    scaling: float,
    softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """FlexAttention, (1, H, T, d) as F.scaled_dot_product_attention.

    A sink adds exp(sink) to a softmax's denominator exp(lse): the output is smaller by the factor
    exp(lse) / (exp(lse) + exp(sink)).
    """
    from torch.nn.attention.flex_attention import AuxRequest

    options: dict[str, Any] = {"block_mask": mask, "scale": scaling, "enable_gqa": True}
    if softcap is not None:
        options["score_mod"] = lambda score, *_: softcap * torch.tanh(score / softcap)
    if sinks is None:
        return _flex()(q, k, v, **options)
    out, aux = _flex()(q, k, v, **options, return_aux=AuxRequest(lse=True))
    return out * torch.sigmoid(aux.lse - sinks[None, :, None].float())[..., None].to(out.dtype)


AttentionInterface.register(TREE_ATTENTION, tree_attention)


@functools.cache
def _flex() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    compiled: Callable[..., Any] = torch.compile(flex_attention, dynamic=True)
    return compiled


def leave_attention_uncompiled() -> None:
    """Exclude tree attention from compiled layers: its loop over blocks must not be traced.

    Called only when layers are compiled, as it imports the compiler.
    """
    AttentionInterface.register(TREE_ATTENTION, torch.compiler.disable(tree_attention))
