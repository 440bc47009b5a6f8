"""A reward model on fake tensors, which have shapes and no content, and a trace of its steps.

Layers of the same kind do the same work, so two of each kind run and stand for all of them.
torch's MemTracker finds the same peak, but takes ten to thirty times as long.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

from rmexp.batching.batch import Batch
from rmexp.batching.collate import Layout
from rmexp.core.errors import UserError
from rmexp.data.comparison_data import ComparisonData
from rmexp.models import reward_model
from rmexp.models.frozen_weights import freeze_in_bf16, is_frozen, linear_layers
from rmexp.models.heads import HeadSettings
from rmexp.models.layout_probe import check_layout
from rmexp.models.tuning import LoRA, frozen_layers, layers
from rmexp.training.frozen_activations import reason_not_cached

EXISTING, ACTIVATIONS, CASTS, GRADIENTS, FLOPS, LAYER = range(-1, 5)
aten = torch.ops.aten


class StepTrace(TorchDispatchMode):
    """Record bytes alive after each operator, without parameters, and FLOPs of weight products.

    A storage is alive while something refers to it. A layer of `model` stands for `counts` layers.
    """

    def __init__(self, model: Any, counts: Sequence[int]) -> None:
        super().__init__()
        existing = [t.untyped_storage() for t in (*model.parameters(), *model.buffers())]
        self._kinds = WeakIdKeyDictionary(dict.fromkeys(existing, EXISTING))
        self._counts = np.array([*counts, 1])  # the last one: outside the layers
        self._now, self._rows, self._forward_end = [0, 0, 0, 0, -1], [[0, 0, 0, 0, -1]], 0
        trained = [p for p in model.parameters() if p.requires_grad]
        self._hooks = [p.register_post_accumulate_grad_hook(self._take_gradient) for p in trained]
        for number, layer in enumerate(layers(model)):
            self._follow(layer, number)

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def _take_gradient(self, parameter: Any) -> None:
        self._now[GRADIENTS] += parameter.grad.nbytes
        parameter.grad = None

    def _follow(self, layer: nn.Module, number: int) -> None:
        def leave(module: nn.Module, args: Any, output: Any) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if not self._forward_end:  # in the backward pass checkpointed layers run again
                if hidden.requires_grad:
                    hidden.register_hook(lambda _: self._enter(number))
                self._enter(-1)

        self._hooks.append(layer.register_forward_pre_hook(lambda *_: self._enter(number)))
        self._hooks.append(layer.register_forward_hook(leave))

    def _enter(self, layer: int) -> None:
        self._rows.append([*self._now])  # what was freed since the last operator
        self._now[LAYER] = layer

    def backward(self, value: Tensor) -> None:
        """Record the backward pass from `value`."""
        self._forward_end = len(self._rows)
        value.backward()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operator and record its outputs."""
        out = func(*args, **(kwargs or {}))
        if func in (aten.mm.default, aten.addmm.default):  # products of attention are batched
            self._now[FLOPS] += flop_registry[func.overloadpacket](*args, out_val=out)
        source = args[0].untyped_storage() if func is aten._to_copy.default else None
        cast = source is not None and self._kinds.get(source) == EXISTING
        kind = CASTS if cast else ACTIVATIONS
        for tensor in (leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)):
            if (storage := tensor.untyped_storage()) not in self._kinds:
                self._kinds[storage] = kind
                self._add(kind, storage.nbytes())
                weakref.finalize(storage, self._add, kind, -storage.nbytes())
        self._rows.append([*self._now])
        return out

    def _add(self, kind: int, size: int) -> None:
        self._now[kind] += size

    def peak(self, share: float = 1.0, accumulated: int = 0) -> tuple[str, list[int]]:
        """The pass with the largest sum, and bytes of activations, casts and gradients there.

        A `share` of each gradient stays here, where `accumulated` bytes are of earlier ones.
        """
        changes, layer = np.diff(self._rows, axis=0), np.array(self._rows)[1:, LAYER]
        stays = np.split(np.arange(len(layer)), np.flatnonzero(np.diff(layer)) + 1)
        # Each stay in a layer, as often as there are layers that it stands for.
        order = np.concatenate([np.tile(one, self._counts[layer[one[0]]]) for one in stays])
        shares = [1.0, 1.0, 0.0 if accumulated else share]
        alive = np.cumsum(changes[order, :FLOPS] * shares, axis=0)
        alive[:, GRADIENTS] += accumulated * share
        n = alive.sum(1).argmax()
        phase = "forward" if order[n] + 1 < self._forward_end else "backward"
        return phase, alive[n].astype(int).tolist()

    def flops(self) -> int:
        """FLOPs of products with weights; those of attention depend on the kernel."""
        rows = np.array(self._rows)
        return int(np.diff(rows[:, FLOPS]) @ self._counts[rows[1:, LAYER]])


