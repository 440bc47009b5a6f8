"""A checkpoint's weights after loading: what is missing, not used, or a head by another name."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from rmexp.core.errors import UserError, note_fallback
from rmexp.models.model_files import VALUE_HEADS, other_outputs

LANGUAGE_HEADS = ("lm_head.", "cls.", "embed_out.", "mtp.")
"""Starts of the names of weights that a reward model is not expected to use."""

SCALES = (
    "_scale_inv",
    "weight_scale",
    "qweight",
    "qzeros",
    ".scales",
    ".absmax",
    ".SCB",
    "_blocks",
)
"""Ends of the names of weights that only quantised checkpoints have."""


def check_weights(info: Mapping[str, Any], prefix: str, where: str) -> None:
    """Refuse missing weights of the backbone, and note those of the checkpoint that are not used.

    Args:
        info: of `from_pretrained`.
        prefix: `base_model_prefix` of the model.
        where: the setting that names the checkpoint.

    Raises:
        UserError: weights are missing, quantised, or of a head with another number of outputs.
    """
    unused = sorted(info["unexpected_keys"])
    if scales := [name for name in unused if name.endswith(SCALES)]:
        raise UserError(
            f"{where} holds weights that are quantised ({scales[0]}) without a "
            "quantization_config: take the checkpoint that it was made from."
        )
    lacking = sorted(key for key in info["missing_keys"] if key.startswith(f"{prefix}."))
    missing = [key for key in lacking if ".pooler." not in key]  # masked models have no pooler
    if missing:
        raise UserError(
            f"{where} lacks {len(missing)} weights of the model: {_shortened(missing)}"
            + (f"; it has others: {_shortened(unused)}." if unused else ".")
        )
    if mismatched := sorted(str(key[0]) for key in info["mismatched_keys"]):
        raise UserError(other_outputs(where, f"shapes of {_shortened(mismatched)} differ"))
    if lacking:
        note_fallback(
            f"Weights that the checkpoint lacks are initialised randomly: {_shortened(lacking)}."
        )


def note_unused(names: Collection[str]) -> None:
    """Note weights of a checkpoint that are not used, but for heads of language models."""
    names = sorted(name for name in names if not name.startswith(LANGUAGE_HEADS))
    if names:
        note_fallback(f"{len(names)} weights of the checkpoint are not used: {_shortened(names)}.")


@torch.no_grad()
def load_renamed_head(head: nn.Linear, folder: Path, unused: Collection[str]) -> set[str]:
    """Load a reward head that has another name (`value_head`, `v_head.summary`) than the model's.

    Args:
        head: a linear layer with one output.
        folder: of the checkpoint; a file `value_head.safetensors` counts too.
        unused: names of weights that the model did not take.

    Returns:
        The names that were loaded: empty if there is no linear layer with one output, or several.
    """
    found = {
        name: weight
        for file in folder.glob("*.safetensors")
        for name, weight in _tensors(file, head.in_features)
        if name in unused or file.name.startswith("value_head.")
    }
    weights = [name for name, weight in found.items() if weight.shape == (1, head.in_features)]
    if len(weights) != 1:
        return set()
    name = weights[0]
    stem = name.removesuffix("weight")
    layers = {other for other in unused if other.split(".")[0] == name.split(".")[0]}
    if layers - {name, f"{stem}bias"}:  # a head of several layers
        return set()
    head.weight.copy_(found[name])
    bias, shifted = found.get(f"{stem}bias"), ""
    if bias is not None and head.bias is not None:
        head.bias.copy_(bias)
    elif bias is not None:
        shifted = f"; its bias {bias.item():.4g}, which shifts all rewards alike, is left out"
    of_ppo = ", which must be a reward model's, not the critic of a PPO run"
    critic = of_ppo if name.startswith(VALUE_HEADS) else ""
    note_fallback(f"The reward head is read from {name}{critic}{shifted}.")
    return {name, f"{stem}bias"}


def _tensors(file: Path, width: int) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a file that may belong to a layer with one output."""
    with safe_open(file, "pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            if stored.get_slice(name).get_shape() in ([1, width], [1]):
                yield name, stored.get_tensor(name)


def _shortened(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
