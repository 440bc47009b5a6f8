"""Output on the terminal while a run works."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.segment import Segment

from rmexp.core.streams import discard_stdout, escape_unencodable, printable

PLAIN_SECONDS = 10.0
"""Between two lines of a count where output is no terminal."""


class PlainConsole(Console):
    """A console on which texts are only texts: no markup, and no control characters."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, *args: Any, **kwargs: Any) -> Iterator[Segment]:  # type: ignore[override]
        """Segments of a text or table; rich's own controls stay, and the end of a count."""
        for text, style, control in super().render(*args, **kwargs):
            yield Segment(text if control or text == "\r" else printable(text), style, control)

    def on_broken_pipe(self) -> None:
        """Print what follows to nowhere: the process does not end with the reader of its pipe."""
        discard_stdout()


class Reporter:
    """Prints progress and results; the jobs of a sweep that run in one process share it.

    Args:
        mark: printed before each line where several processes share a terminal (no live bar then).
        quiet: print nothing.
    """

    def __init__(self, mark: str = "", quiet: bool = False) -> None:
        terminal = False if mark else None  # None: detect
        escape_unencodable()
        self.console = PlainConsole(soft_wrap=True, force_terminal=terminal, quiet=quiet)
        self.mark = mark
        self._last_count = 0.0
        self._printed: set[str] = set()

    def say(self, *lines: str) -> None:
        """Print lines."""
        for line in lines:
            self.console.print(self.mark + line if line else line)

    def say_once(self, *lines: str) -> None:
        """Print the lines that were not printed before by this method."""
        self.say(*(line for line in lines if line not in self._printed))
        self._printed.update(lines)

    def count(self, what: str, number: int) -> None:
        """Print a growing count: in place in a terminal, every few seconds elsewhere."""
        if self.console.is_terminal:
            self.console.print(f"{number} {what}", end="\r")
        elif time.monotonic() - self._last_count > PLAIN_SECONDS:
            self._last_count = time.monotonic()
            self.say(f"{number} {what}")


def relative_path(path: Path) -> str:
    """A path as a user in this directory would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def format_bytes(size: float) -> str:
    """A size in the largest unit of KiB, MiB and GiB that it fills, with one decimal."""
    for exponent, unit in ((30, "GiB"), (20, "MiB")):
        if size >= 2**exponent:
            return f"{size / 2**exponent:,.1f} {unit}"
    return f"{size / 2**10:,.1f} KiB"


def format_duration(seconds: float) -> str:
    """Seconds, minutes or hours, with about two digits."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
