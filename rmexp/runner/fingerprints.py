"""What a run depends on, as short hashes: its configuration, the data it names, the code."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rmexp.config.schema import PACKAGE

IGNORED_KEYS = ("name", "logger", "sweep", "resume")
"""Keys that change nothing in what a run finds."""


def config_fingerprint(config: DictConfig) -> str:
    """Of a job's settled configuration, without the keys that only say where things go."""
    content: Any = OmegaConf.to_container(config, resolve=True)
    for key in IGNORED_KEYS:
        content.pop(key, None)
    return short_hash(json.dumps(_without_cache(content), sort_keys=True, default=str))


def _without_cache(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_cache(value) for key, value in node.items() if key != "cache"}
    return [_without_cache(value) for value in node] if isinstance(node, list) else node


def input_fingerprint(configs: Iterable[DictConfig]) -> str:
    """Of the files that the configurations name, and of the code that runs them.

    Files of rows, templates and rewards count by their content; in other directories (models,
    checkpoints, saved data sets) each file by name, size and time. What is on the hub counts by
    its id and revision, which are in the configuration.
    """
    paths, modules = set(), set()
    for config in configs:
        for key, value in _leaves(OmegaConf.to_container(config, resolve=True)):
            if key == "_target_" and not value.startswith("rmexp."):
                modules.add(value.rpartition(".")[0])
            elif key == "checkpoint" or key == "path" or key.endswith("_path") or key == "scores":
                paths.add(value)
    code = [*sorted(PACKAGE.rglob("*.py")), *_sources(modules)]
    parts = [_content(file) for file in code]
    parts += [f"{path} {_of_path(Path(path).expanduser())}" for path in sorted(paths)]
    return short_hash("\n".join(parts))


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The last part of a key, and its text."""
    if isinstance(node, dict):
        for name, value in node.items():
            yield from _leaves(value, str(name))
    elif isinstance(node, list):
        for value in node:
            yield from _leaves(value, key)
    elif isinstance(node, str):
        yield key, node


def _sources(modules: set[str]) -> Iterator[Path]:
    for name in sorted(modules):
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None and Path(spec.origin).is_file():
            yield Path(spec.origin)


def _of_path(path: Path) -> str:
    if path.is_file():
        return _content(path)
    if not path.is_dir():
        return "not here"  # on the hub
    found = ((file, file.stat()) for file in sorted(path.rglob("*")) if file.is_file())
    return "".join(f"{file} {s.st_size} {s.st_mtime_ns}" for file, s in found)


def _content(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def short_hash(text: str) -> str:
    """The first 16 signs of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
