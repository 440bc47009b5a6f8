"""The standard streams: any text on any terminal, also once its reader is gone."""

import io
import os
import re
import sys

CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a terminal obeys: escape sequences, and changes of the writing direction."""


def printable(text: str) -> str:
    """The text with `\\x1b` in place of an escape, lest texts of rows drive the terminal."""
    return CONTROLS.sub(lambda found: ascii(found[0])[1:-1], text)


def print_error(text: str) -> None:
    """Print to stderr, also text that is part of the data."""
    print(printable(text), file=sys.stderr, flush=True)


def escape_unencodable() -> None:
    """Let stdout escape what its encoding lacks (on an ASCII terminal) instead of failing."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def discard_stdout() -> None:
    """Write what follows to nowhere: the reader of the pipe has closed it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def restart_in_utf8() -> None:
    """Restart Python in UTF-8 mode where the locale is ASCII.

    Otherwise, libraries read and write files in ASCII, and arguments and paths have surrogates.
    """
    if sys.getfilesystemencoding() == "ascii":
        command = [sys.executable, "-X", "utf8", *sys.orig_argv[1:]]
        os.execve(sys.executable, command, os.environ | {"PYTHONUTF8": "1"})
