"""The memory of a training step, from a run of the real step on tensors without content.

Two layers of each kind stand for all of their kind: what they hold is counted as often as the model
has such layers, so that 80 layers take no longer than two.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface

from rmexp.batching.collate import Batch, BatchLayout
from rmexp.core.errors import UserError
from rmexp.models.reward_model import compute_rewards, hidden_states, update_facts
from rmexp.models.tuning import layers
from rmexp.training.frozen_activations import CachedActivations, skip_frozen_layers
from rmexp.training.planning.live import GAPS, Live, repeated

FUSED = "rmexp_fused"
"""Stands for the fused attention kernels of a GPU, which keep no scores."""


@dataclass(frozen=True)
class Shape:
    """A model without content, and what of it a step computes.

    model      on fake tensors of `mode`, tuned
    kept       leading layers whose states are kept (see `frozen`); `pooled`: those under the head
    precision  `32-true` or `bf16-mixed`
    gpu        attention is fused
    """

    mode: FakeTensorMode
    model: Any
    kept: int
    pooled: bool
    precision: str
    gpu: bool


@dataclass(frozen=True)
class Peak:
    """The most that a computation holds beside weights and moments, in bytes, and when."""

    when: str
    activations: int = 0
    casts: int = 0
    gradients: int = 0
    heap: int = 0

    @property
    def total(self) -> int:
        """All of it."""
        return self.activations + self.casts + self.gradients + self.heap


def without_content(model: nn.Module) -> FakeTensorMode:
    """Let a model from the meta device compute on the CPU, shapes and types alone.

    Returns the mode in which it does.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    with mode:
        model.to_empty(device="cpu")
    return mode


def step_peak(shape: Shape, batch: Batch, several: bool, share: float = 1.0) -> Peak:
    """The peak of forward and backward passes over micro-batches like `batch`.

    Args:
        several: the step has more than one, so that gradients are there already.
        share: of each gradient that stays on this device.
    """

    def work(live: Live, trace: Callable[[str], contextlib.AbstractContextManager[Any]]) -> None:
        for _ in range(2 if several else 1):
            with trace("forward"):
                rewards_N = compute_rewards(shape.model, batch_in(shape, batch))
            total = rewards_N.sum()
            with trace("backward"):
                total.backward()
            del rewards_N, total
            live.mark("between micro-batches")

    return _traced(shape, work, kept=True, share=share)


def forward_peak(shape: Shape, batch: Batch) -> Peak:
    """The peak of a forward pass that nothing is learnt from, as for the kept states."""

    def work(live: Live, trace: Callable[[str], contextlib.AbstractContextManager[Any]]) -> None:
        with torch.no_grad(), trace("forward"):
            hidden_states(shape.model, batch_in(shape, batch))

    return _traced(shape, work, kept=False)


def batch_in(shape: Shape, batch: Batch) -> Batch:
    """The micro-batch without content, with states in it where the model takes them."""
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    made: Any = {
        n: torch.empty_like(v, device="cpu") for n, v in fields.items() if isinstance(v, Tensor)
    }
    rows, wide = batch.tokens_R_T.shape
    width = shape.model.config.get_text_config().hidden_size
    if shape.pooled:
        made["pooled_N_D"] = torch.empty(len(batch.row_N), width)
    elif hasattr(shape.model, "recalled"):
        made["hidden_R_T_D"] = torch.empty(rows, wide, width)
    if shape.gpu:
        made["trees"] = None  # one row, whose attention is `FUSED`
    return dataclasses.replace(batch, **made)


def _traced(shape: Shape, work: Callable[..., None], kept: bool, share: float = 1.0) -> Peak:
    model = shape.model
    with contextlib.ExitStack() as stack:
        counts = stack.enter_context(_few_layers(model))
        if kept and shape.kept and not shape.pooled:
            below = sum(1 for n in counts if n < shape.kept)
            store: Any = SimpleNamespace(pooled=False)
            kept_layers = CachedActivations(store, below, {})
            stack.enter_context(skip_frozen_layers(model, BatchLayout("padded"), kept_layers))
        if shape.gpu:
            before = model.config._attn_implementation
            update_facts(model, padded_attention=FUSED)
            stack.callback(update_facts, model, padded_attention=before)
        parameters = list(model.parameters())
        live = Live([*parameters, *model.buffers()], 0.0 if shape.gpu else GAPS)
        for parameter in (p for p in parameters if p.requires_grad):
            handle = parameter.register_post_accumulate_grad_hook(live.is_gradient)
            stack.callback(handle.remove)
        marks = stack.enter_context(_Marks(model, live))
        model.train()
        bf16 = shape.precision == "bf16-mixed"
        try:
            with shape.mode, live, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                live.mark("start")
                work(live, marks.during)
        except UserError:
            raise
        except Exception as error:  # what a family computes may depend on content
            first = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"task=plan cannot follow {type(model).__name__} without its weights "
                f"({type(error).__name__}: {first[:120]})."
            ) from error
        finally:
            for parameter in parameters:
                parameter.grad = None
        where, most = repeated(live.finish(), dict(enumerate(counts.values())), share)
        return Peak(where, *(int(one) for one in most))


