"""Everything that decides what the tokenised rows of a source are, and the cache keys of it."""

import functools
import hashlib
import inspect
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmexp.data.reader import Format
from rmexp.data.sources import ReadOptions
from rmexp.data.sources.local_paths import local_files
from rmexp.templates.template import template_fingerprint

TOKEN_CACHE_VERSION = 10
"""Part of every cache key: raise it when the stored columns change."""

_PACKAGE = Path(__file__).parent.parent

_CODE = ("comparison.py", "batching/prefix_tree.py", "data/**/*.py", "templates/*.py")
"""The code that turns rows into labels, texts and tokens."""


@dataclass(frozen=True)
class TokenizeSpec:
    """Everything that decides what the tokenised rows are.

    Args:
        paths: split (None: not split yet) -> path or list of paths, see `sources.open_source`.
        parse: the format.
        limit: comparisons to take from the start of each path; None takes all.
        on_bad_row: `raise` or `skip`.
        max_bad_share: share of bad rows (0..1) above which `skip` stops too.
        min_rating_gap: ratings at least this far apart make a pair; None makes no pairs.
        max_length: tokens that a prompt and a response may have together.
        reading: what the user says about the sources.
    """

    paths: Mapping[str | None, str | Sequence[str]]
    parse: Format
    limit: int | None
    on_bad_row: str
    max_bad_share: float
    min_rating_gap: float | None
    max_length: int
    reading: ReadOptions = ReadOptions()  # noqa: RUF009 (frozen)

    def key(self, tokenizer: Any) -> str:
        """The key of the tokenised rows (24 hex digits)."""
        parts = [TOKEN_CACHE_VERSION, _own_code(), self.source_key]
        if tokenizer is not None:
            backend = getattr(tokenizer, "backend_tokenizer", None)
            words = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
            parts += [tokenizer.chat_template, template_fingerprint(tokenizer), words]
        return _digest(parts)

    @functools.cached_property
    def source_key(self) -> str:
        """The key of the rows, whatever the template and tokenizer (24 hex digits)."""
        options = [self.on_bad_row, self.max_bad_share, self.min_rating_gap]
        return _digest([self.dialogues_key, options])

    @functools.cached_property
    def dialogues_key(self) -> str:
        """The key of prompts and responses, whatever happens to bad rows (24 hex digits)."""
        sources = {str(split): _rows_fingerprint(path) for split, path in self.paths.items()}
        reading = [self.reading.encoding, dict(self.reading.split_names)]
        return _digest([sources, reading, _described(self.parse), self.limit, self.max_length])


def _rows_fingerprint(path: str | Sequence[str]) -> list[str]:
    """What is asked for, and a hash of each file or folder behind it."""
    paths = [path] if isinstance(path, str) else list(path)
    files = [file for one in paths for file in local_files(one)]
    # A single file is its content, wherever it lies.
    asked = [] if files == [Path(paths[0]).expanduser()] and files[0].is_file() else paths
    named = [one + hub_revision(one.partition(":")[0]) for one in asked]
    return [*named, *(source_fingerprint(str(file)) for file in files)]


def source_fingerprint(path: str) -> str:
    """A hash of a file's bytes, of a directory's names, sizes and times, or of a hub id itself."""
    file = Path(path).expanduser()
    digest = hashlib.sha256(str(path).encode() if not file.exists() else b"")
    if file.is_file():
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    for part in sorted(file.rglob("*")) if file.is_dir() else ():
        stat = part.stat()
        digest.update(f"{part.relative_to(file)} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


@functools.cache
def hub_revision(name: str) -> str:
    """The commit of a data set on the hub: the newest, or offline the one that was read last."""
    import huggingface_hub

    if Path(name).exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return ""
    try:
        return f"@{huggingface_hub.HfApi().dataset_info(name, timeout=10).sha}"
    except Exception:  # of many types, where there is no network or no such data set
        home = Path(huggingface_hub.constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}")
        known = sorted(home.glob("snapshots/*"), key=lambda folder: folder.stat().st_mtime)
        return f"@{known[-1].name}" if known else ""


def _described(value: Any) -> Any:
    """A format as JSON: the settings and the code of it and of all that it wraps."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _described(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_described(part) for part in value]
    if isinstance(value, functools.partial):
        return _described([value.func, value.args, value.keywords])
    if inspect.isfunction(value):
        cells = [cell.cell_contents for cell in value.__closure__ or ()]
        return [_code(value), *_described([value.__defaults__, value.__kwdefaults__, cells])]
    return [_code(type(value)), _described(getattr(value, "__dict__", {}))]


def _code(thing: Any) -> str:
    """The name of a function or class, and a hash of the file that defines it."""
    name = f"{thing.__module__}.{thing.__qualname__}"
    try:
        file = inspect.getsourcefile(thing)
    except TypeError:  # built in
        return name
    return f"{name} {source_fingerprint(file) if file else ''}"


@functools.cache
def _own_code() -> str:
    files = sorted(file for pattern in _CODE for file in _PACKAGE.glob(pattern))
    return _digest([source_fingerprint(str(file)) for file in files])


def _digest(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]
