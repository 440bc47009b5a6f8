"""What a model's batches leave out, if its configuration and a probe allow it.

The layout is chosen (trees compute a shared prefix once), and the final layer is restricted to the
tokens that the head reads.
"""

from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rmexp.batching.batch import Batch
from rmexp.batching.collate import BatchLayout, Collate, Layout, unlabelled_row
from rmexp.core.errors import UserError, note_fallback
from rmexp.models.final_layer import ReadTokens, per_token_parts
from rmexp.models.reward_model import (
    DROPOUTS,
    backbone,
    compute_rewards,
    head_layers,
    head_parameters,
    last_layer,
    model_facts,
)
from rmexp.models.tree_attention import TreeRow
from rmexp.models.tuning import layers

LAYOUT_TOLERANCE = 1e-4
"""Maximum relative difference of rewards and of gradients between the layouts, in fp32."""

PROBED_PARAMETERS = 8
"""Number of the lowest trainable parameters whose gradients are compared; these depend on the
whole backward pass."""


def choose_layout(model: Any, wanted: Literal["auto", "tree", "padded"]) -> Layout:
    """The layout of batches: `mixed` takes trees where they save something.

    Raises:
        UserError: `tree` was requested and trees are not exact for this model.
    """
    if wanted == "padded":
        return "padded"
    reason = check_layout(model) or probe_layout(model)
    if reason is None:
        return "tree" if wanted == "tree" else "mixed"
    sentence = f"token trees are not exact for {type(model).__name__}: {reason}"
    if wanted == "tree":
        raise UserError(f"model.layout=tree, but {sentence}; take model.layout=padded.")
    note_fallback(f"Training in padded rows, as {sentence}.")
    return "padded"


@torch.no_grad()
def restrict_final_layer(model: Any) -> None:
    """Make a decoder's final layer compute only what the head reads, see `final_layer`.

    Nothing changes where the layer's parts have other names; where rewards would, a note says so.
    """
    every = layers(model)
    parts = per_token_parts(every[-1]) if every and head_layers(model) is not None else []
    if not parts:
        return
    row = unlabelled_row(probed_tokens(model))
    model.eval()
    whole_N = compute_rewards(model, _probed_batch(model, row, "padded"))
    head, read = last_layer(model), ReadTokens()
    handles = [handle for part in parts for handle in read.hook(part)]
    head.read = read
    try:
        restricted_N = compute_rewards(model, _probed_batch(model, row, "padded"))
        exact = _difference(whole_N, restricted_N) <= LAYOUT_TOLERANCE
    except Exception:  # whatever fails, all of the layer is computed instead
        exact = False
    if not exact:
        head.read = None
        for handle in handles:
            handle.remove()
        note_fallback(
            f"The final layer computes every token, as {type(model).__name__} gives other rewards "
            "without those that the head does not read."
        )


def check_layout(model: Any) -> str | None:
    """Why the model's configuration rules out trees, or None."""
    if head_layers(model) is None:
        return "its head does not read one token"
    if model_facts(model).attends_to_future:
        return "it looks at later tokens"
    return attention_reason(model)


def attention_reason(model: Any) -> str | None:
    """Why the layers of a causal model rule out trees, by its configuration, or None."""
    config = model.config.get_text_config()
    if not getattr(backbone(model), "_supports_attention_backend", False):
        return "its attention cannot be replaced"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if strange := kinds - {"full_attention", "sliding_attention"}:
        return f"it has layers of type {', '.join(sorted(strange))}"
    named = (name for name in sorted(DROPOUTS) if getattr(config, name, 0))
    if (name := next(named, None)) is not None:
        return f"it has dropout ({name}={getattr(config, name)})"
    for name, module in backbone(model).named_modules():
        if "lora_dropout" in name and isinstance(module, nn.Dropout):
            return f"LoRA has dropout (tune.dropout={module.p:g})"
    return None


def probe_layout(model: Any) -> str | None:
    """Why the layouts differ on one random comparison, or None."""
    row = unlabelled_row(probed_tokens(model))
    model.eval()
    found: dict[str, tuple[Tensor, Tensor]] = {}
    calls, windowed = TreeRow.calls, TreeRow.windowed
    try:
        for layout in ("padded", "tree"):
            found[layout] = _rewards_and_gradients(model, row, layout)
    except Exception as error:  # whatever fails, the padded layout is used instead
        first = (str(error).splitlines() or [type(error).__name__])[0]
        return f"it fails in that layout ({first[:100]})"
    config = model.config.get_text_config()
    layers = config.num_hidden_layers
    if TreeRow.calls - calls != layers:
        return f"{TreeRow.calls - calls} of its {layers} layers attend through the tree"
    if TreeRow.windowed - windowed != _sliding_layers(config):
        return "its sliding window is not passed on to its attention"
    for what, padded, tree in zip(("rewards", "gradients"), *found.values(), strict=True):
        difference = _difference(padded, tree)
        if not difference <= LAYOUT_TOLERANCE:
            return f"its {what} differ by {difference:.1e} (relative)"
    return None


def probed_tokens(model: Any) -> list[list[int]]:
    """Two sequences of random tokens that share their first nine."""
    vocabulary = model.get_input_embeddings().num_embeddings
    shared, *rest = torch.randint(
        vocabulary, (24,), generator=torch.Generator().manual_seed(0)
    ).split([9, 8, 7])
    return [torch.cat([shared, branch]).tolist() for branch in rest]


def _sliding_layers(config: Any) -> int:
    if (kinds := getattr(config, "layer_types", None)) is not None:
        return int(kinds.count("sliding_attention"))
    return config.num_hidden_layers if getattr(config, "sliding_window", None) else 0


def _difference(expected: Tensor, found: Tensor) -> float:
    """Relative difference."""
    return float((expected - found).norm() / expected.norm().clamp_min(1e-12))


def _probed_batch(model: Any, row: dict[str, Any], layout: Any) -> Batch:
    batch = Collate(0, 10**9, BatchLayout(layout))([row]).batches[0]
    return batch.to(next(model.parameters()).device)


def _rewards_and_gradients(model: Any, row: dict[str, Any], layout: Any) -> tuple[Tensor, Tensor]:
    rewards_N = compute_rewards(model, _probed_batch(model, row, layout))
    embeddings = {id(p) for p in model.get_input_embeddings().parameters()}
    ordered = (*backbone(model).parameters(), *head_parameters(model))
    trained = (p for p in ordered if p.requires_grad and id(p) not in embeddings)
    lowest = list(islice(trained, PROBED_PARAMETERS))
    signs = torch.tensor([1.0, -0.5], device=rewards_N.device)
    gradients = torch.autograd.grad((rewards_N * signs).sum(), lowest, allow_unused=True)
    flat = [g.flatten() for g in gradients if g is not None]
    return rewards_N.detach(), torch.cat(flat) if flat else torch.zeros(1)


RequestedLayout = Literal["auto", "tree", "padded"]
