"""Memory of this process and of its devices, and returning freed memory to the system."""

import ctypes
import resource
from pathlib import Path

import torch

from rmexp.core.errors import UserError

CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


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


def resident_bytes() -> int:
    """Resident memory of this process now."""
    return int(Path("/proc/self/statm").read_bytes().split()[1]) * resource.getpagesize()


def device_memory(gpu: bool, sharing: int) -> float:
    """Bytes of this machine's GPU, or of its memory for each of `sharing` processes.

    Raises:
        UserError: this machine has no GPU.
    """
    if gpu:
        if not torch.cuda.is_available():
            raise UserError(
                "This machine has no GPU to ask for its memory: give task.memory_gib=NUMBER."
            )
        return float(torch.cuda.get_device_properties(0).total_memory)
    lines = dict(line.split(b":") for line in Path("/proc/meminfo").read_bytes().splitlines())
    total = float(lines[b"MemTotal"].split()[0]) * 1024
    for name in CGROUP_LIMITS:
        if Path(name).is_file() and (text := Path(name).read_bytes().strip()).isdigit():
            total = min(total, float(text))
    return total / sharing