@dataclass
class FakeModel:
    """The tuned model, built from the configuration of its source; with `gpu`, attention is fused.

    Its lowest `frozen` layers have no backward pass; the outputs of the `cached` ones are cached.

    Raises:
        UserError: the model lacks the parts that `tune` names, or a head with one output.
    """

    source: Any
    tokenizer: Any
    data: ComparisonData
    head: HeadSettings
    tune: Any
    bf16: bool
    gpu: bool

    def __post_init__(self) -> None:
        self.model = model = self.source.skeleton()
        reward_model.fit_tokenizer(model, self.tokenizer, 0)
        encoder = reward_model.head_layers(model) is None
        reward_model.record_facts(model, True, False, attends_to_future=encoder)
        self.head.install(model, 0)
        if isinstance(self.tune, LoRA):
            self.tune(model, 0)  # peft moves its new weights, which fake tensors do not support
        with FakeTensorMode(allow_non_fake_inputs=True) as self.mode:
            model.to_empty(device="cpu")
            if not isinstance(self.tune, LoRA):
                self.tune(model, 0)
            self.frozen = frozen_layers(model)
            if self.bf16 or self.tune.load_in_4bit:
                for layer in filter(is_frozen, linear_layers(model)):
                    freeze_in_bf16(layer)
        padded = self.source.layout == "padded" or check_layout(model) is not None
        trees: Layout = "tree" if self.source.layout == "tree" else "mixed"
        self.layout: Layout = "padded" if padded else trees
        pooled = not any(p.requires_grad for p in reward_model.backbone(model).parameters())
        limit = self.tune.cache_gib if self.frozen else 0
        fits = limit and reason_not_cached(model, self.data, pooled, limit) is None
        self.cached, self.layers = self.frozen if fits else 0, layers(model)
        self.parameters = dict(model.named_parameters())
        self.types = getattr(model.config.get_text_config(), "layer_types", None)
        same = (module for module in model.modules() if [*module.children()] == self.layers)
        self.holder = next(same, nn.Module())
        if self.source.gradient_checkpointing:
            model.activation_checkpointing_enable({"use_reentrant": False})
        model.train()

    def trace(self, batch: Batch, feature_pass: bool = False) -> StepTrace:
        """Trace a training step above the cached layers, or the pass that caches their outputs."""
        span = range(self.cached) if feature_pass else range(self.cached, len(self.layers))
        trace = StepTrace(self.model, self._shorten(span))
        tensors = {n: v for n, v in vars(batch).items() if isinstance(v, Tensor)}
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=self.bf16)
        try:
            with self.mode, trace, autocast, torch.set_grad_enabled(not feature_pass):
                fake: Any = {n: torch.empty_like(v, device="cpu") for n, v in tensors.items()}
                batch = replace(batch, **fake, trees=None if self.gpu else batch.trees)
                reward = reward_model.compute_rewards(self.model, batch).sum()
                if not feature_pass:
                    trace.backward(reward)
        except Exception as error:  # some models compute what depends on content
            name, why = type(self.model).__name__, f"{error!r:.150}"
            raise UserError(f"task=plan cannot trace {name} without its weights: {why}") from error
        return trace

    def _shorten(self, span: Sequence[int]) -> list[int]:
        """Keep the first and last layer of each kind in `span`: how many each one stands for."""
        config = self.model.config.get_text_config()
        kinds: dict[Any, list[int]] = {}
        for n in span:
            kind = self.types and self.types[n], n < self.frozen, repr(self.layers[n])
            kinds.setdefault(kind, []).append(n)
        counts = {numbers[-1]: len(numbers) - 1 for numbers in kinds.values()}
        counts |= {numbers[0]: 1 for numbers in kinds.values()}
        chosen = sorted(counts)
        self.holder._modules = {str(k): self.layers[n] for k, n in enumerate(chosen)}
        config.num_hidden_layers = len(chosen)
        if self.types:
            config.layer_types = [self.types[n] for n in chosen]
        return [counts[n] for n in chosen]
