"""How rmexp says that something is not right: stop, or go on and say so."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """A mistake that the person can mend: one sentence naming the thing, the place and the mend.

    `python -m rmexp` prints the sentence without a traceback and exits with 1.
    """


class PeerProcessLost(UserError):
    """Another process of the run is gone; what it said itself is the reason."""


class DiskFull(BaseException):
    """The disk is full: nothing further can be written, so that a sweep ends here as well."""


_recorders: list[Callable[[str], None]] = []


def note_fallback(sentence: str) -> None:
    """Say that rmexp goes on in another way than asked for, or than is best.

    Inside a run the sentence is printed and recorded in `result.json`; elsewhere it is a warning.
    """
    if _recorders:
        _recorders[-1](sentence)
    else:
        warnings.warn(sentence, UserWarning, stacklevel=3)


@contextmanager
def collect_fallbacks(record: Callable[[str], None]) -> Iterator[None]:
    """Hand every `fallback` sentence to `record`, and not to `warnings`."""
    _recorders.append(record)
    try:
        yield
    finally:
        _recorders.pop()
