"""The command line: `python -m rmexp`, and the console script `rmexp`.

Everything that can be wrong with a command is found before Hydra makes a directory.
"""

import gc
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rmexp import config as configuration
from rmexp import ranks
from rmexp.errors import DiskFull, UserError
from rmexp.preflight import Checked, preflight
from rmexp.sweep.plan import make_plan, read_plan

ASKS = ("help", "hydra_help", "cfg", "info", "shell_completion", "version")
"""Options with which Hydra only tells something."""


def main() -> None:
    """Run the command in `sys.argv`; exits with 1 and one sentence where it cannot be done."""
    # So that a `_target_` of one's own is found by the console script, as by `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    configuration.register()
    arguments = get_args_parser().parse_args()
    # Without this Hydra prints its own advice and exits; we want to say it in our words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    here, good = ranks.place(), True
    if here is not None:
        os.environ |= ranks.QUIET
    try:
        if any(getattr(arguments, name, None) for name in ASKS):
            return _start_hydra()
        checked = preflight(arguments.overrides, arguments.multirun, arguments.config_dir)
        if checked.multirun and here is not None:
            raise UserError(
                "A sweep starts the processes of its jobs itself: leave out torchrun or srun."
            )
        if here is not None and here.rank:
            return _follow(checked)
        if checked.multirun:
            good = _run_sweep(checked, _start_hydra)
        else:
            _failures.clear()
            _start_hydra()
            good = not _failures
    except (UserError, DiskFull) as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(configuration.explain(error, arguments.overrides))
    except KeyboardInterrupt:
        sys.exit(130)
    if not good:
        sys.exit(1)


def _start_hydra(*overrides: str) -> None:
    """Let Hydra run the command, with overrides of ours among the person's."""
    given = sys.argv
    # Hydra's parser takes them in one row: beside the first one, or at the end.
    words = get_args_parser().parse_args().overrides
    place = given.index(words[0], 1) if words else len(given)
    sys.argv = [*given[:place], *overrides, *given[place:]]
    decorate = hydra.main(
        version_base="1.3", config_path=str(configuration.CONF_DIR), config_name="config"
    )
    try:
        decorate(_task)()
    finally:
        sys.argv = given


def _follow(checked: Checked) -> None:
    """Take part in the run that rank 0 of a launcher's processes makes; Hydra is not needed."""
    from rmexp.job import Job, run_job
    from rmexp.progress import Reporter

    (cell,) = checked.cells
    try:
        run_job(Job(cell.config, cell.overrides, cell.choices, Path(), None), Reporter(quiet=True))
    except UserError:
        sys.exit(1)  # rank 0 met it too, and says so


def _run_sweep(checked: Checked, start: Callable[..., None]) -> bool:
    """All jobs of a multirun, and what is said before and after them; are all of them done?"""
    from rmexp.progress import Reporter
    from rmexp.sweep.ahead import announce
    from rmexp.sweep.ending import finish
    from rmexp.sweep.grouped import Together

    global _reporter, _together
    plan = make_plan(
        checked.cells, sys.argv[1:], checked.directory, checked.trials, checked.left_out
    )
    reporter, again = Reporter(), shlex.join(["python", "-m", "rmexp", *sys.argv[1:]])
    with plan.locked():
        plan.write()
        announce(plan, checked.cells, reporter)
        _reporter, _together = reporter, Together(plan, checked.cells)
        gc.freeze()  # the cells and libraries stay: no collection need look through them again
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
            gc.unfreeze()
            _reporter = _together = None
        return finish(plan, checked.cells[0].config.sweep.export, reporter)


_together: Any = None
"""The jobs of this process's sweep that train together (`sweep.grouped.Together`); workers of a
parallel launcher have none, and train each job by itself."""

_reporter: Any = None
"""Says what the jobs of this process's sweep do, each line that they have in common once."""

_failures: list[str] = []
"""What the run of this process failed with; it is said and recorded where it happened."""


def _task(config: DictConfig) -> float | None:
    """What Hydra calls for each job; the best value of the metric that selects, for sweepers that
    search (None: the job failed, or measures nothing)."""
    from rmexp.job import Job, run_job, take_up
    from rmexp.progress import Reporter
    from rmexp.sweep.state import read_state
    from rmexp.tracking import first_line

    hydra_config: Any = HydraConfig.get()
    home, sweep = Path(hydra_config.runtime.output_dir), None
    if str(hydra_config.mode).endswith("MULTIRUN"):
        sweep = read_plan(Path(hydra_config.sweep.dir))
    reporter, settled = _reporter or Reporter(), configuration.settled(config)
    overrides = list(hydra_config.overrides.task)
    job: Job | None = Job(
        config=settled,
        overrides=overrides,
        choices=dict(hydra_config.runtime.choices),
        directory=home,
        sweep=sweep.directory.name if sweep else None,
        fingerprint=sweep.fingerprint(settled) if sweep else None,
    )
    try:
        if sweep:
            reporter.say("", f"job {hydra_config.job.num}: {' '.join(overrides)}")
            job = take_up(job, reporter) if job else None
        if job is not None:
            run_job(job, reporter, _together.work(home, reporter) if _together else None)
    except DiskFull:
        raise
    except Exception as error:
        # Raised on, it would reach the person as Hydra's traceback, or stop a sweep.
        trace = "" if isinstance(error, UserError) else f" (traceback: {home}/error.txt)"
        _failures.append(first_line(error))  # the error itself would keep the model in memory
        print(f"rmexp: {first_line(error)}{trace}", file=sys.stderr, flush=True)
    state = read_state(home)
    return state.result.get("best_score") if state.status == "done" else None


def _stop(sentence: str) -> None:
    here = ranks.place()
    if here is None or here.rank == 0:  # a launcher's other processes find the same
        print(f"rmexp: {sentence}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
