"""What a person sees while a run works: a live bar in a terminal, else a line every few seconds."""

import time

from rich.console import Console

PLAIN_SECONDS = 10.0


class Reporter:
    """Says what is going on. One for a command, all jobs of a sweep's process share it.

    Args:
        mark: stands before each line, where several processes share a terminal (and no live bar).
        quiet: say nothing; of several processes of a run one speaks.
    """

    def __init__(self, mark: str = "", quiet: bool = False) -> None:
        terminal = False if mark else None  # None: as it is
        self.console = Console(
            highlight=False, soft_wrap=True, force_terminal=terminal, quiet=quiet
        )
        self.mark = mark
        self._said = 0.0
        self._known: set[str] = set()

    def say(self, *lines: str) -> None:
        """Print lines as they are."""
        for line in lines:
            self.console.print(self.mark + line if line else line, markup=False)

    def say_once(self, *lines: str) -> None:
        """Print those lines that were not said before: of a sweep's jobs, what is new in each."""
        self.say(*(line for line in lines if line not in self._known))
        self._known.update(lines)

    def count(self, what: str, number: int) -> None:
        """A count that goes up: over itself in a terminal, now and then elsewhere."""
        if self.console.is_terminal:
            self.console.print(f"{number} {what}", end="\r", markup=False)
        elif time.monotonic() - self._said > PLAIN_SECONDS:
            self._said = time.monotonic()
            self.say(f"{number} {what}")
