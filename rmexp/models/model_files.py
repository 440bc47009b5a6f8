"""Files of a model that are cut, or pointers of git-lfs; found before they are mapped."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rmexp.core.errors import UserError

LFS_POINTER = b"version https://git-lfs"
"""How the text begins that git has in place of a large file."""

TEXT_FILES = (
    *("config.json", "generation_config.json", "adapter_config.json", "tokenizer.model"),
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.json"),
)
"""Files beside the weights."""

WEIGHT_INDEX = "model.safetensors.index.json"

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, as safetensors itself has it."""


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
    """Refuse a git-lfs pointer.

    Raises:
        UserError: it is one.
    """
    with open(file, "rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            raise UserError(
                f"{file} is a git-lfs pointer, not the file itself: run `git lfs pull` there, or "
                "download it."
            )


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
