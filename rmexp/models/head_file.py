"""The head of several outputs beside an export, whose own head has one.

In a folder of its own: servers such as vLLM load every .safetensors file beside a model's.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from rmexp.models.reward_head import MultiOutputHead, find_head, replace_head

HEADS_FILE = "heads/heads.safetensors"
"""weight (K, D), bias (K) if there is one, combine (K); metadata: kind, names (JSON)."""


def save_outputs(head: MultiOutputHead, export: Path) -> None:
    """Write a head into the directory of its model's export."""
    tensors = {"weight": head.weight, "combine": head.combine_K}
    if head.bias is not None:
        tensors["bias"] = head.bias
    file = export / HEADS_FILE
    file.parent.mkdir()
    found = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    about = {"kind": head.kind, "names": json.dumps(head.names, ensure_ascii=False)}
    save_file(found, file, metadata=about)


def stored_kind(export: Path) -> str | None:
    """The option of the group `head` of the outputs beside an export; None: there are none."""
    if not (export / HEADS_FILE).is_file():
        return None
    with safe_open(export / HEADS_FILE, "pt") as stored:
        return str(stored.metadata()["kind"])


@torch.no_grad()
def load_outputs(model: Any, source: Any) -> None:
    """Give a trained model the outputs beside the export that it was loaded from, if there are any.

    Args:
        source: loaded the model; without a `path` it is no export.
    """
    export = getattr(source, "path", None)
    if export is None or not (file := Path(export) / HEADS_FILE).is_file():
        return
    with safe_open(file, "pt") as stored:
        about = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    combine = tensors.pop("combine").tolist()
    head = MultiOutputHead(
        tensors["weight"].shape[1], "bias" in tensors, about["kind"],
        json.loads(about["names"]), combine,
    )  # fmt: skip
    head.load_state_dict(tensors, strict=False)
    replace_head(model, head.to(find_head(model)[1].weight.device))
