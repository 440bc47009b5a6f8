"""Starts the processes of a run on several devices of this machine, with torchrun's launcher.

This process does not train, so that every job of a sweep gets clean processes.
"""

import contextlib
import logging
import os
import pickle
import signal
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rmexp.core import distributed
from rmexp.core.errors import DiskFull, UserError
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_directory import RunDirectory

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""torch's launcher replaces the handlers of these signals, and does not restore them."""

KNOWN_FAILURES = ("UserError", "PeerProcessLost")
"""Errors whose message is meant for users."""


def launch_processes(job: JobSpec, run: Path, processes: int, mark: str = "") -> None:
    """Run a job in several processes, each `python -m rmexp.runner.worker`, and wait for them.

    A process that fails ends the others within seconds, or half a minute if they do not respond.

    Args:
        job: with its directory claimed.
        run: that directory.
        processes: their number.
        mark: printed before their lines where jobs run in parallel; the processes then share the
            threads of the job.

    Raises:
        UserError: the process that failed first, and why; `result.json` has it too.
        DiskFull: a process could not write.
        KeyboardInterrupt: on Ctrl-C, after the processes have ended.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= distributed.QUIET_ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder, _signals_restored(), _threads(mark, processes):
        file = Path(folder) / "job"
        file.write_bytes(pickle.dumps((os.getpid(), job, sys.argv, mark)))
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "rmexp.runner.worker", str(file))
        except ChildFailedError as error:
            _explain(error.failures, run, processes)
        except SignalException as stopped:
            raise KeyboardInterrupt from stopped


def end_with_parent(parent: int) -> None:
    """End this process when its parent is killed, or was before this; may be called again.

    Args:
        parent: the parent's process id, as the parent knows it: `os.getppid()` is another
            process's once the parent is dead.
    """
    name = "rmexp: end with parent"
    if any(thread.name == name for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, name=name, daemon=True).start()


@contextlib.contextmanager
def _threads(mark: str, processes: int) -> Iterator[None]:
    """Divide the threads of one of several parallel jobs among its processes."""
    share = os.environ.get("OMP_NUM_THREADS")
    if mark and share is not None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(share) // processes))
    try:
        yield
    finally:
        if share is not None:
            os.environ["OMP_NUM_THREADS"] = share


@contextlib.contextmanager
def _signals_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not the main thread: nothing was replaced
            for number, handler in before.items():
                signal.signal(number, handler)


def _explain(failures: dict[int, ProcessFailure], run: Path, processes: int) -> None:
    """Raise the error of the process that failed first, and record it if rank 0 could not."""
    errors = {rank: _parse(failure) for rank, failure in failures.items()}
    rank = min(errors, key=lambda r: (_consequence(*errors[r][:2]), failures[r].timestamp))
    kind, text, trace = errors[rank]
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if kind == "DiskFull":
        raise DiskFull(text)
    directory = RunDirectory.reopen(run)
    sentence = text if kind in KNOWN_FAILURES else f"Process {rank} of {processes}: {kind}: {text}"
    if kind == "died":
        sentence = f"Process {rank} of {processes} died ({text}), and the others were ended."
    if directory.result.get("error") == f"{kind}: {text}":  # all processes failed alike
        sentence = directory.result["error"]
    if trace:
        (run / "error.txt").write_text(trace, encoding="utf-8")
    # One that was killed may resume, as a dead one in a sweep.
    directory.finish("failed", error=sentence, interrupted=kind == "died")
    where = f" (traceback: {run}/error.txt)" if trace and kind != "UserError" else ""
    raise UserError(sentence + where)


def _consequence(kind: str, text: str) -> int:
    """0 for a cause; higher for what follows from it, often within the second that is recorded."""
    if kind == "PeerProcessLost":
        return 2
    ended = kind == "KeyboardInterrupt" or (kind, text) == ("died", "SIGTERM")  # by the launcher
    return int(ended)


def _parse(failure: ProcessFailure) -> tuple[str, str, str]:
    """Kind of error, its first line, traceback; of a killed process, its signal."""
    if not isinstance(failure.message, dict):
        if failure.exitcode < 0:
            return "died", failure.signal_name(), ""
        return "died", f"exit code {failure.exitcode}", ""
    kind, _, text = failure.message["message"].partition(": ")
    line = next((line for line in text.splitlines() if line.strip()), "")
    return kind, text if kind == "UserError" else line, failure.message["extraInfo"]["py_callstack"]
