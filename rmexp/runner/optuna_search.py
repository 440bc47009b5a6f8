"""hydra/sweeper=optuna: jobs of a sweep that Optuna proposes from the results of earlier ones."""

import functools
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override, Transformer
from hydra.utils import get_method, instantiate
from omegaconf import DictConfig, OmegaConf

from rmexp.config.grid import Composer, parse_override, sweep_values
from rmexp.config.yaml_io import write_yaml
from rmexp.runner.check_job import JobChecker
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.sweep_plan import SweepPlan, make_cell


class Search:
    """Proposes jobs with Optuna's ask-and-tell interface.

    Args:
        settings: `hydra.sweeper`, see conf/hydra/sweeper/optuna.yaml.
        overrides: of the command line; some of them sweeps.
        compose: composes a job.
        checker: checks a job.
    """

    def __init__(
        self,
        settings: DictConfig,
        overrides: Sequence[str],
        compose: Composer,
        checker: JobChecker,
    ) -> None:
        self.settings: dict[str, Any] = OmegaConf.to_container(settings, resolve=True)  # type: ignore[assignment]
        self.compose, self.checker = compose, checker
        params = self.settings["params"] or {}
        asked = [*(f"{key}={value}" for key, value in params.items()), *overrides]
        last = {parse_override(text).get_key_element(): text for text in asked}
        parsed = {key: parse_override(text) for key, text in last.items()}
        self.space = {key: o for key, o in parsed.items() if o.is_sweep_override()}
        self.fixed = [text for key, text in last.items() if key not in self.space]

    @property
    def n_trials(self) -> int:
        """How many jobs it proposes at most."""
        return int(self.settings["n_trials"])

    def shared_job(self) -> JobSpec:
        """A job with the overrides that all jobs share."""
        return self.checker.check(self.compose(self.fixed), self.fixed)

    def run(
        self, plan: SweepPlan, execute: Callable[[Sequence[JobSpec]], Sequence[float | None]]
    ) -> tuple[list[JobSpec], str | None]:
        """Propose jobs until `n_trials` are done, and write optimization_results.yaml.

        Args:
            plan: of the sweep.
            execute: runs jobs; returns the best value of each one's metric, None for failures.

        Returns:
            The jobs, and why it stopped early, or None.
        """
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler, left = instantiate(self.settings["sampler"], _convert_="all"), self.n_trials
        if isinstance(sampler, functools.partial):  # a GridSampler wants its grid
            grid = {key: sweep_values(o, Transformer.encode) for key, o in self.space.items()}
            sampler, left = sampler(grid), min(left, math.prod(map(len, grid.values())))
        study = optuna.create_study(
            study_name=self.settings["study_name"],
            storage=self.settings["storage"],
            sampler=sampler,
            direction=self.settings["direction"],
            load_if_exists=True,
        )
        every, stopped = list[JobSpec](), None
        while left > 0 and stopped is None:
            trials = [study.ask() for _ in range(min(left, self.settings["n_jobs"]))]
            jobs = [self._job(plan, len(every) + n, trial) for n, trial in enumerate(trials)]
            values = execute(jobs)
            for trial, value in zip(trials, values, strict=True):
                state = optuna.trial.TrialState
                with suppress(RuntimeError):  # of the GridSampler, which stops the study at its end
                    study.tell(trial, value, state.FAIL if value is None else state.COMPLETE)
            failures, left = values.count(None), left - len(jobs)
            every += jobs
            if failures / len(jobs) > self.settings["max_failure_rate"]:
                stopped = (
                    f"search stopped: {failures} of {len(jobs)} jobs failed "
                    f"(hydra.sweeper.max_failure_rate={self.settings['max_failure_rate']})"
                )
        if any(trial.value is not None for trial in study.trials):
            best = {"best_params": study.best_params, "best_value": study.best_value}
            file = Path(plan.directory) / "optimization_results.yaml"
            write_yaml({"name": "optuna"} | best, file)
        return every, stopped

    def _job(self, plan: SweepPlan, number: int, trial: Any) -> JobSpec:
        """The job of a trial, composed and checked."""
        for key, override in self.space.items():
            _suggest(trial, key, override)
        if self.settings["custom_search_space"]:
            get_method(self.settings["custom_search_space"])(self.compose(self.fixed), trial)
        overrides = [*self.fixed, *(f"{key}={value}" for key, value in trial.params.items())]
        job = self.checker.check(self.compose(overrides), overrides, self.fixed)
        return plan.place(job, make_cell(number, job, plan.inputs))


def _suggest(trial: Any, key: str, override: Override) -> None:
    """Let Optuna choose a value of a sweep; unlike in a grid, the end of a range is included."""
    sweep: Any = override.value()
    if override.is_choice_sweep() or getattr(sweep, "shuffle", False):
        trial.suggest_categorical(key, sweep_values(override, Transformer.encode))
        return
    interval = override.is_interval_sweep()
    low, high, step = sweep.start, sweep.end if interval else sweep.stop, None
    log = interval and "log" in sweep.tags
    if not interval:
        step = sweep.step
    if all(isinstance(number, int) for number in (low, high, step) if number is not None):
        trial.suggest_int(key, low, high, step=step or 1, log=log)
    else:
        trial.suggest_float(key, low, high, step=step, log=log)
