"""Files and directories that are written whole or not at all."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".writing-"
"""Before the name of what is being written."""


@contextmanager
def replace_file(file: Path) -> Iterator[Path]:
    """Yield a path beside `file` to write to, which replaces it at the end.

    On an error, `file` stays as it was.
    """
    temporary = file.with_name(f"{ASIDE}{file.name}")
    try:
        yield temporary
        os.replace(temporary, file)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replace_directory(home: Path) -> Iterator[Path]:
    """Yield an empty directory beside `home`, which replaces it at the end.

    On an error, `home` stays as it was.
    """
    temporary = home.with_name(f"{ASIDE}{home.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed process
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(home, ignore_errors=True)
        os.replace(temporary, home)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
