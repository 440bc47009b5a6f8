"""A model's files before loading: what cannot be trained, is cut, or may run code."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from rmexp.core.errors import UserError
from rmexp.core.git_lfs import POINTER, refuse_lfs_pointer

ADAPTER = "adapter_config.json"

PICKLED = ("pytorch_model*.bin", "*.pt", "*.pth", "*.ckpt")

TEXT_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.model"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
)
"""Files beside the weights."""

WEIGHT_INDEX = "model.safetensors.index.json"

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself has it."""

CLASSIFIER_HEADS = (
    *("score.weight", "classifier.weight", "classifier.out_proj.weight"),
    "classification_head.out_proj.weight",
)
"""Names of the last layer of transformers' sequence classifiers."""

VALUE_HEADS = ("v_head.", "value_head.")
"""Starts of the names of value heads: TRL's and LLaMA-Factory's, and OpenRLHF's."""


def check_folder(folder: Path, where: str) -> None:
    """Refuse a folder that has no model that can be trained.

    Args:
        where: the setting that names the folder.

    Raises:
        UserError: no model, pickled weights, or quantised ones.
    """
    if not (folder / "config.json").is_file():
        inside = sorted(
            str(file.parent.relative_to(folder))
            for pattern in ("*/config.json", "*/*/config.json", f"*/{ADAPTER}")
            for file in folder.glob(pattern)
        )
        near = f" (did you mean {where}/{inside[-1]}?)" if inside else ""
        raise UserError(f"{where} has no config.json, so that it holds no model{near}.")
    pickled = [file for name in PICKLED for file in folder.glob(name)]
    if pickled and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"{where} has pickled weights ({pickled[0].name}), which can run code: convert them, "
            "python -c \"import transformers as t; t.AutoModel.from_pretrained('DIR')"
            ".save_pretrained('NEW')\", and copy the tokenizer."
        )
    refuse_quantised(_read_json(folder / "config.json"), where)
    _refuse_other_heads(folder, where)


def _refuse_other_heads(folder: Path, where: str) -> None:
    """Refuse a trained head that is not one linear layer with one output, by its shape."""
    shapes = {
        name: shape
        for file in folder.glob("*.safetensors")
        for name, shape in _shapes(file)
        if len(shape) == 2
    }
    for name in CLASSIFIER_HEADS:
        if name in shapes and shapes[name][0] != 1:
            raise UserError(other_outputs(where, f"{name}: {shapes[name][0]} outputs"))
    layers = [name for name in shapes if name.startswith(VALUE_HEADS)]
    if len(layers) > 1 or any(shapes[name][0] != 1 for name in layers):
        raise UserError(
            f"{where} has a value head that is not one linear layer with one output "
            f"({', '.join(sorted(layers))}), which no sequence classifier can hold: take the "
            "checkpoint that it was made from."
        )


def other_outputs(where: str, found: str) -> str:
    """What is wrong with a classifier of several labels, and the way out."""
    return (
        f"{where} is a classifier with several labels ({found}); rmexp trains one reward: take the "
        "checkpoint that it was made from, or turn two labels into one as docs/tune.md shows."
    )


def _shapes(file: Path) -> Iterator[tuple[str, list[int]]]:
    """Name and shape of each tensor of a safetensors file, from its header."""
    with safe_open(file, "pt") as stored:
        for name in stored.keys():  # noqa: SIM118 - not a mapping
            yield name, stored.get_slice(name).get_shape()


def check_reward_head(folder: Path) -> None:
    """Refuse a folder of safetensors without a weight that may be a reward head's, in milliseconds.

    Folders of adapters and of other files are left to loading.

    Raises:
        UserError: there is none.
    """
    files = list(folder.glob("*.safetensors"))
    if not files or (folder / ADAPTER).is_file():
        return
    for name, shape in (tensor for file in files for tensor in _shapes(file)):
        if len(shape) == 2 and shape[0] == 1 and "embed" not in name:
            return
    raise UserError(f"{folder} has no reward head: train it first.")


def has_reward_head(folder: Path) -> bool:
    """Whether files of a folder certainly have a trained reward head, by the names of weights."""
    return any(
        name.endswith(CLASSIFIER_HEADS) or name.startswith(VALUE_HEADS)
        for file in folder.glob("*.safetensors")
        for name, _ in _shapes(file)
    )


def refuse_quantised(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration of quantised weights, which no gradient can train.

    Raises:
        UserError: names the method.
    """
    settings = config.get("quantization_config") or config.get("compression_config")
    if settings:
        method = settings.get("quant_method", "an unknown method")
        raise UserError(
            f"{where} holds weights that are quantised ({method}): rmexp trains and exports full "
            "weights. Take the checkpoint that it was made from (its name without the suffix, "
            "e.g. -FP8, -AWQ, -GPTQ-Int4 or -bnb-4bit)."
        )


def check_model_files(folder: Path) -> None:
    """Check the sizes and ends of the files that transformers will read, in milliseconds.

    Raises:
        UserError: names the file.
    """
    for file in (folder / name for name in TEXT_FILES if (folder / name).is_file()):
        refuse_pointer(file)
        if file.suffix == ".json" and not file.read_bytes()[-64:].rstrip().endswith((b"}", b"]")):
            raise UserError(f"{file} is cut: copy or download it again.")
    for file in _weights(folder):
        refuse_pointer(file)
        _check_safetensors(file)


def refuse_pointer(file: Path) -> None:
    """Refuse a file that is a pointer of git-lfs.

    Raises:
        UserError: it is one.
    """
    with open(file, "rb") as stream:
        refuse_lfs_pointer(stream.read(len(POINTER)), str(file))


def _weights(folder: Path) -> Iterator[Path]:
    names = {"adapter_model.safetensors", "model.safetensors"}
    if (folder / WEIGHT_INDEX).is_file() and not (folder / "model.safetensors").is_file():
        try:
            names |= set(json.loads((folder / WEIGHT_INDEX).read_bytes())["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError):
            raise UserError(f"{folder / WEIGHT_INDEX} is not an index of weights.") from None
        index = folder / WEIGHT_INDEX
        for name in names - {"adapter_model.safetensors", "model.safetensors"}:
            if Path(name).name != name:
                raise UserError(f"{index} names {name}, which is not in its directory.")
            if not (folder / name).is_file():
                raise UserError(f"{index} names {name}, which is missing: download it.")
    yield from (folder / name for name in sorted(names) if (folder / name).is_file())


def _check_safetensors(file: Path) -> None:
    """Compare the size of the file with its header: 8 bytes of length, JSON, then the tensors."""
    size = file.stat().st_size
    with open(file, "rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header: Any = None
        if 2 <= length <= min(MAX_HEADER, size - 8):
            try:
                header = json.loads(stream.read(length))
                header.pop("__metadata__", None)
                ends = [tensor["data_offsets"][1] for tensor in header.values()]
            except (ValueError, LookupError, TypeError, AttributeError):
                header = None
    if header is None:
        raise UserError(f"{file} is no safetensors file (or its beginning is damaged).")
    expected = 8 + length + max(ends, default=0)
    if size != expected:
        raise UserError(
            f"{file} has {size:,} bytes where its header says {expected:,}: download it again."
        )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise UserError(f"{file} is not valid JSON ({error}): download it again.") from None
    return content if isinstance(content, dict) else {}
