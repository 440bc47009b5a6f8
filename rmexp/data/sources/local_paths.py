"""Paths that a user may give -> the files behind them."""

import difflib
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rmexp.core.errors import UserError

CONTAINERS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow")

COMPRESSIONS = ("", ".gz", ".zst", ".bz2", ".xz")

SUFFIXES = tuple(kind + packed for kind in CONTAINERS for packed in COMPRESSIONS)

OTHER_CONTAINERS = {
    ".zip": "unpack it",
    ".tar": "unpack it",
    ".tgz": "unpack it",
    ".xls": "save the sheet as .csv",
    ".xlsx": "save the sheet as .csv",
    ".pkl": "a pickle can run code; write the rows as .jsonl or .parquet",
    ".pickle": "a pickle can run code; write the rows as .jsonl or .parquet",
}
"""Suffix of a container that is not read -> what to do."""

_DESCRIPTIONS = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files beside the data that `datasets` and LLaMA-Factory describe it in."""


def container_of(file: Path) -> str | None:
    """The suffix of a file's container, without that of its compression."""
    name = file.name.lower()
    return next((k for k in CONTAINERS if any(name.endswith(k + p) for p in COMPRESSIONS)), None)


def split_path(path: str) -> tuple[Path, str | None, str | None]:
    """The local path, and the configuration and split in `DIR@CONFIG:SPLIT`."""
    whole = Path(os.path.expanduser(path))
    if os.path.exists(whole):
        return whole, None, None
    for mark in (":", ""):
        base, _, split = path.rpartition(mark) if mark else (path, "", "")
        for at in ("", "@"):
            root, _, config = base.rpartition(at) if at else (base, "", "")
            found = Path(os.path.expanduser(root))
            if root and os.path.isdir(found) and (split or config):
                return found, config or None, split or None
    return whole, None, None


def looks_like_hub_id(path: str) -> bool:
    """`owner/name`, `owner/name@config:split`: no suffix of a file, no local folder `owner`."""
    owner, slash, name = path.partition(":")[0].partition("@")[0].partition("/")
    plain = bool(slash) and owner not in ("", ".", "..", "~") and "/" not in name and name != ""
    globbed = set("*?[") & set(path)
    return plain and not globbed and not name.endswith(SUFFIXES) and not os.path.exists(owner)


def hub_id(path: str) -> str | None:
    """`owner/name` of a path on the hub, without configuration, split and file; None: local."""
    if local_files(path) or not looks_like_hub_id(path):
        return None
    return path.partition(":")[0].partition("@")[0]


def matching(pattern: str) -> list[Path]:
    """The files that a pattern with `*`, `?` or `[...]` matches; none if it is no pattern."""
    if not set("*?[") & set(pattern):
        return []
    found = glob.glob(os.path.expanduser(pattern), recursive=True)
    return [Path(name) for name in sorted(found) if os.path.isfile(name)]


def local_files(path: str) -> list[Path]:
    """The file or folder, or the files that a pattern matches; none behind a hub id."""
    local = split_path(path)[0]
    return [local] if os.path.exists(local) else matching(path)


def data_files(directory: Path) -> tuple[list[Path], list[Path]]:
    """The data files in a folder at any depth, and the other files; hidden ones are neither.

    Raises:
        UserError: the folder cannot be read, or holds the same name in two containers.
    """
    if not os.access(directory, os.R_OK | os.X_OK):
        raise UserError(f"data.path={directory}: no permission to read this folder.")
    files: list[Path] = []
    others: list[Path] = []
    for file in sorted(_visible(directory)):
        is_data = container_of(file) is not None and file.name not in _DESCRIPTIONS
        (files if is_data else others).append(file)
    stems: dict[Path, Path] = {}
    for file in files:
        one = stems.setdefault(file.with_name(file.name.partition(".")[0]), file)
        if one is not file and _base(one) == _base(file):
            raise UserError(
                f"data.path={directory} has {one.name} and {file.name}, perhaps the same rows: "
                f"name the one to read (data.path={one}), or both (data.path=[{one},{file}])."
            )
    return files, others


def missing(path: str, key: str = "data.path") -> UserError:
    """The error for a path that does not exist, with names that are near."""
    scheme, mark, rest = path.partition("://")
    if mark:
        owner, _, name = rest.removeprefix("datasets/").partition("/")
        hub = f", or say {key}={owner}/{name.replace('/', ':', 1)}" if scheme == "hf" else ""
        return UserError(f"{key}={path} is an address: download it, and give its path{hub}.")
    return UserError(f"{key}={path}: there is no such file{nearby(path)}.")


def nearby(path: str) -> str:
    """What is near a path that does not exist."""
    file = Path(os.path.expanduser(path))
    parent, name = file.parent, file.name
    while not os.path.exists(parent) and parent != parent.parent:
        parent, name = parent.parent, parent.name
    try:
        names = os.listdir(parent)
    except OSError:
        return ""
    lower = {one.lower(): one for one in names}
    stems = {one.lower().partition(".")[0]: one for one in names}
    low = name.lower()
    close = difflib.get_close_matches(low, lower, n=3) or [
        stems[stem].lower() for stem in [low.partition(".")[0]] if stem in stems
    ]
    if close:
        return f"; did you mean {' or '.join(str(parent / lower[one]) for one in close)}?"
    absent = "" if parent == file.parent else f" (nor a folder {file.parent})"
    some = ", ".join(sorted(n for n in names if container_of(Path(n)))[:3])
    return absent or f" in {parent.resolve()}" + (f", which has {some}" if some else "")


def common_folder(files: Sequence[Path]) -> Path:
    """The deepest folder that holds all these files."""
    return Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))


def _base(file: Path) -> str:
    """The name without the suffixes of its container and compression."""
    name = file.name.lower()
    return name[: name.rindex(container_of(file) or "")]


def _visible(directory: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(directory):
        folders[:] = [f for f in folders if not f.startswith((".", "__"))]
        yield from (Path(root, name) for name in names if not name.startswith("."))
