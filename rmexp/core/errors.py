"""Errors of users, and recorded fallbacks."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar


class UserError(Exception):
    """A mistake of the user: one sentence that names the thing, the place and the fix.

    `python -m rmexp` prints it without a traceback and exits with 1.
    """


class PeerProcessLost(UserError):
    """Another process of the run ended; its own message has the reason."""


class DiskFull(BaseException):
    """The disk is full. Not an `Exception`, because it ends a sweep too."""


_recorder: ContextVar[Callable[[str], None] | None] = ContextVar("recorder", default=None)


def note_fallback(sentence: str) -> None:
    """Report that rmexp uses a fallback in place of the requested or best method.

    In a run the sentence is printed and recorded in `result.json`; elsewhere it is a warning.
    """
    if (record := _recorder.get()) is not None:
        record(sentence)
    else:
        warnings.warn(sentence, UserWarning, stacklevel=3)


@contextmanager
def collect_fallbacks(record: Callable[[str], None]) -> Iterator[None]:
    """Pass the sentences of `note_fallback` to `record` instead of `warnings`."""
    token = _recorder.set(record)
    try:
        yield
    finally:
        _recorder.reset(token)
