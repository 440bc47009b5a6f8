"""The command line: `python -m rmexp`, and the console script `rmexp`.

Mistakes in a command are reported before a directory is made.
"""

import argparse
import atexit
import gc
import logging
import os
import socket
import sys
from typing import TYPE_CHECKING, NoReturn

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rmexp.config.compose import explain
from rmexp.config.quoting import quote_values
from rmexp.config.schema import CONF_DIR, register
from rmexp.core import distributed
from rmexp.core.errors import DiskFull, PeerProcessLost, UserError
from rmexp.core.lean_imports import LeanFinder
from rmexp.core.streams import discard_stdout, escape_unencodable, print_error, restart_in_utf8

if TYPE_CHECKING:
    from rmexp.runner.job_spec import JobSpec  # `--help` does not wait for it

QUESTIONS = ("help", "hydra_help", "cfg", "info", "shell_completion", "version")
"""Options that Hydra answers; nothing runs."""


def main() -> None:
    """Run the command in `sys.argv`; exits with 1 and one sentence if it cannot be done."""
    restart_in_utf8()
    escape_unencodable()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it logs that there is no home
    # The console script finds a custom `_target_` in this directory, as `python -m` does.
    try:
        here = os.getcwd()
    except FileNotFoundError:
        _stop("The working directory was deleted: cd to another one.")
    if here not in sys.path:
        sys.path.insert(0, here)
    # Collecting garbage during imports takes a second, and two more when the process ends.
    gc.disable()
    atexit.register(gc.freeze)
    LeanFinder.install()
    register()
    sys.argv[1:] = quote_values(sys.argv[1:])
    arguments = get_args_parser().parse_args()
    good = True
    try:
        if any(getattr(arguments, name, None) for name in QUESTIONS):
            _answer()
        else:
            good = _run(arguments)
    except (UserError, DiskFull) as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error, arguments.overrides))
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # `rmexp --help | head`
        discard_stdout()
        good = False
    finally:
        gc.unfreeze()
        gc.enable()
    if not good:
        sys.exit(1)


def _answer() -> None:
    """Let Hydra print help, the configuration, or shell completions."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else it exits with its own advice
    hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")(
        lambda config: None
    )()


def _run(arguments: argparse.Namespace) -> bool:
    """Run the job or the sweep; whether all of it is done."""
    from rmexp.runner.preflight import preflight

    for name in ("config_name", "config_path", "experimental_rerun"):
        if getattr(arguments, name):
            raise UserError(f"--{name.replace('_', '-')} is not supported; --config-dir is.")
    here = distributed.launcher_env()
    if here is not None:
        os.environ |= distributed.QUIET_ENVIRONMENT
    checked = preflight(arguments.overrides, arguments.multirun, arguments.config_dir)
    gc.freeze()
    gc.enable()
    job = checked.cells[0]
    if checked.multirun and here is not None:
        raise UserError(
            "A sweep starts the processes of its jobs itself: leave out torchrun or srun."
        )
    task = job.config.task.name
    if here is not None and here.size > 1 and task != "train":
        raise UserError(f"task={task} takes one device: leave out torchrun or srun.")
    if here is not None and here.rank:
        return _join(job, here.rank)
    if checked.multirun:
        from rmexp.runner.sweep import run_sweep

        return run_sweep(checked, sys.argv[1:])
    from rmexp.core.console import Reporter
    from rmexp.runner.job import attempt_job

    return attempt_job(job, Reporter())


def _join(job: "JobSpec", rank: int) -> bool:
    """Take part in the run of rank 0, as another process that torchrun or srun started."""
    from rmexp.core.console import Reporter
    from rmexp.runner.job import run_job
    from rmexp.tracking.run_directory import first_line

    try:
        run_job(job, Reporter(quiet=True))
    except PeerProcessLost:
        return False  # the process that failed reports the reason
    except Exception as error:  # maybe of this process alone
        print_error(f"rmexp: process {rank}: {first_line(error)}")
        return False
    return True


def _stop(sentence: str) -> NoReturn:
    here = distributed.launcher_env()
    if here is None or here.local_rank == 0:  # the others of a machine find the same
        host = f"{socket.gethostname()}: " if here is not None and here.rank else ""
        print_error(f"rmexp: {host}{sentence}")
    sys.exit(1)


if __name__ == "__main__":
    main()
