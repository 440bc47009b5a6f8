"""Starts the processes of a run on several devices of this machine, and says which one failed.

By torch's own launcher, torchrun's. What starts them is none of them: it trains nothing, so that
the jobs of a sweep meet a clean process each time, and only the job at hand is given on.
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
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from rmexp.core import distributed
from rmexp.core.errors import DiskFull, UserError
from rmexp.tracking.run_directory import RunDirectory

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
"""The launcher takes these for itself, and does not give them back."""


KNOWN_FAILURES = ("UserError", "PeerProcessLost")
"""Errors that are told in words of ours."""


def launch_processes(job: Any, run: Path, processes: int, mark: str = "") -> None:
    """Run a job in so many processes, each `python -m rmexp.runner.worker`, and wait for them.

    A process that fails ends the others: within seconds, or half a minute where they do not listen.

    Args:
        job: a `job.Job`, whose directory is claimed.
        run: that directory.
        mark: stands before what they say, where the job is one of many at work; its share of the
            machine's threads is then divided among them.

    Raises:
        UserError: the process that failed first, and why; `result.json` has it too.
        DiskFull: one of them could not write.
        KeyboardInterrupt: on Ctrl-C, once the processes have ended.
    """
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    os.environ |= distributed.QUIET_ENVIRONMENT
    with tempfile.TemporaryDirectory() as folder, _signals_kept(), _threads(mark, processes):
        file = Path(folder) / "job"
        file.write_bytes(pickle.dumps((job, sys.argv, mark)))
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
    """End this process with the one that started it: where that is killed, nobody stays at work."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _threads(mark: str, processes: int) -> Iterator[None]:
    """Within, the threads that a job of many may have are divided among its processes."""
    share = os.environ.get("OMP_NUM_THREADS")
    if mark and share is not None:
        os.environ["OMP_NUM_THREADS"] = str(max(1, int(share) // processes))
    try:
        yield
    finally:
        if share is not None:
            os.environ["OMP_NUM_THREADS"] = share


@contextlib.contextmanager
def _signals_kept() -> Iterator[None]:
    """Afterwards signals do what they did."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # not in the main thread: nothing was changed
            for number, handler in before.items():
                signal.signal(number, handler)


def _explain(failures: dict[int, ProcessFailure], run: Path, processes: int) -> None:
    """Raise what the process said that failed first, and record it where rank 0 could not."""
    said = {rank: _told(failure) for rank, failure in failures.items()}
    rank = min(said, key=lambda rank: (said[rank][0] == "LeftAlone", failures[rank].timestamp))
    kind, text, trace = said[rank]
    if kind == "KeyboardInterrupt":
        raise KeyboardInterrupt
    if kind == "DiskFull":
        raise DiskFull(text)
    directory = RunDirectory.reopen(run)
    sentence = text if kind in KNOWN_FAILURES else f"Process {rank} of {processes}: {kind}: {text}"
    if kind == "died":
        sentence = f"Process {rank} of {processes} died ({text}), and the others were ended."
    if directory.result.get("error") == f"{kind}: {text}":  # all met it, and rank 0 said so
        sentence = directory.result["error"]
    if trace:
        (run / "error.txt").write_text(trace)
    # One that was killed may go on, as a sweep does with one that is dead.
    directory.finish("failed", error=sentence, interrupted=kind == "died")
    where = f" (traceback: {run}/error.txt)" if trace and kind != "UserError" else ""
    raise UserError(sentence + where)


def _told(failure: ProcessFailure) -> tuple[str, str, str]:
    """Kind of error, its first line, traceback; of a process that could not speak, its signal."""
    if not isinstance(failure.message, dict):
        if failure.exitcode < 0:
            return "died", failure.signal_name(), ""
        return "died", f"exit code {failure.exitcode}", ""
    kind, _, text = failure.message["message"].partition(": ")
    line = next((line for line in text.splitlines() if line.strip()), "")
    return kind, text if kind == "UserError" else line, failure.message["extraInfo"]["py_callstack"]
