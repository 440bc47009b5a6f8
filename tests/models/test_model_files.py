"""Damaged files of a model are named in one sentence before they are mapped."""

import json

import pytest
import torch
from safetensors.torch import save_file
from transformers.utils import logging

from rmexp.core.errors import UserError
from rmexp.models.gguf import _parsed_once_and_silent, convert_gguf
from rmexp.models.model_files import WEIGHT_INDEX, check_model_files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:01\nsize 9\n"


@pytest.fixture
def folder(tmp_path):
    """A directory with weights, a tokenizer and a configuration, which is whole."""
    save_file({"a": torch.ones(3, 2), "b": torch.ones(5)}, tmp_path / "model.safetensors")
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_text(json.dumps({"a": [1, 2]}, indent=2) + "\n")
    check_model_files(tmp_path)
    return tmp_path


def head(size):
    return lambda content: content[:size]


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("model.safetensors", lambda _: POINTER, "is a git-lfs pointer"),
        ("tokenizer.json", lambda _: POINTER, "is a git-lfs pointer"),
        ("model.safetensors", head(-1), "bytes where its header says"),
        ("model.safetensors", lambda content: content + b"x", "bytes where its header says"),
        ("model.safetensors", head(40), "is no safetensors file"),
        ("model.safetensors", head(4), "is no safetensors file"),
        ("model.safetensors", lambda _: b"", "is no safetensors file"),
        ("model.safetensors", lambda _: b"<html>not found</html>", "is no safetensors file"),
        ("model.safetensors", lambda c: b"\xff" * 8 + c[8:], "is no safetensors file"),
        ("model.safetensors", lambda _: (2).to_bytes(8, "little") + b"[]", "is no safetensors"),
        ("tokenizer.json", head(15), "is cut"),
        ("config.json", lambda _: b"", "is cut"),
    ],
)
def test_a_damaged_file_is_named(name, damage, why, folder):
    file = folder / name
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError, match=f"{file} .*{why}|{file} {why}"):
        check_model_files(folder)


@pytest.mark.parametrize(
    ("index", "why"),
    [
        ({"weight_map": {"a": "part-1.safetensors"}}, "names part-1.safetensors, which is missing"),
        ({"weight_map": {"a": "../part.safetensors"}}, "which is not in its directory"),
        ({"weight_map": {"a": "/etc/part.safetensors"}}, "which is not in its directory"),
        ({}, "is not an index"),
    ],
)
def test_an_index_names_files_beside_it(index, why, folder):
    (folder / "model.safetensors").rename(folder / "part-0.safetensors")
    (folder / WEIGHT_INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match=why):
        check_model_files(folder)
    (folder / WEIGHT_INDEX).write_text(json.dumps({"weight_map": {"a": "part-0.safetensors"}}))
    check_model_files(folder)


def test_files_that_nobody_reads_may_be_pointers(folder):
    (folder / "consolidated.safetensors").write_bytes(POINTER)
    check_model_files(folder)


def test_a_conversion_shows_no_progress_bars_and_leaves_the_setting_of_others():
    logging.enable_progress_bar()
    with _parsed_once_and_silent():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    with _parsed_once_and_silent():
        pass
    assert not logging.is_progress_bar_enabled()


@pytest.mark.parametrize(
    ("content", "why"),
    [(POINTER, "is a git-lfs pointer"), (b"GGUF\3\0\0\0cut", "is the file whole")],
)
def test_a_damaged_gguf_file_is_named(content, why, folder, tmp_path):
    (folder / "m.gguf").write_bytes(content)
    with pytest.raises(UserError, match=f"m.gguf .*{why}"):
        convert_gguf(folder, "m.gguf", tmp_path / "cache")
