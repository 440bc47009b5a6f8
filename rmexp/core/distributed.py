"""The processes of one run on several devices: rank, world size and collectives.

A launcher (rmexp's own, torchrun or srun) starts every process with its rank in the environment;
only rank 0 writes and prints. In a run of one process all functions are no-ops.
"""

import contextlib
import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

COLLECTIVE_TIMEOUT = datetime.timedelta(hours=12)
"""Timeout of a collective, long enough for tokenising; launchers end peers of a dead process."""

QUIET_ENVIRONMENT = {"TORCH_CPP_LOG_LEVEL": "ERROR"}
"""Set before importing torch: DDP would warn in each process about its search for parameters
without gradient, which some models have."""

PEER_LOSS_MESSAGES = ("gloo", "NCCL", "Connection closed", "Connection reset", "Broken pipe")
"""Parts of the messages of a collective that failed because a peer is gone."""


@dataclass(frozen=True)
class LauncherEnv:
    """Rank of this process among `size`, and on its machine."""

    rank: int
    local_rank: int
    size: int


def launcher_env() -> LauncherEnv | None:
    """Read from the environment variables; None without a launcher."""
    known = os.environ
    if "TORCHELASTIC_RUN_ID" in known:  # torchrun, and what `launch` does
        return LauncherEnv(*(int(known[name]) for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")))
    # SLURM_NTASKS is of the allocation too: in a batch script, or the shell of `salloc -n 8`.
    if int(known.get("SLURM_STEP_NUM_TASKS", 1)) > 1:
        names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS")
        return LauncherEnv(*(int(known[name]) for name in names))
    return None


def cluster_environment() -> Any:
    """Lightning's cluster environment; None without a launcher."""
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    if launcher_env() is None:
        return None
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return TorchElasticEnvironment()
    return SLURMEnvironment(auto_requeue=False)


def init_process_group(gpu: bool) -> None:
    """Join the process group, and select this process's GPU.

    gloo carries CPU tensors and objects, NCCL tensors on GPUs.
    """
    import torch

    here, known = launcher_env(), cluster_environment()
    assert here is not None, "no launcher started this process"
    if torch.distributed.is_initialized():
        return
    if gpu:
        torch.cuda.set_device(here.local_rank)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // _on_this_machine(here)))
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = known.main_address, str(known.main_port)
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        rank=here.rank,
        world_size=here.size,
        timeout=COLLECTIVE_TIMEOUT,
    )


def _on_this_machine(here: LauncherEnv) -> int:
    names = ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE")
    return next((int(os.environ[name]) for name in names if name in os.environ), here.size)


def world_size() -> int:
    """Number of processes of this run."""
    import torch

    joined = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if joined else 1


def rank() -> int:
    import torch

    return torch.distributed.get_rank() if world_size() > 1 else 0


def is_rank_zero() -> bool:
    return rank() == 0


def all_gather_object(value: Any) -> list[Any]:
    """The values of all processes, by rank; a collective."""
    import torch

    if world_size() == 1:
        return [value]
    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def all_gather_numbers(values: Sequence[float]) -> list[list[float]]:
    """The numbers of all processes, as many of each, by rank; a collective that pickles nothing."""
    import torch

    if world_size() == 1:
        return [list(values)]
    own = torch.tensor(values, dtype=torch.float64)
    found = [torch.empty_like(own) for _ in range(world_size())]
    torch.distributed.all_gather(found, own)
    return [one.tolist() for one in found]


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process; a collective."""
    return any(found for (found,) in all_gather_numbers([flag]))


def broadcast_from_rank0(value: Any) -> Any:
    """The value of rank 0; a collective."""
    import torch

    if world_size() == 1:
        return value
    found = [value]
    torch.distributed.broadcast_object_list(found, src=0)
    return found[0]


def all_reduce_sum(tensor: Any) -> Any:
    """The sum of a tensor over all processes, in place; a collective."""
    import torch

    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def is_peer_loss(error: BaseException) -> bool:
    """Whether a collective failed because a peer is gone, by the backend's message."""
    return world_size() > 1 and any(word in str(error) for word in PEER_LOSS_MESSAGES)


@contextlib.contextmanager
def local_rank_zero_first() -> Iterator[None]:
    """Run the block on local rank 0 first; the other processes then find its results cached."""
    here = launcher_env() if world_size() > 1 else None
    if here is not None and here.local_rank:
        all_gather_object(None)
    yield
    if here is not None and not here.local_rank:
        all_gather_object(None)