@contextlib.contextmanager
def _few_layers(model: Any) -> Iterator[dict[int, int]]:
    """Within, the model has two layers of each kind at most: number of a layer -> how often it is
    met."""
    config, every = model.config.get_text_config(), layers(model)
    counts = _representatives(every, getattr(config, "layer_types", None))
    holder = next(
        (m for m in model.modules() if isinstance(m, nn.ModuleList) and [*m] == every), None
    )
    if holder is None or not every:
        yield {}
        return
    count, types = config.num_hidden_layers, getattr(config, "layer_types", None)
    before = dict(holder._modules)
    holder._modules = {str(n): every[k] for n, k in enumerate(counts)}
    config.num_hidden_layers = len(counts)
    if types is not None:
        config.layer_types = [types[k] for k in counts]
    try:
        yield counts
    finally:
        holder._modules, config.num_hidden_layers = before, count
        if types is not None:
            config.layer_types = types


def _representatives(every: Sequence[nn.Module], types: Sequence[str] | None) -> dict[int, int]:
    """The first layer of each kind, met once, and the last, met as often as there are others."""
    kinds: dict[Any, list[int]] = {}
    for n, layer in enumerate(every):
        parts = tuple((k, tuple(p.shape), p.requires_grad) for k, p in layer.named_parameters())
        kinds.setdefault((type(layer), types[n] if types else None, parts), []).append(n)
    found: dict[int, int] = {}
    for numbers in kinds.values():
        found[numbers[0]] = 1
        if len(numbers) > 1:
            found[numbers[-1]] = len(numbers) - 1
    return dict(sorted(found.items()))


class _Marks:
    """Tells a `Live` which layer is at work, forwards and backwards."""

    def __init__(self, model: Any, live: Live) -> None:
        self.layers, self.live = layers(model), live
        self.phase = ""
        self._handles: list[Any] = []

    def __enter__(self) -> "_Marks":
        for n, layer in enumerate(self.layers):
            self._handles += [
                layer.register_forward_pre_hook(self._before(n), with_kwargs=True),
                layer.register_forward_hook(self._after(n)),
            ]
        return self

    def __exit__(self, *_: Any) -> None:
        for handle in self._handles:
            handle.remove()

    @contextlib.contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """Layers are at work in this pass."""
        self.phase = phase
        self.live.mark(f"{phase}, outside of the layers")
        yield
        self.phase = ""

    def _before(self, n: int) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, named: Any) -> None:
            if self.phase == "backward":  # a checkpointed layer computes again
                return
            self.live.mark("forward, in the layers", n)
            hidden = given[0] if given else named["hidden_states"]
            if n == 0 and hidden.requires_grad:
                hidden.register_hook(lambda _: self.live.mark("backward, below the layers"))

        return hook

    def _after(self, n: int) -> Callable[..., None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if self.phase == "backward":
                return
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.requires_grad:
                hidden.register_hook(lambda _: self.live.mark("backward, in the layers", n))
            if n == len(self.layers) - 1:
                self.live.mark("forward, above the layers")

        return hook


class _Fused(torch.autograd.Function):
    """What a fused kernel keeps and makes (Dao 2023, arXiv:2307.08691), without computing it."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (1, H, T, d), k (1, G, T, d), v (1, G, T, e) -> (1, H, T, e)."""
        out = v.new_empty(*q.shape[:3], v.shape[3])
        sums = q.new_empty(q.shape[:3], dtype=torch.float32)
        ctx.save_for_backward(q, k, v, out, sums)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        """Of each its gradient."""
        q, k, v, *_ = ctx.saved_tensors
        return torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)


def fused_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    """Hugging Face's attention interface over `_Fused`."""
    q, k = query.to(value.dtype), key.to(value.dtype)
    return _Fused.apply(q, k, value).transpose(1, 2), None


AttentionInterface.register(FUSED, fused_attention)
