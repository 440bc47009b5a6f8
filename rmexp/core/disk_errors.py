"""Directories that cannot be written, or not enough: a sentence with the path and the fix."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmexp.core.console import format_bytes, relative_path
from rmexp.core.errors import DiskFull, UserError


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a disk without space is the cause; libraries wrap the error in others."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and (
        full or "No space left on device" in str(error) or is_disk_full(error.__cause__)
    )


@contextmanager
def raise_disk_full(path: Path, other_fix: str | None = None) -> Iterator[None]:
    """Raise errors of a full disk as `DiskFull`, which names the path and the fix.

    Args:
        other_fix: what helps other than to free space.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise _disk_full(path, other_fix) from error
        raise


def check_free_space(folder: Path, needed: int, whose: str, other_fix: str) -> str:
    """Check that a disk can hold what will be written.

    Args:
        folder: a directory on the disk.
        needed: maximum number of bytes.
        whose: who writes them, e.g. "the run".
        other_fix: what helps other than to free space.

    Returns:
        How much is needed and free.

    Raises:
        DiskFull: it cannot.
    """
    free = shutil.disk_usage(folder).free
    most, left = format_bytes(needed), f"{format_bytes(free)} are free"
    if free < needed:
        raise _disk_full(folder, f"{other_fix} ({whose} may need {most}, and {left})")
    return f"up to {most} in {relative_path(folder)}, {left}"


def _disk_full(path: Path, other_fix: str | None) -> DiskFull:
    fixes = ", or ".join(filter(None, ("free some space", other_fix)))
    return DiskFull(f"The disk of {relative_path(path)} is full: {fixes}.")


def check_writable(folder: Path, fix: str) -> None:
    """Make a folder and a file in it that is removed again, before work is done for it.

    Raises:
        UserError: neither is possible; names the folder and the fix.
    """
    with raise_unwritable(folder, fix):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


@contextmanager
def raise_unwritable(path: Path, fix: str) -> Iterator[None]:
    """Raise every `OSError` of the block as a sentence that names the path and the fix."""
    try:
        with raise_disk_full(path, fix):
            yield
    except TimeoutError:  # of a lock that another process has
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{path} cannot be written ({reason}): {fix}.") from error
