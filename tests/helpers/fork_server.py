"""Commands in processes of their own that have all imports when they start."""

import contextlib
import importlib
import logging
import multiprocessing
import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NoReturn

import psutil

from rmexp.__main__ import main

NO_REPORTS = """
import rmexp.training.finish
from rmexp.analysis.report import plots

rmexp.training.finish.write_run_report = lambda *_: None
plots.published, plots._done = lambda *_: [], lambda axes: axes.get_figure()
"""
"""Python that leaves the reports of runs and all plots out; they take half of a tiny run's time."""

FORKED_RANKS = """
import multiprocessing, os, runpy, sys
from torch.distributed.elastic.multiprocessing.subprocess_handler import subprocess_handler

class Forked:
    def __init__(self, args, env, **_):
        self.process = multiprocessing.get_context("fork").Process(target=work, args=(args, env))
        self.process.start()
        self.pid = self.process.pid

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)

def work(args, env):
    os.setsid()
    os.environ |= env
    words = [word for word in args[1:] if word != "-u"]
    if words[0] == "-m":
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__")
    else:
        sys.argv = words
        runpy.run_path(words[0], run_name="__main__")

subprocess_handler.Popen = Forked
"""
"""Python after which torch's launcher forks its processes, whose imports are paid then.

`make soak` starts them from new.
"""


FORKED_WORKERS = """
import warnings
from joblib.externals.loky.backend import context

context.set_start_method("fork")
warnings.filterwarnings("ignore", ".*fork. start method should not be used")
"""
"""Python after which joblib forks its processes; `make soak` starts them from new."""


def start_forker() -> Connection:
    """A fork of the tests' process, which forks a process for each command: imports are paid once.

    It is made after the tests were collected and before the first runs: what they patch and start
    is not forked. A call, see `_run`, is answered with the process ID, then with the exit status.
    """
    import rmexp.runner.sweep  # noqa: F401  everything heavy

    ours, its = multiprocessing.Pipe()
    if not os.fork():
        try:
            ours.close()  # else it would not see that the tests ended
            _as_started()
            _serve(its)
        finally:
            os._exit(0)
    its.close()
    return ours


class ForkServer:
    """Runs commands in processes of their own that have all imports: a kill meets the command.

    Args:
        forker: see `start_forker`.
        environment: of all commands.
        first: Python to run in each process before its command.
    """

    def __init__(self, forker: Connection, environment: Mapping[str, str], first: str = "") -> None:
        self.forker, self.environment, self.first = forker, environment, first

    def run(
        self,
        folder: Path,
        words: Sequence[str],
        environment: Mapping[str, str] | None = None,
        first: str = "",
        output: Path | None = None,
        event: Callable[[int], object] | None = None,
        when: Callable[[], bool] = lambda: True,
        limit: float = float("inf"),
    ) -> int:
        """Run a command in a folder; its exit status.

        What it prints is appended to out.txt and err.txt in `output`, or in the folder.

        Args:
            first: more Python to run before the command.
            event: called with the process ID when it is time, if the command still runs.
            when: whether it is time.
            limit: seconds after which all its processes are killed, and the test fails.
        """
        call = {"folder": str(folder), "words": list(words), "first": self.first + first}
        call["environment"] = {**self.environment, **(environment or {})}
        self.forker.send(call | {"output": str(output or folder)})
        child, start = int(self.forker.recv()), time.monotonic()
        while (event is not None or limit < float("inf")) and psutil.pid_exists(child):
            if event is not None and when():
                with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):  # just ended
                    event(child)
                event = None
            if time.monotonic() - start > limit:
                for one in [*psutil.Process(child).children(recursive=True), psutil.Process(child)]:
                    one.send_signal(signal.SIGKILL)
                raise AssertionError(f"{words} still runs after {limit:.0f} seconds")
            time.sleep(0.005)
        return int(self.forker.recv())


def _as_started() -> None:
    """Undo what pytest did to its process: it catches output, warnings and the log."""
    importlib.reload(warnings)
    logging.root.handlers.clear()
    sys.stdin, sys.stdout = os.fdopen(0, closefd=False), os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", 1, closefd=False)


def _serve(tests: Connection) -> None:
    with contextlib.suppress(EOFError):
        while call := tests.recv():
            child = os.fork()
            if not child:
                _run(**call)
            tests.send(child)
            tests.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _run(
    folder: str, words: list[str], first: str, environment: dict[str, str], output: str
) -> NoReturn:
    code = 1
    try:
        os.environ |= environment
        os.setpgid(0, 0)
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            file = os.path.join(output, name)
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(folder)
        sys.argv = ["rmexp", *words]
        exec(first, {})
        main()
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError):  # a full disk
            sys.stdout.flush()
        os._exit(code)
