"""All that can be wrong with a command, found before Hydra makes a directory or a model loads."""

import importlib.util
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from omegaconf import DictConfig, OmegaConf

from rmexp.config.compose import build, compose_config, compose_raw, locate, resolve_task
from rmexp.config.grid import Compose, Composer, parse
from rmexp.config.schema import EVALUATE, EVALUATE_REWARDS, SINGLE_PROCESS
from rmexp.config.validate import check_config, check_task_keys, makes_run
from rmexp.core.errors import UserError
from rmexp.runner.sweep_plan import THIS_HOST, JobSpec, differing_overrides
from rmexp.tracking.run_state import read_state

GRID_SWEEPER = "basic"
"""The option of hydra/sweeper whose jobs are known before: ours takes its place. (Were it set in
config.yaml, a file in sweeps/ could not ask for another.) Others choose jobs as they go."""


@dataclass(frozen=True)
class PreflightResult:
    """What a command asks for.

    cells     the jobs of a multirun that can run; of a single run, that one
    left_out  jobs that cannot, and why (sweep.skip_invalid=true)
    trials    the jobs are chosen by a sweeper of its own kind; `cells` has their common part
    directory of the sweep, where the person chose it
    launcher  the option of hydra/launcher
    extra     for Hydra's command line: our sweeper, and the keys that no job's directory need name
    """

    multirun: bool
    cells: list[JobSpec]
    left_out: list[str]
    trials: bool = False
    directory: str | None = None
    launcher: str = "basic"
    extra: tuple[str, ...] = ()


def preflight(overrides: list[str], multirun: bool, config_dir: str | None) -> PreflightResult:
    """Compose and check every job of the command; nothing is loaded, nothing is written.

    Raises:
        UserError: a job cannot run. Of a multirun every such job is named.
    """
    if not (multirun or _is_sweep_file(overrides, config_dir)):
        one = _check(overrides, config_dir)
        if (launcher := one.choices["hydra/launcher"]) != "basic":
            raise UserError(f"hydra/launcher={launcher} is for the jobs of a sweep: add -m.")
        return PreflightResult(False, [one], [])
    if any(override.startswith("resume=") for override in overrides):
        raise UserError("resume goes on with one run: leave out -m.")
    grid, trials, launcher = _grid(overrides, config_dir)
    _check_launcher(launcher)
    extra = _unnamed(grid, overrides) if trials else (*_unnamed(grid, []), "hydra/sweeper=planned")
    cells, refused, known = [], [], ComposeCache(Composer(compose_raw), launcher)
    for words in grid:
        try:
            cells.append(_check(words, config_dir, extra, known))
        except UserError as error:
            refused.append((str(error), words))
    skip = bool(cells) and cells[0].config.sweep.skip_invalid
    if refused and not skip:
        raise UserError(_refusal(refused, grid))
    if cells and not makes_run(cells[0].config):
        task = cells[0].choices["task"]
        raise UserError(f"task={task} makes no run, so that there is nothing to sweep: no -m.")
    directory = next((o.split("=", 1)[1] for o in overrides if o.startswith(_SWEEP_DIR)), None)
    left_out = [f"{differing_overrides(words, grid)}: {sentence}" for sentence, words in refused]
    return PreflightResult(True, cells, left_out, trials, directory, launcher, extra)


_SWEEP_DIR = "hydra.sweep.dir="


class ComposeCache:
    """What the cells of a grid have in common, so that it is composed, checked and built once.

    compose  overrides -> configuration
    launcher the option of hydra/launcher
    right    parts of configurations that were found to be right
    built    a group's name and content -> its object
    """

    def __init__(self, compose: Compose = compose_raw, launcher: str = "basic") -> None:
        self.compose, self.launcher = compose, launcher
        self.right: set[str] = set()
        self.built: dict[str, Any] = {}

    def build(self, group: str, node: DictConfig) -> Any:
        """The object of a group; it is only to be asked."""
        content = f"{group} {OmegaConf.to_container(node, resolve=True)}"
        if content not in self.built:
            self.built[content] = build(node)
        return self.built[content]


