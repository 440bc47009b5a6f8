"""Directories of LoRA adapters (peft): loaded on top of their base model and merged into it."""

import json
import warnings
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError
from rmexp.models.loaded_weights import note_unused
from rmexp.models.model_files import ADAPTER

WEIGHTS, PICKLED_WEIGHTS = "adapter_model.safetensors", "adapter_model.bin"
CONVERT = (
    'python -c "import torch, safetensors.torch as s; '
    f"s.save_file(torch.load('{PICKLED_WEIGHTS}', weights_only=True), '{WEIGHTS}')\""
)
"""The command that converts them without running their code."""


def base_of(folder: Path, where: str) -> str | None:
    """The base model of an adapter: a directory or hub id; None if the folder holds none.

    A relative path counts from the working directory, from the adapter, or from its parent.

    Raises:
        UserError: the base is not found, or the adapter is not of LoRA's kind, or its weights are
            missing or pickled.
    """
    if not (folder / ADAPTER).is_file():
        return None
    if any(folder.glob("model*.safetensors")):
        raise UserError(
            f"{where} has a model and an adapter: move {ADAPTER} away to take the model, or the "
            "model's weights to take the adapter."
        )
    settings = json.loads((folder / ADAPTER).read_bytes())
    if settings.get("peft_type") not in ("LORA", "ADALORA", "LOHA", "LOKR", "IA3", "OFT", "BOFT"):
        raise UserError(
            f"{where} is an adapter ({settings.get('peft_type')}) that cannot be merged into its "
            "base model: give a full model."
        )
    if not (folder / WEIGHTS).is_file() and (folder / PICKLED_WEIGHTS).is_file():
        raise UserError(
            f"{where} is an adapter with pickled weights ({PICKLED_WEIGHTS}), which can run code: "
            f"convert them in its directory, {CONVERT}."
        )
    if not (folder / WEIGHTS).is_file():
        raise UserError(f"{where} is an adapter without its weights: download {WEIGHTS} too.")
    base = str(settings.get("base_model_name_or_path") or "")
    for parent in (Path.cwd(), folder, folder.parent):
        if base and (parent / Path(base).expanduser()).is_dir():
            return str(parent / Path(base).expanduser())
    if not base or Path(base).is_absolute() or base[0] in ".~" or base.count("/") > 1:
        raise UserError(
            f"{where} is a LoRA adapter whose base model {base!r} is not found: set "
            f"base_model_name_or_path in {folder / ADAPTER} to its directory or hub id."
        )
    return base


def merge_adapter(model: Any, folder: Path) -> set[str]:
    """Add an adapter's updates to the weights of its base, in place.

    Args:
        model: a sequence classifier with the base's weights.

    Returns:
        The names of the modules that the adapter replaces, e.g. its reward head.

    Raises:
        UserError: the adapter does not fit the model.
    """
    import peft  # takes two seconds

    config = peft.PeftConfig.from_pretrained(str(folder))
    weights = peft.load_peft_weights(str(folder))
    config.task_type = None  # no wrapper of a task: the model is a sequence classifier already
    config.inference_mode = True
    rows = {len(weight) for name, weight in weights.items() if name.endswith("embed_tokens.weight")}
    if rows:
        model.resize_token_embeddings(max(rows), mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
            adapted = peft.PeftModel(model, config)
        result: Any = peft.set_peft_model_state_dict(adapted, weights)
    except (RuntimeError, ValueError) as error:
        first = str(error).strip().splitlines()[-1].strip()
        raise UserError(f"{folder} is an adapter of another model: {first[:200]}.") from error
    if lacking := [name for name in result.missing_keys if "lora_" in name]:
        raise UserError(f"{folder} lacks weights of the adapter: {lacking[0]} ...")
    note_unused(result.unexpected_keys)
    adapted.merge_and_unload(safe_merge=True)
    names = (name.removeprefix("base_model.model.") for name in weights if "lora_" not in name)
    return {name.rpartition(".")[0] for name in names} - set(result.unexpected_keys)
