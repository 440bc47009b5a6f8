"""Directories of the cache: built atomically and once, also by concurrent processes."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from rmexp.core.atomic_file import replace_directory
from rmexp.core.disk_errors import raise_disk_full, raise_unwritable
from rmexp.core.errors import note_fallback

T = TypeVar("T")

FIX = "give another directory with cache=DIRECTORY or the environment variable RMEXP_CACHE"


def load_or_build(
    home: Path, load: Callable[[Path], T], build: Callable[[Path], None]
) -> tuple[T, bool]:
    """Load the directory `home` of the cache, after building it if needed.

    One of several concurrent processes builds and the others wait. After an error or a kill no
    partial `home` remains.

    Args:
        load: raises any error if the directory is broken; it is built again then, with a note.
        build: fills the directory that is passed to it.

    Returns:
        What `load` returns, and whether the directory existed.

    Raises:
        UserError: the cache cannot be written.
        DiskFull: its disk is full.
    """
    with suppress(Exception):  # missing or broken: under the lock this is decided again
        return load(home), True
    lock = FileLock(f"{home}.lock", mode=0o664)  # a group may share the cache
    with raise_unwritable(home.parent, FIX):
        home.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        try:
            return load(home), True
        except Exception as error:
            if home.exists():
                note_fallback(f"{home} in the cache is broken ({error!r:.150}) and built again.")
        with raise_disk_full(home.parent, FIX), replace_directory(home) as folder:
            build(folder)
    finally:
        lock.release()
    return load(home), False
