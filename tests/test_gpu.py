"""Tests for a GPU, which `python -m bench gpu` runs on one; RMEXP_TEST_DEVICE=cpu tries their code.

Never run on a GPU yet.
"""

import os

import pytest
import torch
import torch.nn.functional as F

from rmexp.batching.collate import BatchLayout, Collate
from rmexp.batching.prefix_tree import Tree, row_width
from rmexp.models.frozen_weights import hold_in_bf16
from rmexp.models.layout_probe import choose_layout
from rmexp.models.reward_model import compute_rewards
from rmexp.models.tree_attention import TreeRow, tree_attention
from rmexp.models.tuning import LoRA
from tests.conftest import SHORT_DEMO, result
from tests.helpers.interruptions import interrupted_after
from tests.models.test_families import EXACT, comparisons, small

DEVICE = os.environ.get("RMEXP_TEST_DEVICE", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="there is no GPU")]

WIDE = {"hidden_size": 64, "intermediate_size": 128}
"""FlexAttention's heads have 16 numbers or more."""

TOLERANCES = {"32-true": 1e-4, "bf16-mixed": 4e-2}


def on_device(family):
    options = EXACT[family] | WIDE
    if "head_dim" in options:
        options |= {"head_dim": 16}
    if family == "gpt2":
        options |= {"n_embd": 64}
    if family == "opt":
        options |= {"word_embed_proj_dim": 64}
    return small(family, **options).to(DEVICE).train()


def rewards_and_gradient(model, layout, precision):
    model.zero_grad()
    (batch,) = Collate(0, 10**9, BatchLayout(layout))(comparisons()).batches
    with torch.autocast(DEVICE, torch.bfloat16, enabled=precision == "bf16-mixed"):
        rewards_N = compute_rewards(model, batch.to(DEVICE))
    order = batch.items_N.argsort(stable=True).to(DEVICE)
    (rewards_N[order] * torch.linspace(-1, 1, len(order), device=DEVICE)).sum().backward()
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return rewards_N[order].detach(), torch.cat(gradients)


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("family", EXACT)
def test_trees_equal_padded_rows(family, precision):
    model = on_device(family)
    padded, tree = (rewards_and_gradient(model, name, precision) for name in ("padded", "tree"))
    for ours, theirs in zip(tree, padded, strict=True):
        assert (ours - theirs).norm() <= TOLERANCES[precision] * theirs.norm() + 1e-5


@pytest.mark.parametrize("kernel", ["flex", "sdpa"] if DEVICE == "cuda" else ["flash", "sdpa"])
@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize(("softcap", "with_sinks"), [(None, False), (0.5, False), (None, True)])
def test_kernels_follow_the_dense_rule(kernel, window, softcap, with_sinks):
    """Attention and its gradients, with soft caps and sinks, against plain matrix products."""
    trees = [Tree(150, (40, 90, 7)), Tree(0, (33,)), Tree(260, (64, 130))]
    row = row_width(sum(tree.size for tree in trees))
    used = sum(tree.size for tree in trees)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (
        torch.randn(1, heads, row, 16, generator=generator).to(DEVICE).requires_grad_()
        for heads in (4, 2, 2)
    )
    sinks = torch.tensor([-1.0, 0.0, 1.0, 3.0], device=DEVICE) if with_sinks else None
    upstream = torch.randn(1, used, 4, 16, generator=generator).to(DEVICE)
    packed = TreeRow(trees, row, DEVICE, kernel)
    out, _ = tree_attention(
        torch.nn.Module(), q, k, v, None, sliding_window=window, softcap=softcap,
        s_aux=sinks, trees=packed,
    )  # fmt: skip
    scores = q @ k.repeat_interleave(2, 1).transpose(2, 3) / 4
    scores = scores if softcap is None else softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~packed._seen(window), float("-inf"))
    if sinks is not None:
        scores = torch.cat([scores, sinks.view(1, 4, 1, 1).expand(1, 4, row, 1)], -1)
    weights = torch.softmax(scores, -1)[..., :row]
    expected = (weights @ v.repeat_interleave(2, 1)).transpose(1, 2)
    found, wanted = (
        [x[:, :used], *torch.autograd.grad(x[:, :used], (q, k, v), upstream)]
        for x in (out, expected)
    )
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_the_layout_probe_takes_trees():
    assert choose_layout(on_device("llama"), "auto") == "mixed"


def test_frozen_weights_in_bf16_give_the_same_rewards_in_half_the_memory():
    model = on_device("llama")
    LoRA(4, None, 0.0, "all-linear", False)(model, 0)
    model.to(DEVICE)
    cast, _ = rewards_and_gradient(model, "tree", "bf16-mixed")
    hold_in_bf16(model)
    held, _ = rewards_and_gradient(model, "tree", "bf16-mixed")
    assert torch.equal(held, cast)


RUN = (
    "model=tiny", "model.hidden=64", "logger=none", SHORT_DEMO, "data.limit=40",
    "data.batch_size=6", f"trainer.accelerator={'gpu' if DEVICE == 'cuda' else 'cpu'}",
    "trainer.checkpoint_every=1",
)  # fmt: skip


@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("tune", ["full", "lora", "last_layers"])
def test_a_run_trains_resumes_and_exports(tune, precision, rmexp, monkeypatch):
    """Its export is verified with plain transformers, and last_layers caches activations."""
    words = (*RUN, f"tune={tune}", f"trainer.precision={precision}")
    words += ("tune.n=1",) if tune == "last_layers" else ()
    with interrupted_after(2, monkeypatch):
        assert rmexp(*words, check=False).returncode == 130
    (run,) = rmexp.runs()
    rmexp(f"resume={run}")
    assert result(run)["layout"] == "mixed"
    assert (run / "export" / "model.safetensors").is_file()
    assert ("features" in result(run)) == (tune == "last_layers")


def test_heads_train_side_by_side(rmexp):
    rmexp("-m", *RUN, "tune=head", "loss=contrastive", "loss.margin=0.5,1.0", "sweep.export=none")
    assert all("shared_with" in result(run) for run in rmexp.runs())


@pytest.mark.filterwarnings("ignore:.*script_method.* is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_compiled_flexattention_is_its_eager_form(monkeypatch):
    from torch.nn.attention.flex_attention import flex_attention

    trees = [Tree(150, (40, 90)), Tree(0, (33,))]
    row = row_width(sum(tree.size for tree in trees))
    q, k, v = (torch.randn(1, heads, row, 16, device=DEVICE) for heads in (4, 2, 2))

    def attention():
        packed = TreeRow(trees, row, DEVICE, "flex")
        with torch.no_grad():
            return tree_attention(torch.nn.Module(), q, k, v, None, trees=packed)[0]

    if DEVICE == "cpu":  # torch 2.13's C++ of it does not compile with ten or more dynamic sizes
        static = torch.compile(flex_attention, dynamic=False)
        monkeypatch.setattr("rmexp.models.tree_attention._flex", lambda: static)
    compiled = attention()
    monkeypatch.setattr("rmexp.models.tree_attention._flex", lambda: flex_attention)
    assert F.mse_loss(compiled, attention()) <= 1e-8
