"""A process of a run on several devices: `python -m rmexp.runner.worker JOB`; see `launch`."""

import os
import pickle
import signal
import sys
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from rmexp.config.schema import register
from rmexp.core.console import Reporter
from rmexp.runner.job import run_job
from rmexp.runner.launch import SIGNALS, end_with_parent


def run_worker() -> None:
    """Run this process's part of the job; its error is reported to the launcher."""
    handler = get_error_handler()
    handler.initialize()
    parent, job, sys.argv, mark = pickle.loads(Path(sys.argv[1]).read_bytes())
    end_with_parent(parent)
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    register()
    try:
        run_job(job, Reporter(mark))
    except BaseException as error:
        for number in SIGNALS:  # one that comes now would be raised here, and its traceback printed
            signal.signal(number, signal.SIG_IGN)
        handler.record_exception(error)
        sys.stdout.flush()
        os._exit(1)  # threads that wait for another process would block the exit


if __name__ == "__main__":
    run_worker()
