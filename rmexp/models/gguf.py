"""Conversion of GGUF checkpoints to safetensors."""

import functools
import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers
from safetensors import safe_open
from transformers.utils import logging

from rmexp.core.disk_cache import load_or_build
from rmexp.core.errors import UserError
from rmexp.models.model_files import refuse_pointer


@contextmanager
def _parsed_once_and_silent() -> Iterator[None]:
    """Parse a GGUF file's header once, which saves twenty seconds, and without progress bars.

    transformers parses it for the tokenizer, the configuration and the weights, and maps names for
    every module.
    """
    import gguf
    from transformers import modeling_gguf_pytorch_utils

    before = {name: getattr(gguf, name) for name in ("GGUFReader", "get_tensor_name_map")}
    for name, function in before.items():
        setattr(gguf, name, functools.cache(function))
    bar = modeling_gguf_pytorch_utils.tqdm
    modeling_gguf_pytorch_utils.tqdm = functools.partial(bar, disable=True)
    shown = logging.is_progress_bar_enabled()  # those of loading and saving
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
        modeling_gguf_pytorch_utils.tqdm = bar
        for name, function in before.items():
            setattr(gguf, name, function)


def convert_gguf(folder: Path, gguf_file: str, cache: Path) -> Path:
    """Directory with a GGUF file's model as safetensors and its tokenizer, converted once."""
    source = folder / gguf_file
    if not source.is_file():
        raise UserError(f"model.gguf_file={gguf_file}: not in {folder}.")
    refuse_pointer(source)
    with open(source, "rb") as stream:
        home = (
            cache
            / "models"
            / f"{source.stem}-{hashlib.file_digest(stream, 'sha256').hexdigest()[:16]}"
        )
    try:
        load_or_build(home, _check_files, lambda aside: _convert(folder, gguf_file, aside))
    except UserError:
        raise
    except Exception as error:  # of any kind, where the file is cut
        first = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{source} cannot be converted ({first}): is the file whole?") from error
    return home


def _check_files(home: Path) -> Path:
    """Raise an error if a file of a converted model is missing or was cut."""
    for file in (home / "config.json", home / "tokenizer_config.json", home / "tokenizer.json"):
        json.loads(file.read_bytes())
    for shard in [*home.glob("*.safetensors")] or [home / "model.safetensors"]:
        with safe_open(shard, "pt"):  # compares the sizes in the header with the file's
            pass
    return home


def _convert(folder: Path, gguf_file: str, home: Path) -> None:
    print(f"Converting {gguf_file} to safetensors (once, ten seconds) ...", flush=True)
    with warnings.catch_warnings(), _parsed_once_and_silent():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=gguf_file)
        model = transformers.AutoModel.from_pretrained(
            folder, gguf_file=gguf_file, dtype=torch.float32
        )
        # transformers marks a model from GGUF as quantised; its weights are in fp32 now.
        del model.config.quantization_config
        model.hf_quantizer = None
        tokenizer.save_pretrained(home)
        model.save_pretrained(home)
