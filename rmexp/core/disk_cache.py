"""Directories of the cache: built atomically and once, also by concurrent processes."""

import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout

from rmexp.core.atomic_file import ASIDE, replace_directory
from rmexp.core.disk_errors import raise_disk_full, raise_unwritable
from rmexp.core.errors import note_fallback

T = TypeVar("T")

FIX = "give another directory with cache=DIRECTORY or the environment variable RMEXP_CACHE"


def load_or_build(
    home: Path, load: Callable[[Path], T], build: Callable[[Path], None]
) -> tuple[T, bool]:
    """Load the directory `home` of the cache, after building it if needed.

    One of several concurrent processes builds and the others wait. After an error or a kill no
    partial `home` remains; what a killed process left beside it goes with the next build. The time
    of a directory is that of its last use.

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
        found = load(home)
        with suppress(OSError):  # of another user
            os.utime(home)
        return found, True
    for aside in home.parent.glob(f"{ASIDE}*"):
        _remove(aside, home.with_name(aside.name.removeprefix(ASIDE)))
    lock = _lock(home)
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


def remove_oldest(folder: Path, limit: int) -> None:
    """Remove the directories of the cache in `folder` that were used longest ago, down to a size.

    What another process builds stays. A process that has opened a directory still reads its files.

    Args:
        limit: bytes that all together may have.
    """
    used = []
    for home in folder.iterdir():
        if home.is_dir() and home.name[:1] != ".":
            with suppress(FileNotFoundError):  # another process removes it too
                used.append((home.stat().st_mtime, directory_bytes(home), home))
    used.sort()
    total = sum(size for _, size, _ in used)
    for _, size, home in used:
        if total <= limit:
            return
        if _remove(home, home):
            total -= size


def directory_bytes(folder: Path) -> int:
    """The size of all files in a directory."""
    total = 0
    for file in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.is_file() else 0
    return total


def _remove(directory: Path, home: Path) -> bool:
    """Remove a directory, unless a process builds `home`."""
    lock = _lock(home)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return False
    try:
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        lock.release()
    return not directory.exists()


def _lock(home: Path) -> FileLock:
    return FileLock(f"{home}.lock", mode=0o664)  # a group may share the cache
