"""Memory of this process: how much it took, and what it need not keep."""

import ctypes
import resource

import torch


def peak_memory_gib() -> float:
    """Largest resident memory of this process so far, and of the accelerator where there is one."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def trim_heap() -> None:
    """Give freed memory back to the system: glibc keeps it, in pieces that fit the work that is
    done and not the one to come. Where there is another C library, nothing is done."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
