"""Limits on what a chat template may use: it comes with a model, from anyone."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import psutil

from rmexp.core.errors import UserError

MAX_SECONDS = 10.0
"""CPU time of one dialogue, which takes milliseconds; a busy machine does not count."""

MAX_MEMORY = 4 << 30
"""Bytes that the dialogues which try out a template may add to this process."""

MAX_SOURCE = 1 << 20
"""Characters of a template."""

MAX_TEXT = 1 << 24
"""Characters of a rendered dialogue."""


@contextlib.contextmanager
def limited_time() -> Iterator[None]:
    """Stop the block after `MAX_SECONDS`; in the main thread alone, as other threads get no signal.

    Raises:
        UserError: it took longer.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise UserError(f"it takes more than {MAX_SECONDS:g} s for one dialogue")

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, MAX_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


@contextlib.contextmanager
def limited_memory() -> Iterator[None]:
    """Let an allocation beyond `MAX_MEMORY` more bytes fail with MemoryError (on Linux)."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = psutil.Process().memory_info().vms + MAX_MEMORY
    if soft == resource.RLIM_INFINITY or limit < soft:
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
