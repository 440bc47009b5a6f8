"""Python's search for garbage in cycles, which slows down what makes many objects and no cycles."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def without_search() -> Iterator[None]:
    """In the block, cycles that nothing refers to stay in memory (such as errors leave)."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
