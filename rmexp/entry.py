"""What Hydra calls for each job: in this process, or in a worker of a launcher (`sweep.workers`).

It stands apart from the command line, as workers find it by its name.
"""

import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rmexp import config as configuration
from rmexp.errors import DiskFull, UserError

together: Any = None
"""The jobs of this process's sweep that train together (`sweep.grouped.Together`)."""

reporter: Any = None
"""Says what the jobs of this process's sweep do, each line that they have in common once."""

failures: list[str] = []
"""What the run of this process failed with; it is said and recorded where it happened."""

one_of_many = False
"""Is this a worker beside others? What it says is then marked with the job's number."""


def run(config: DictConfig) -> float | None:
    """Do one job; the best value of the metric that selects, for sweepers that search (None: the
    job failed, or measures nothing)."""
    from rmexp.job import Job, run_job, take_up
    from rmexp.preflight import differing
    from rmexp.progress import Reporter
    from rmexp.sweep.plan import read_plan
    from rmexp.sweep.state import read_state
    from rmexp.tracking import first_line

    hydra_config: Any = HydraConfig.get()
    home, sweep = Path(hydra_config.runtime.output_dir), None
    if str(hydra_config.mode).endswith("MULTIRUN"):
        sweep = read_plan(Path(hydra_config.sweep.dir))
    number = home.name.partition("-")[0]
    mark = f"{number}| " if one_of_many else ""
    teller, settled = reporter or Reporter(mark), configuration.settled(config)
    teller.mark = mark
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
            swept = differing(overrides, [cell.overrides for cell in sweep.cells])
            teller.say("", f"job {number}: {swept or ' '.join(overrides)}")
            job = take_up(job, teller) if job else None
        if job is not None:
            run_job(job, teller, together.work(home, teller) if together else None)
    except DiskFull:
        raise
    except Exception as error:
        # Raised on, it would reach the person as Hydra's traceback, or stop a sweep.
        trace = "" if isinstance(error, UserError) else f" (traceback: {home}/error.txt)"
        failures.append(first_line(error))  # the error itself would keep the model in memory
        print(f"{mark}rmexp: {first_line(error)}{trace}", file=sys.stderr, flush=True)
    state = read_state(home)
    return state.result.get("best_score") if state.status == "done" else None
