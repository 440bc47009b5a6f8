"""Weights of frozen linear layers in bf16, the type that they compute in, or in 4 bits."""

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmexp.core.errors import UserError
from rmexp.models.reward_model import update_facts


class FrozenLinear(nn.Linear):
    """A linear layer with its weights in bf16; without autocast it computes in its input's type."""

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype == self.weight.dtype or torch.is_autocast_enabled(x.device.type):
            return super().forward(x)
        found: Tensor = UpcastLinear.apply(x, self.weight, self.bias)
        return found


class UpcastLinear(torch.autograd.Function):
    """A linear layer in the type of its input, which keeps no copy of the weights in that type."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x (..., D), weight (E, D), bias (E,) -> (..., E)."""
        ctx.save_for_backward(weight)
        return F.linear(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        """The gradient of x; weights are frozen."""
        (weight,) = ctx.saved_tensors
        return grad @ weight.to(grad.dtype), None, None


def hold_in_bf16(model: Any, everything: bool = False) -> None:
    """Hold the weights of frozen linear layers in bf16, as autocast casts them in every step.

    Losses and gradients stay the same to the last bit. What autocast does not cast (embeddings,
    norms, stacked experts) keeps its type. Whether digits were lost is in the model's facts
    (`rounded`): an export then takes these weights from the base.

    Args:
        everything: the model only scores: freeze the other linear layers too.
    """
    layers = [layer for layer in linear_layers(model) if everything or is_frozen(layer)]
    weights = (weight for layer in layers for weight in layer.parameters(recurse=False))
    update_facts(model, rounded=any(map(_loses_digits, weights)))
    for layer in layers:
        freeze_in_bf16(layer)


def linear_layers(model: nn.Module) -> list[nn.Linear]:
    """The linear layers that compute with their weights alone, and in bf16 under autocast."""
    return [
        layer
        for parent in model.modules()
        if not reads_weights(parent)
        for layer in parent.children()
        if type(layer) is nn.Linear  # subclasses do otherwise: the reward head computes in fp32
    ]


def freeze_in_bf16(layer: nn.Linear) -> None:
    """Freeze a linear layer and hold its weights in bf16."""
    layer.__class__ = FrozenLinear
    for weight in layer.parameters(recurse=False):
        weight.requires_grad_(False).data = weight.data.to(torch.bfloat16)


def hold_in_4bit(model: Any) -> None:
    """Hold the weights of frozen linear layers in NF4 (Dettmers et al. 2023, arXiv:2305.14314).

    bitsandbytes quantises them as the model moves to a GPU, and computes in the type of the input.
    Never run on a GPU.
    """
    from bitsandbytes.nn import Linear4bit, Params4bit

    held = {id(layer) for layer in linear_layers(model) if is_frozen(layer)}
    for name, layer in [(n, m) for n, m in model.named_modules() if id(m) in held]:
        kind = {"quant_type": "nf4", "compress_statistics": True}
        with torch.device("meta"):  # its weights follow
            small = Linear4bit(layer.in_features, layer.out_features, bias=False, **kind)
        small.weight = Params4bit(layer.weight.data, requires_grad=False, **kind)
        small.bias = layer.bias
        model.set_submodule(name, small)
    update_facts(model, rounded=True)


def check_4bit(gpu: bool) -> None:
    """Refuse weights in 4 bits where they cannot be computed with.

    Raises:
        UserError: there is no GPU, or no bitsandbytes.
    """
    if not gpu:
        raise UserError("tune.load_in_4bit=true needs a GPU: take tune=lora.")
    if find_spec("bitsandbytes") is None:
        raise UserError("tune.load_in_4bit=true needs bitsandbytes: pip install 'rmexp[qlora]'.")


def is_frozen(layer: nn.Linear) -> bool:
    return not any(weight.requires_grad for weight in layer.parameters(recurse=False))


def _loses_digits(weight: Tensor) -> bool:
    return not torch.equal(weight.to(torch.bfloat16).to(weight.dtype), weight)


def reads_weights(mixer: nn.Module) -> bool:
    """Whether a module reads the weights of its layers without calling them: Mamba's kernels do."""
    return {"A_log", "D"} <= set(mixer._parameters)
