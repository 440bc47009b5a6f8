"""Frozen weights in bf16: the same losses and gradients, and an export with the base's weights."""

import sys
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from rmexp.core.devices import resolve_precision
from rmexp.core.errors import UserError
from rmexp.models.frozen_weights import (
    FrozenLinear,
    check_4bit,
    hold_in_4bit,
    hold_in_bf16,
    linear_layers,
)
from rmexp.models.layout_probe import choose_layout
from rmexp.models.reward_model import model_facts
from rmexp.models.trained_state import trained_state
from rmexp.models.tuning import LastLayers, LoRA
from tests.models.test_families import EXACT, PADDED, comparisons, losses_and_gradients, small

LORA = LoRA(rank=4, alpha=None, dropout=0.0, target_modules="all-linear", load_in_4bit=False)


def in_bf16(model, layout="padded"):
    with torch.autocast("cpu", torch.bfloat16):
        return losses_and_gradients(model.train(), comparisons(), layout)


def held(model):
    return [layer for layer in model.modules() if isinstance(layer, FrozenLinear)]


FAMILIES = (
    *("llama", "gemma3_text", "gpt2", "opt", "modernbert-decoder", "qwen3_moe", "gpt_oss"),
    *("deepseek_v3", "mamba", "qwen3_next", "bert"),
)


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_casts(family):
    model = small(family, **(PADDED | EXACT)[family])
    LastLayers(1, 0)(model, 0)
    rewards, gradient = in_bf16(model)
    hold_in_bf16(model)
    found, found_gradient = in_bf16(model)
    assert found == rewards
    assert torch.equal(found_gradient, gradient)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("family", ["llama", "gemma3_text", "mixtral", "bert"])
def test_under_lora_too(family):
    model = small(family, **(PADDED | EXACT)[family])
    LORA(model, 0)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    layout = "tree" if family in EXACT else "padded"
    rewards, gradient = in_bf16(model, layout)
    hold_in_bf16(model)
    found, found_gradient = in_bf16(model, layout)
    assert held(model)
    assert found == rewards
    assert torch.equal(found_gradient, gradient)
    if family == "llama":  # in fp32, with these weights
        assert choose_layout(model, "tree") == "tree"


def test_without_autocast_the_rounded_weights_compute_in_fp32():
    layer = nn.Linear(6, 4)
    x, upstream = torch.randn(3, 6, requires_grad=True), torch.randn(3, 4)
    rounded = [p.detach().bfloat16().float() for p in layer.parameters()]
    expected = nn.functional.linear(x, *rounded)
    (gradient,) = torch.autograd.grad(expected, x, upstream)
    model = small("llama")
    model.model.layers[0].mlp.up_proj = layer.requires_grad_(False)
    hold_in_bf16(model)
    assert layer.weight.dtype == layer.bias.dtype == torch.bfloat16
    assert torch.equal(layer(x), expected)
    assert torch.equal(torch.autograd.grad(layer(x), x, upstream)[0], gradient)


def test_what_is_held_and_whether_it_is_rounded():
    model = small("llama").requires_grad_(False)
    model.score.requires_grad_(True)
    hold_in_bf16(model)
    assert model_facts(model).rounded
    assert len(held(model)) == 7 * 2
    types = {name: p.dtype for name, p in model.named_parameters()}
    assert {n for n, t in types.items() if t == torch.bfloat16} == {
        n for n in types if n.endswith("proj.weight")
    }


def test_a_base_in_bf16_is_held_without_loss():
    model = small("llama").requires_grad_(False)
    for p in model.parameters():
        p.data = p.data.bfloat16().float()
    stored = {name: p.clone() for name, p in model.named_parameters()}
    hold_in_bf16(model)
    assert not model_facts(model).rounded
    model.float()
    assert all(torch.equal(p, stored[name]) for name, p in model.named_parameters())


def test_a_model_that_only_scores_is_held_whole_and_mambas_mixers_never():
    model = small("llama")
    hold_in_bf16(model, everything=True)
    assert len(held(model)) == 7 * 2
    assert model.score.weight.dtype == torch.float32
    mamba = small("mamba", **PADDED["mamba"])
    assert linear_layers(mamba) == []


def test_4_bits_are_bitsandbytes_own(monkeypatch):
    """Their layers take the place of frozen ones; their scales are in no checkpoint."""

    class Linear4bit(nn.Linear):
        def __init__(self, inputs, outputs, bias, quant_type, compress_statistics):
            assert (quant_type, compress_statistics) == ("nf4", True)
            super().__init__(inputs, outputs, bias=bias)

    class Params4bit(nn.Parameter):
        def __new__(cls, data, requires_grad, quant_type, compress_statistics):
            return super().__new__(cls, data, requires_grad)

    model = small("qwen2")
    LORA(model, 0)  # peft looks for bitsandbytes too
    before = losses_and_gradients(model, comparisons(), "tree")
    module = SimpleNamespace(Linear4bit=Linear4bit, Params4bit=Params4bit)
    monkeypatch.setitem(sys.modules, "bitsandbytes.nn", module)
    monkeypatch.setitem(sys.modules, "bitsandbytes", SimpleNamespace(nn=module))
    hold_in_4bit(model)
    small_layers = [m for m in model.modules() if isinstance(m, Linear4bit)]
    assert len(small_layers) == 7 * 2
    assert all(isinstance(layer.weight, Params4bit) for layer in small_layers)
    after = losses_and_gradients(model, comparisons(), "tree")
    assert after[0] == before[0]
    assert torch.equal(after[1], before[1])
    assert model_facts(model).rounded
    state = model.state_dict()
    scale = "model.layers.0.mlp.up_proj.base_layer.weight.absmax"
    assert trained_state(model, state | {scale: torch.ones(1)}).keys() == {
        name for name, p in model.named_parameters() if p.requires_grad
    }


def test_4_bits_are_refused_without_a_gpu_or_bitsandbytes(rmexp):
    done = rmexp("model=tiny", "logger=none", "tune=qlora", "trainer.accelerator=cpu", check=False)
    assert done.returncode == 1
    assert "tune.load_in_4bit=true needs a GPU: take tune=lora." in done.stderr
    if find_spec("bitsandbytes") is None:
        with pytest.raises(UserError, match=r"needs bitsandbytes: pip install 'rmexp\[qlora\]'"):
            check_4bit(gpu=True)


def test_lightnings_names_of_a_precision():
    assert {resolve_precision(name, "cpu") for name in ("bf16", "bf16-mixed")} == {"bf16-mixed"}
    assert {resolve_precision(name, "cpu") for name in ("32", 32, "32-true")} == {"32-true"}
    for name, why in {
        "bf16-true": "most updates are rounded away; bf16-mixed",
        "16-mixed": "gradients vanish in fp16; take bf16-mixed",
        16: "gradients vanish in fp16",
        "half": "should be auto, bf16-mixed",
    }.items():
        with pytest.raises(UserError, match=f"^trainer.precision={name}: .*{why}"):
            resolve_precision(name, "cpu")
