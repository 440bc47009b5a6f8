"""The command line: `python -m rmexp`, and the console script `rmexp`.

Everything that can be wrong with a command is found before Hydra makes a directory.
"""

import inspect
import json
import os
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rmexp import config as configuration
from rmexp.errors import UserError


def main() -> None:
    """Run the command in `sys.argv`; exits with 1 and one sentence where it cannot be done."""
    global _sweep
    _sweep = None
    _failures.clear()
    # So that a `_target_` of one's own is found by the console script, as by `python -m`.
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    configuration.register()
    arguments = get_args_parser().parse_args()
    # Without this Hydra prints its own advice and exits; we want to say it in our words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    asks = ("help", "hydra_help", "cfg", "info", "shell_completion", "version")
    try:
        if not any(getattr(arguments, name, None) for name in asks):
            _preflight(arguments.overrides, arguments.multirun, arguments.config_dir)
        hydra.main(
            version_base="1.3", config_path=str(configuration.CONF_DIR), config_name="config"
        )(_task)()
    except UserError as error:
        _stop(str(error))
    except (HydraException, OmegaConfBaseException) as error:
        _stop(configuration.explain(error, arguments.overrides))
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if _sweep is not None:
            _sum_up(_sweep)
    if _failures:
        sys.exit(1)


def _preflight(overrides: list[str], multirun: bool, config_dir: str | None) -> None:
    """Compose and check every job of the command; nothing is loaded, nothing is written."""
    multirun = multirun or _is_sweep_file(overrides, config_dir)
    for cell in _grid(overrides, config_dir) if multirun else [overrides]:
        composed = configuration.compose_config(cell, config_dir)
        choices, config = composed.hydra.runtime.choices, configuration.settled(composed)
        try:
            if config.resume is not None:
                _check_resume(config.resume, cell)
                continue
            configuration.check(config)
            configuration.check_task_keys(config, cell)
            if config.checkpoint is not None and not Path(config.checkpoint).expanduser().is_dir():
                raise UserError(f"checkpoint={config.checkpoint}: there is no such directory.")
            if config.runs is not None:
                _check_runs(config.runs)
            if config.task["_target_"] in (configuration.EVALUATE, configuration.JUDGE):
                _check_sets(config)
            if config.checkpoint is None:
                _check_parts(config, choices)
        except UserError as error:
            raise UserError(f"{error} (job {' '.join(cell)})" if multirun else str(error)) from None


def _check_runs(runs: Any) -> None:
    """Every name in `runs` leads somewhere."""
    from rmexp.compare.runs import places

    for text in [runs] if isinstance(runs, str) else list(runs):
        places(str(text))


def _check_sets(config: DictConfig) -> None:
    """The evaluation sets are there, and so are files of rewards."""
    from rmexp.config import build
    from rmexp.evaluation import sets_of
    from rmexp.reward_files import check_rewards
    from rmexp.sources import check_source

    evaluation = build(config.eval)
    for one in sets_of(evaluation):
        check_source(one.path, "eval.path")
    for one in sets_of(evaluation) or [evaluation]:
        if one.scores is not None:
            check_rewards(one.scores)


def _check_parts(config: DictConfig, choices: Mapping[str, str]) -> None:
    """Build what the task will, and is cheap: combinations are refused, and missing files."""
    from rmexp.config import build
    from rmexp.contract import check_fits

    wanted = inspect.signature(configuration.locate("task", config.task["_target_"])).parameters
    parts = {g: build(config[g]) for g in ("data", "template", "trainer", "model") if g in wanted}
    if "data" in parts:
        parts["data"].check_sources()
    for group in (g for g in ("template", "model") if g in parts):
        parts[group].check()
    if "loss" in wanted and parts["data"].has is not None:
        check_fits(build(config.loss), choices["loss"], parts["data"].has, choices["data"])


def _is_sweep_file(overrides: list[str], config_dir: str | None) -> bool:
    """Does the command compose a file that asks for a multirun (`+sweeps=NAME`)?"""
    if not any(override.startswith("+sweeps=") for override in overrides):
        return False
    plain = [override for override in overrides if not _is_sweep(override)]
    return str(configuration.compose_config(plain, config_dir).hydra.mode).endswith("MULTIRUN")


