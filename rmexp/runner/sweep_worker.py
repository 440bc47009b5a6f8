"""What a worker of a sweep does: here or on another machine, in a process of an engine's."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rmexp.config.schema import register
from rmexp.core.console import Reporter
from rmexp.core.errors import DiskFull, UserError
from rmexp.runner.job import run_work
from rmexp.runner.job_spec import JobSpec, WorkItem
from rmexp.runner.launch import end_with_parent


@dataclass(frozen=True)
class WorkerEnv:
    """The process of the sweep's command: working directory, import path and arguments.

    Attributes:
        parent: its id, where workers are its children and end with it; None where they outlive it.
    """

    folder: str
    path: tuple[str, ...]
    command: tuple[str, ...]
    parent: int | None

    @classmethod
    def here(cls, children: bool) -> "WorkerEnv":
        """Of this process."""
        parent = os.getpid() if children else None
        return cls(os.getcwd(), tuple(sys.path), tuple(sys.argv), parent)

    def enter(self) -> None:
        """Set a worker up alike; it may do so for each of its jobs.

        Raises:
            UserError: this machine does not see the working directory.
        """
        try:
            os.chdir(self.folder)
        except OSError:
            raise UserError(
                f"{socket.gethostname()} has no {self.folder}: all machines of a sweep must see "
                "the same files."
            ) from None
        sys.path[:] = dict.fromkeys([*self.path, *sys.path])
        sys.argv[:] = self.command  # recorded in environment.json
        register()
        if self.parent is not None:
            end_with_parent(self.parent)


def run_in_worker(env: WorkerEnv, item: WorkItem) -> float | DiskFull | None:
    """Run a job or a group in a worker; engines find this function by its name.

    Returns:
        See `job.run_work`; DiskFull as a value, as engines transport only Exceptions.
    """
    env.enter()
    mark = f"{item.number}| " if isinstance(item, JobSpec) else "group| "
    try:
        with _time_limit():
            return run_work(item, Reporter(mark), marked=True)
    except DiskFull as error:
        return error


@contextmanager
def _time_limit() -> Iterator[None]:
    """Let a job whose time is up save its state before submitit queues it again.

    submitit signals the end of the time limit; the job then stops after the current step, as at
    Ctrl-C.
    """
    number = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    requeue: Any = signal.getsignal(number)
    if not callable(requeue) or threading.current_thread() is not threading.main_thread():
        yield
        return
    signalled = threading.Event()

    def stop(signum: int, frame: Any) -> None:
        signalled.set()
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(signal.SIGINT, frame)

    signal.signal(number, stop)
    try:
        yield
    except KeyboardInterrupt:
        if signalled.is_set():
            requeue(number, None)  # ends this process
        raise
    finally:
        signal.signal(number, requeue)
