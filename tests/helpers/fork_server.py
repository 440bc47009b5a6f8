"""Commands in processes of their own that have all imports when they start."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

SERVER = """
import json, os, sys
import rmexp.runner.sweep  # everything heavy, once for all processes
from rmexp.__main__ import main

for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if not child:
        os.environ |= call["environment"]
        os.setpgid(0, 0)
        for number, name in ((1, "out.txt"), (2, "err.txt")):
            file = os.path.join(call["output"], name)
            os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
        os.chdir(call["folder"])
        sys.argv = ["rmexp", *call["words"]]
        code = 1
        try:
            exec(call["first"], {})
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        finally:
            sys.stdout.flush()
            os._exit(code)
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

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


class ForkServer:
    """Forks a process for each command: imports are paid once, and a kill meets the command itself.

    Args:
        root: of the repository.
        environment: of all commands.
        first: Python to run in each process before its command.
    """

    def __init__(self, root: Path, environment: Mapping[str, str], first: str = "") -> None:
        self.first = first
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env={**os.environ, "PYTHONPATH": str(root), **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

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
        call |= {"environment": dict(environment or {}), "output": str(output or folder)}
        print(json.dumps(call), file=self.process.stdin, flush=True)
        child, start = int(self.process.stdout.readline()), time.monotonic()
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
        return int(self.process.stdout.readline())

    def close(self) -> None:
        self.process.communicate("")
