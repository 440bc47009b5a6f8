"""Directories of the cache, built atomically and once, also by concurrent processes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from rmexp.core.atomic_file import replace_directory


@contextmanager
def build_once(home: Path, part: str) -> Iterator[Path | None]:
    """Yield a folder that is renamed to `home` at the end, or None if `home` exists.

    One of several concurrent processes writes and the others wait. After an error or a kill no
    partial `home` remains.

    Args:
        part: name of a file whose presence means that `home` is complete.
    """
    if (home / part).is_file():
        yield None
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock", mode=0o664):  # a group may share the cache
        if (home / part).is_file():
            yield None
            return
        with replace_directory(home) as folder:
            yield folder