def _refusal(refused: Sequence[tuple[str, list[str]]], grid: Sequence[list[str]]) -> str:
    """Every sentence with the cells that it is said of."""
    jobs: dict[str, list[str]] = {}
    for sentence, words in refused:
        jobs.setdefault(sentence, []).append(differing_overrides(words, grid) or " ".join(words))
    said = " ".join(f"{sentence} (job {', '.join(names)})" for sentence, names in jobs.items())
    if len(refused) == len(grid):
        return said
    return (
        f"{said} {len(refused)} of {len(grid)} jobs cannot run, so none was started; "
        "sweep.skip_invalid=true leaves them out."
    )


def _unnamed(grid: Sequence[Sequence[str]], given: Sequence[str]) -> tuple[str, ...]:
    """Jobs are named by what differs; Hydra is told which keys not to name."""
    same = given or [word for word in grid[0] if all(word in other for other in grid)]
    keys = sorted({_key(word) for word in same if not _is_sweep(word)} | {"name", "cache"})
    listed = ",".join(f"'{key}'" for key in keys)
    return (f"hydra.job.config.override_dirname.exclude_keys=[{listed}]",)


def _key(override: str) -> str:
    return str(parse(override).key_or_group)


def _check(
    words: list[str],
    config_dir: str | None,
    extra: Sequence[str] = (),
    known: ComposeCache | None = None,
) -> JobSpec:
    """One job: composed, its values in range, its parts there and fitting."""
    known = known or ComposeCache()
    composed = compose_config([*words, *extra], config_dir, known.compose)
    choices, config = composed.hydra.runtime.choices, resolve_task(composed)
    done = JobSpec(words, config, dict(choices), composed.hydra.job.override_dirname)
    if config.resume is not None:
        _check_resume(config, words)
        return done
    check_config(config, known.right)
    check_task_keys(config, words)
    places = {key: config.trainer.get(key) for key in SINGLE_PROCESS}
    if choices["task"] not in ("train", "plan") and places != SINGLE_PROCESS:
        said = ", ".join(f"trainer.{key}={value}" for key, value in places.items())
        raise UserError(f"task={choices['task']} runs on one device: leave out {said}.")
    if config.checkpoint is not None and not Path(config.checkpoint).expanduser().is_dir():
        raise UserError(f"checkpoint={config.checkpoint}: there is no such directory.")
    if config.runs is not None and choices["task"] != "status":
        _check_runs(config.runs)
    if config.task["_target_"] in (EVALUATE, EVALUATE_REWARDS):
        _check_sets(config)
    if config.checkpoint is None:
        _check_parts(config, choices, known)
    return done


def _check_runs(runs: Any) -> None:
    """Every name in `runs` leads somewhere."""
    from rmexp.analysis.compare.runs import places

    for text in [runs] if isinstance(runs, str) else list(runs):
        places(str(text))


def _check_sets(config: DictConfig) -> None:
    """The evaluation sets are there, and so are files of rewards."""
    from rmexp.config.compose import build
    from rmexp.data.sources import check_source
    from rmexp.evaluation.eval_sets import expand_sets
    from rmexp.evaluation.external_rewards import check_rewards

    evaluation = build(config.eval)
    for one in expand_sets(evaluation):
        check_source(one.path, "eval.path")
    for one in expand_sets(evaluation) or [evaluation]:
        if one.scores is not None:
            check_rewards(one.scores)


def _check_parts(config: DictConfig, choices: Mapping[str, str], known: ComposeCache) -> None:
    """Build what the task will, and is cheap: combinations are refused, and missing files."""
    from rmexp.losses.compatibility import check_fits

    wanted = inspect.signature(locate("task", config.task["_target_"])).parameters
    cheap = ("data", "template", "trainer", "model", "tune")
    parts = {group: known.build(group, config[group]) for group in cheap if group in wanted}
    if "data" in parts:
        parts["data"].check_sources()
    for group in (g for g in ("template", "model") if g in parts):
        parts[group].check()
    _check_devices(parts, choices["task"], known.launcher)
    if "loss" in wanted and parts["data"].label_kinds is not None:
        check_fits(
            known.build("loss", config.loss),
            choices["loss"],
            parts["data"].label_kinds,
            choices["data"],
        )
    if "tune" in parts:
        parts["tune"].check(parts["model"])


