"""The command line: `python -m rmexp`, and the console script `rmexp`.

Everything that can be wrong with a command is found before Hydra makes a directory.
"""

import atexit
import gc
import os
import shlex
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import hydra
from hydra._internal.utils import get_args_parser
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from rmexp.config.compose import explain
from rmexp.config.schema import CONF_DIR, register
from rmexp.core import distributed
from rmexp.core.errors import DiskFull, PeerProcessLost, UserError
from rmexp.runner import entry
from rmexp.runner.preflight import PreflightResult, preflight
from rmexp.runner.sweep_plan import make_plan

ASKS = ("help", "hydra_help", "cfg", "info", "shell_completion", "version")
"""Options with which Hydra only tells something."""


def main() -> None:
    """Run the command in `sys.argv`; exits with 1 and one sentence where it cannot be done."""
    # So that a `_target_` of one's own is found by the console script, as by `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    # Looking for garbage among what is imported takes a second, and two more when the process ends.
    gc.disable()
    atexit.register(gc.freeze)
    register()
    arguments = get_args_parser().parse_args()
    # Without this Hydra prints its own advice and exits; we want to say it in our words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    here, good = distributed.launcher_env(), True
    if here is not None:
        os.environ |= distributed.QUIET_ENVIRONMENT
    try:
        if any(getattr(arguments, name, None) for name in ASKS):
            return _start_hydra()
        checked = preflight(arguments.overrides, arguments.multirun, arguments.config_dir)
        if checked.multirun and here is not None:
            raise UserError(
                "A sweep starts the processes of its jobs itself: leave out torchrun or srun."
            )
        task = checked.cells[0].choices["task"]
        if here is not None and here.size > 1 and task != "train":
            raise UserError(f"task={task} takes one device: leave out torchrun or srun.")
        if here is not None and here.rank:
            return _follow(checked, here.rank)
        if checked.multirun:
            good = _run_sweep(checked, _start_hydra)
        else:
            entry.failures.clear()
            _start_hydra()
            good = not entry.failures
    except (UserError, DiskFull) as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(explain(error, arguments.overrides))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        gc.unfreeze()
        gc.enable()
    if not good:
        sys.exit(1)


def _start_hydra(*overrides: str) -> None:
    """Let Hydra run the command, with overrides of ours among the person's."""
    given = sys.argv
    # Hydra's parser takes them in one row: beside the first one, or at the end.
    words = get_args_parser().parse_args().overrides
    place = given.index(words[0], 1) if words else len(given)
    sys.argv = [*given[:place], *overrides, *given[place:]]
    decorate = hydra.main(version_base="1.3", config_path=str(CONF_DIR), config_name="config")
    try:
        decorate(entry.run)()
    finally:
        sys.argv = given


def _follow(checked: PreflightResult, rank: int) -> None:
    """Take part in the run that rank 0 of a launcher's processes makes; Hydra is not needed."""
    from rmexp.core.console import Reporter
    from rmexp.runner.job import Job, run_job
    from rmexp.tracking.run_directory import first_line

    entry.collect()
    (cell,) = checked.cells
    try:
        run_job(Job(cell.config, cell.overrides, cell.choices, Path(), None), Reporter(quiet=True))
    except PeerProcessLost:
        sys.exit(1)  # the one that is gone says why
    except Exception as error:  # maybe of this process alone
        print(f"rmexp: process {rank}: {first_line(error)}", file=sys.stderr, flush=True)
        sys.exit(1)


def _run_sweep(checked: PreflightResult, start: Callable[..., None]) -> bool:
    """All jobs of a multirun, and what is said before and after them; are all of them done?"""
    from rmexp.core.console import Reporter
    from rmexp.runner.announce import announce
    from rmexp.runner.finalize import finish_sweep
    from rmexp.runner.head_groups import head_groups

    plan = make_plan(
        checked.cells, sys.argv[1:], checked.directory, checked.trials, checked.left_out
    )
    reporter, again = Reporter(), shlex.join(["python", "-m", "rmexp", *sys.argv[1:]])
    with plan.locked():
        plan.write()
        entry.collect()
        announce(plan, checked.cells, reporter, checked.launcher)
        entry.reporter, entry.groups = reporter, head_groups(plan, checked.cells)
        try:
            start(f"hydra.sweep.dir={plan.directory}", *checked.extra)
        except KeyboardInterrupt:
            reporter.say(f"interrupted; go on with: {again}")
            raise
        except DiskFull as error:
            raise UserError(f"{error} What is done is kept; go on with: {again}") from None
        except ValueError:
            # A sweeper that searches ends so where no trial was done; each job said its error.
            if not checked.trials or any(state.status == "done" for state in plan.states()):
                raise
        finally:
            entry.reporter, entry.groups = None, {}
        return finish_sweep(plan, checked.cells[0].config.sweep.export, reporter)


def _stop(sentence: str) -> None:
    here = distributed.launcher_env()
    if here is None or here.local_rank == 0:  # the others of a machine find the same
        host = f"{socket.gethostname()}: " if here is not None and here.rank else ""
        print(f"rmexp: {host}{sentence}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