def _grid(overrides: list[str], config_dir: str | None) -> list[list[str]]:
    """The override lists of a multirun's jobs, sweeps in files (hydra.sweeper.params) included."""
    plain = [override for override in overrides if not _is_sweep(override)]
    config = configuration.compose_config(plain, config_dir)
    params = config.hydra.sweeper.get("params") or {}
    given = [*(f"{key}={value}" for key, value in params.items()), *overrides]
    parsed = OverridesParser.create().parse_overrides(given)
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch]


def _is_sweep(override: str) -> bool:
    return OverridesParser.create().parse_override(override).is_sweep_override()


def _check_resume(directory: str, overrides: list[str]) -> None:
    """A resumed run goes on exactly as it was: nothing else can be set."""
    others = [o for o in overrides if not o.startswith("resume=")]
    if others:
        raise UserError(
            f"resume goes on with the run's own configuration: leave out {' '.join(others)}."
        )
    for name in ("config.yaml", "result.json", "checkpoints/last.ckpt"):
        if not (Path(directory) / name).is_file():
            raise UserError(f"resume={directory}: cannot go on, as {name} is not there.")
    result = json.loads((Path(directory) / "result.json").read_text())
    if result["status"] == "done":
        raise UserError(f"resume={directory}: that run is done.")
    age = time.time() - (Path(directory) / "result.json").stat().st_mtime
    if result["status"] == "running" and age < 30 and _alive(result):
        raise UserError(
            f"resume={directory}: that run is at work "
            f"(process {result['pid']} on {result['host']})."
        )


def _alive(result: dict[str, Any]) -> bool:
    """Of a process elsewhere only its heartbeat is known, and that is fresh."""
    return result["host"] != socket.gethostname() or Path(f"/proc/{result['pid']}").exists()


_sweep: Path | None = None
"""The directory of the sweep that this process runs, for the lines at its end."""

_failures: list[str] = []
"""What jobs of this process failed with; each is said and recorded where it happened."""


def _task(config: DictConfig) -> None:
    """What Hydra calls for each job."""
    global _sweep
    from rmexp.job import Job, run_job
    from rmexp.progress import Reporter
    from rmexp.tracking import first_line

    hydra_config: Any = HydraConfig.get()
    sweep = str(hydra_config.mode).endswith("MULTIRUN")
    reporter = Reporter()
    overrides = list(hydra_config.overrides.task)
    if sweep:
        _sweep = Path(hydra_config.sweep.dir)
        reporter.say("", f"job {hydra_config.job.num}: {' '.join(overrides)}")
    job = Job(
        config=configuration.settled(config),
        overrides=overrides,
        choices=dict(hydra_config.runtime.choices),
        directory=Path(hydra_config.runtime.output_dir),
        sweep=Path(hydra_config.sweep.dir).name if sweep else None,
    )
    try:
        run_job(job, reporter)
    except Exception as error:
        # Raised on, it would reach the person as Hydra's traceback, or stop a sweep.
        trace = "" if isinstance(error, UserError) else f" (traceback: {job.directory}/error.txt)"
        _failures.append(first_line(error))  # the error itself would keep the model in memory
        print(f"rmexp: {first_line(error)}{trace}", file=sys.stderr, flush=True)


def _sum_up(sweep: Path) -> None:
    """A line for each job of a sweep: how it ended, and its accuracy or its error."""
    from rmexp.progress import Reporter

    say = Reporter().say
    say("", f"sweep {sweep}")
    for run in sorted(sweep.glob("*/result.json"), key=lambda f: int(f.parent.name.split("-")[0])):
        result = json.loads(run.read_text())
        metrics = result.get("metrics", {})
        shown = next((n for n in ("test/accuracy", "test/spearman") if n in metrics), None)
        last = f"{shown} {metrics[shown]:.4f}" if shown else result.get("error") or ""
        say(f"  {result['status']:<8}{run.parent.name}  {last}")


def _stop(sentence: str) -> None:
    print(f"rmexp: {sentence}", file=sys.stderr)
    sys.exit(1)


if __name__ == "__main__":
    main()
