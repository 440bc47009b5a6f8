"""Directories of the cache: made once, whole or not at all, whoever wants them at once."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def build_once(home: Path, part: str) -> Iterator[Path | None]:
    """Gives a folder to write into, which becomes `home` at the end; None where `home` is there.

    Of processes that come at once one writes, and the others wait for it. What an error or a kill
    left half-written is never `home`.

    Args:
        part: a file that tells that `home` is there.
    """
    if (home / part).is_file():
        yield None
        return
    home.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{home}.lock"):
        if (home / part).is_file():
            yield None
            return
        folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=home.parent))
        try:
            yield folder
            shutil.rmtree(home, ignore_errors=True)
            folder.rename(home)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
