"""A sweep's jobs in other processes, here or on other machines: what those need to know.

A launcher brings Hydra's context and the task to a worker. Both are wrapped: the worker first
becomes like the process that sweeps (directory, import path, resolvers), and ends as that expects.
"""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rmexp.config.schema import register
from rmexp.core.errors import DiskFull, UserError
from rmexp.runner import entry
from rmexp.runner.launch import end_with_parent

Task = Callable[[DictConfig], Any]


@dataclass(frozen=True)
class WorkerEnv:
    """Where the sweep's command was given: its directory, import path, words, and process."""

    folder: str
    path: tuple[str, ...]
    words: tuple[str, ...]
    pid: int

    @classmethod
    def here(cls) -> "WorkerEnv":
        """That of this process."""
        return cls(os.getcwd(), tuple(sys.path), tuple(sys.argv), os.getpid())

    def enter(self) -> None:
        """Make a worker like the process that sweeps; again and again, if it does many jobs.

        Raises:
            UserError: this machine does not see the sweep's directory.
        """
        entry.one_of_many = True
        try:
            os.chdir(self.folder)
        except OSError:
            raise UserError(
                f"{socket.gethostname()} has no {self.folder}: all machines of a sweep must see "
                "the same files."
            ) from None
        sys.path[:] = dict.fromkeys([*self.path, *sys.path])
        sys.argv[:] = self.words
        register()
        _leave_nobody(self.pid)


_watching: set[int] = set()


def _leave_nobody(pid: int) -> None:
    """Where that process started this one: a killed sweep takes its workers along, so that the next
    one finds nobody at work."""
    if os.getppid() == pid and pid not in _watching:
        _watching.add(pid)
        end_with_parent(pid)


class Loader:
    """Hydra's loader as a worker needs it: what it composes may need our resolvers.

    Args:
        loader: the one that it stands for.
        place: where the sweep's command was given.
    """

    def __init__(self, loader: Any, place: WorkerEnv) -> None:
        self.loader, self.place = loader, place

    def load_sweep_config(self, master: DictConfig, overrides: list[str]) -> DictConfig:
        """The configuration of one job of the sweep."""
        self.place.enter()
        config: DictConfig = self.loader.load_sweep_config(master, overrides)
        return config


@dataclass(frozen=True)
class WorkerTask:
    """The task in a worker: a full disk is told to the process that sweeps, as a value, for engines
    carry only what Python calls an Exception."""

    task: Task

    def __call__(self, config: DictConfig) -> Any:
        """Do one job."""
        try:
            with _time_limit():
                return self.task(config)
        except DiskFull as error:
            return error


@contextmanager
def _time_limit() -> Iterator[None]:
    """A job whose time is up (submitit sends a signal before) saves after the step at work, as at
    Ctrl-C, and only then is put into the queue again."""
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    requeue: Any = signal.getsignal(number)
    if not callable(requeue) or threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def stop(signum: int, frame: Any) -> None:
        told.append(signum)
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        if told:
            requeue(number, None)  # ends this process
        raise
    finally:
        signal.signal(number, requeue)


@dataclass(frozen=True)
class GroupedTask:
    """The task where some jobs are groups: all jobs of a group are then done in one process.

    Args:
        task: does one job.
        groups: directory of the job that stands for a group -> its `sweep.grouped.Group`.
    """

    task: Task
    groups: Mapping[str, Any]

    def __call__(self, config: DictConfig) -> Any:
        """Do one job, or the group that it stands for."""
        from rmexp.core.console import Reporter

        hydra_config: Any = HydraConfig.get()
        group = self.groups.get(Path(hydra_config.runtime.output_dir).name)
        if group is None:
            return self.task(config)
        # Its heads have most lines in common; each says its own under its own mark.
        group.run(entry.reporter or Reporter("group| "), entry.one_of_many)
        return None


def check_returns(returns: Sequence[Any]) -> None:
    """What jobs in workers came back with.

    Raises:
        DiskFull: for one of them the disk was full.
    """
    for one in returns:
        if isinstance(one._return_value, DiskFull):
            raise one._return_value
