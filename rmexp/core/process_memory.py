"""Memory of this process: its peak, and returning freed memory to the system."""

import ctypes
import resource

import torch


def peak_memory_gib() -> float:
    """Peak memory of the GPU if there is one, else peak resident memory of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def trim_heap() -> None:
    """Return freed memory to the system, which glibc would keep; other C libraries do nothing."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
