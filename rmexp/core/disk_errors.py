"""Errors of directories that cannot be written, as a sentence with the path and the fix."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rmexp.core.console import relative_path
from rmexp.core.errors import DiskFull, UserError


def is_disk_full(error: BaseException | None) -> bool:
    """Whether a disk without space is the cause; libraries wrap the error in others."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and (
        full or "No space left on device" in str(error) or is_disk_full(error.__cause__)
    )


@contextmanager
def raise_disk_full(path: Path, fix: str = "free some space") -> Iterator[None]:
    """Raise errors of a full disk as `DiskFull`, which names the path and the fix."""
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            raise DiskFull(f"The disk of {relative_path(path)} is full: {fix}.") from error
        raise


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
        with raise_disk_full(path, f"free some space, or {fix}"):
            yield
    except TimeoutError:  # of a lock that another process has
        raise
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        raise UserError(f"{path} cannot be written ({reason}): {fix}.") from error
