"""What Hydra calls for each job: in this process, or in a worker of a launcher (`sweep.workers`).

It stands apart from the command line, as workers find it by its name.
"""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rmexp.config.compose import resolve_task

groups: Mapping[str, Any] = {}
"""The jobs of this process's sweep that train together (`sweep.grouped.groups`)."""


reporter: Any = None
"""Says what the jobs of this process's sweep do, each line that they have in common once."""


failures: list[str] = []
"""What the run of this process failed with; it is said and recorded where it happened."""


one_of_many = False
"""Is this a worker beside others? What it says is then marked with the job's number."""


def run(config: DictConfig) -> float | None:
    """Do one job; the best value of the metric that selects, for sweepers that search (None: the
    job failed, or measures nothing)."""
    from rmexp.core.console import Reporter
    from rmexp.runner.job import Job, attempt_job
    from rmexp.runner.sweep_plan import read_plan
    from rmexp.tracking.run_state import read_state

    collect()
    hydra_config: Any = HydraConfig.get()
    home, sweep = Path(hydra_config.runtime.output_dir), None
    if str(hydra_config.mode).endswith("MULTIRUN"):
        sweep = read_plan(Path(hydra_config.sweep.dir))
    number, overrides = home.name.partition("-")[0], list(hydra_config.overrides.task)
    teller, settled = reporter or Reporter(), resolve_task(config)
    teller.mark = f"{number}| " if one_of_many else ""
    job = Job(
        config=settled,
        overrides=overrides,
        choices=dict(hydra_config.runtime.choices),
        directory=home,
        sweep=sweep.directory.name if sweep else None,
        fingerprint=sweep.fingerprint(settled) if sweep else None,
    )
    if sweep:
        teller.say("", sweep.told(number, overrides))
    if failed := attempt_job(job, teller):
        failures.append(failed)
    state = read_state(home)
    return state.result.get("best_score") if state.status == "done" else None


def collect() -> None:
    """Look for garbage from now on, if nobody did: not in what is there already, which stays."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
