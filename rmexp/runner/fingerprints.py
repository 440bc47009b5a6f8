"""What a run depends on, as short hashes: its configuration, data and code."""

import hashlib
import importlib.util
import json
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rmexp import __version__
from rmexp.config.schema import names_files

IGNORED_KEYS = ("name", "logger", "sweep", "resume", "trust")
"""Keys that do not change a run's results."""

LIBRARIES = ("torch", "transformers")
"""Libraries whose versions may change a run's results."""


def config_fingerprint(config: DictConfig) -> str:
    """The hash of a job's configuration, without the keys that only say where things go."""
    content: Any = OmegaConf.to_container(config, resolve=True)
    for key in IGNORED_KEYS:
        content.pop(key, None)
    return short_hash(json.dumps(_without_cache(content), sort_keys=True, default=str))


def _without_cache(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _without_cache(value) for key, value in node.items() if key != "cache"}
    return [_without_cache(value) for value in node] if isinstance(node, list) else node


def input_fingerprint(configs: Iterable[DictConfig]) -> str:
    """The hash of the files that the configurations name, and of the code that runs them.

    Files of rows, templates and rewards count by content; directories (models, checkpoints, saved
    data sets) by the name, size and time of each file; data on the hub by id and revision, which
    are in the configuration. rmexp and `LIBRARIES` count by version, custom code by its source.
    """
    paths, modules = set(), set()
    for config in configs:
        for key, value in _leaves(OmegaConf.to_container(config, resolve=True)):
            if key == "_target_" and not value.startswith("rmexp."):
                modules.add(value.rpartition(".")[0])
            elif key == "checkpoint" or names_files(key):
                paths.add(value)
    parts = [f"rmexp {__version__}", *(f"{name} {version(name)}" for name in LIBRARIES)]
    parts += [_content(file) for file in _sources(modules)]
    parts += [f"{path} {_of_path(Path(path).expanduser())}" for path in sorted(paths)]
    return short_hash("\n".join(parts))


def _leaves(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text, with the last part of its key."""
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
    """The first 16 characters of a text's SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
