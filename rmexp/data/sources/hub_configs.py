"""Configurations of a clone of a hub data set: its README.md names the files of each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rmexp.core.errors import UserError


def configurations(directory: Path) -> dict[str, Mapping[str, Any]]:
    """Configuration -> its entry in the front matter of README.md; none without one."""
    readme = directory / "README.md"
    if not readme.is_file():
        return {}
    text = readme.read_text(encoding="utf-8", errors="replace")
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text[3:].partition("\n---")[0])
    except yaml.YAMLError:
        return {}
    entries = head.get("configs") if isinstance(head, dict) else None
    return {
        str(entry.get("config_name", "default")): entry
        for entry in entries or ()
        if isinstance(entry, dict) and ("data_files" in entry or "data_dir" in entry)
    }


def chosen_configuration(
    directory: Path, known: Mapping[str, Mapping[str, Any]], name: str | None
) -> str | None:
    """The configuration to read; None: there is none.

    Raises:
        UserError: there are several and none is chosen, or it is not among them.
    """
    if name is None:
        default = [n for n, entry in known.items() if n == "default" or entry.get("default")]
        if len(known) < 2 or default:
            return next(iter(default or known), None)
    elif name in known:
        return name
    listed = ", ".join(known) or "none"
    example = f"data.path={directory}@{next(iter(known), 'NAME')}"
    what = f"no configuration {name}" if name else "several configurations"
    raise UserError(f"data.path={directory} has {what} ({listed}): choose one, {example}.")


def files_of_configuration(
    directory: Path, name: str, entry: Mapping[str, Any]
) -> list[tuple[str | None, Path]]:
    """Split and path of the files that a configuration names.

    Raises:
        UserError: it names a file that is not there.
    """
    root = directory / str(entry.get("data_dir", "."))
    files = entry["data_files"]
    if isinstance(files, Mapping):
        files = [{"split": split, "path": path} for split, path in files.items()]
    elif isinstance(files, str) or not all(isinstance(part, Mapping) for part in files):
        files = [{"split": None, "path": files}]
    found: list[tuple[str | None, Path]] = []
    for part in files:
        patterns = part.get("path", "")
        for pattern in [patterns] if isinstance(patterns, str) else patterns:
            if not (matched := _matching(root, str(pattern))):
                raise UserError(
                    f"data.path={directory}: README.md's configuration {name} names {pattern}, "
                    "and there is no such file."
                )
            split = part.get("split")
            found += [(None if split is None else str(split), file) for file in matched]
    return list(dict.fromkeys(found))


def _matching(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(file for file in root.glob(pattern) if file.is_file())
    except (ValueError, NotImplementedError):  # empty, absolute
        return []