def _check_devices(parts: Mapping[str, Any], task: str, launcher: str = "basic") -> None:
    """The devices that a training is to have are there, and go with its other parts."""
    from rmexp.models.tuning import Head, LastLayers

    if task not in ("train", "plan"):
        return
    if task == "train":  # a plan may be for other machines
        parts["trainer"].check_devices(here=launcher in THIS_HOST)
    if parts["trainer"].strategy == "fsdp":
        if isinstance(parts["tune"], (Head, LastLayers)):
            raise UserError(
                "trainer=fsdp parts what trains, and with tune=head or tune=last_layers most of "
                "the model does not: take trainer=ddp."
            )
        if parts["model"].compile:
            raise UserError("trainer=fsdp does not go with model.compile=true: leave one out.")


def _is_sweep_file(overrides: list[str], config_dir: str | None) -> bool:
    """Does the command compose a file that asks for a multirun (`+sweeps=NAME`)?"""
    if not any(override.startswith("+sweeps=") for override in overrides):
        return False
    plain = [override for override in overrides if not _is_sweep(override)]
    return str(compose_config(plain, config_dir).hydra.mode).endswith("MULTIRUN")


def _check_launcher(launcher: str) -> None:
    """What hands out the jobs is installed."""
    package, extra = _ENGINES.get(launcher, ("hydra", ""))
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"hydra/launcher={launcher} is not installed: pip install 'rmexp[{extra}]'."
        )


_ENGINES = {
    "joblib": ("joblib", "joblib"),
    "ray": ("ray", "ray"),
    "submitit_local": ("submitit", "slurm"),
    "submitit_slurm": ("submitit", "slurm"),
}
"""Option of hydra/launcher -> its package, and the extra that brings it."""


def _grid(overrides: list[str], config_dir: str | None) -> tuple[list[list[str]], bool, str]:
    """The override lists of a multirun's jobs, sweeps in files (hydra.sweeper.params) included;
    whether a sweeper of its own kind chooses the jobs: then the list has what they share; and the
    launcher."""
    plain = [override for override in overrides if not _is_sweep(override)]
    config = compose_config(plain, config_dir)
    params = config.hydra.sweeper.get("params") or {}
    plain = [override for override in plain if not override.startswith("hydra")]
    launcher = config.hydra.runtime.choices["hydra/launcher"]
    if config.hydra.runtime.choices["hydra/sweeper"] != GRID_SWEEPER:
        return [plain], True, launcher
    asked = [override for override in overrides if not override.startswith("hydra")]
    given = [*(f"{key}={value}" for key, value in params.items()), *asked]
    parsed = [parse(word) for word in given]
    batches = BasicSweeper.split_arguments(parsed, max_batch_size=None)
    return [list(job) for batch in batches for job in batch], False, launcher


def _is_sweep(override: str) -> bool:
    return parse(override).is_sweep_override()


def _check_resume(config: DictConfig, overrides: list[str]) -> None:
    """A resumed run goes on exactly as it was: nothing can be set but the devices."""
    from rmexp.config.compose import build
    from rmexp.inference.checkpoint import PLACES, resumed_config

    directory = config.resume
    others = [o for o in overrides if o.split("=", 1)[0] not in ("resume", *PLACES)]
    if others:
        raise UserError(
            f"resume goes on with the run's own configuration: leave out {' '.join(others)}."
        )
    for name in ("config.yaml", "result.json", "checkpoints/last.ckpt"):
        if not (Path(directory) / name).is_file():
            raise UserError(f"resume={directory}: cannot go on, as {name} is not there.")
    state = read_state(Path(directory))
    if state.status == "done":
        raise UserError(f"resume={directory}: that run is done.")
    if state.status == "running":
        raise UserError(
            f"resume={directory}: that run is at work "
            f"(process {state.result['pid']} on {state.result['host']})."
        )
    saved = resumed_config(config, overrides)
    parts = {group: build(saved[group]) for group in ("trainer", "tune", "model")}
    _check_devices(parts, state.result["task"])
