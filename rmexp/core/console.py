"""Output on the terminal while a run works."""

import os
import time
from pathlib import Path

from rich.console import Console

PLAIN_SECONDS = 10.0
"""Between two lines of a count where output is no terminal."""


class Reporter:
    """Prints progress and results; the jobs of a sweep that run in one process share it.

    Args:
        mark: printed before each line where several processes share a terminal (no live bar then).
        quiet: print nothing.
    """

    def __init__(self, mark: str = "", quiet: bool = False) -> None:
        terminal = False if mark else None  # None: detect
        self.console = Console(
            highlight=False, soft_wrap=True, force_terminal=terminal, quiet=quiet
        )
        self.mark = mark
        self._last_count = 0.0
        self._printed: set[str] = set()

    def say(self, *lines: str) -> None:
        """Print lines without markup."""
        for line in lines:
            self.console.print(self.mark + line if line else line, markup=False)

    def say_once(self, *lines: str) -> None:
        """Print the lines that were not printed before by this method."""
        self.say(*(line for line in lines if line not in self._printed))
        self._printed.update(lines)

    def count(self, what: str, number: int) -> None:
        """Print a growing count: in place in a terminal, every few seconds elsewhere."""
        if self.console.is_terminal:
            self.console.print(f"{number} {what}", end="\r", markup=False)
        elif time.monotonic() - self._last_count > PLAIN_SECONDS:
            self._last_count = time.monotonic()
            self.say(f"{number} {what}")


def relative_path(path: Path) -> str:
    """A path as a user in this directory would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
