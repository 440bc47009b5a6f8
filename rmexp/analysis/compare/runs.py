"""Find the runs that `runs=` names: run directories, folders of them (sweeps), reward files."""

import dataclasses
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rmexp.config.schema import LINEAR_TARGET
from rmexp.config.trust import check_links
from rmexp.config.yaml_io import read_yaml
from rmexp.core.errors import UserError
from rmexp.tracking.run_state import read_state

TASKS_WITH_REWARDS = ("train", "evaluate", "merge")
MERGED = "merged"
"""The key of `Run.config` that tells how many runs a run merges (task=merge)."""

COST = ("training_seconds", "pairs_per_second", "peak_memory_gib")

NO_SETTING = (
    *("name", "resume", "cache", "out", "source", "runs", "checkpoint", "trust"),
    *("aggregate", "lcb_lambda"),
    *("data.cache", "trainer.keep", "trainer.checkpoint_every", "rmexp_version"),
)
"""Keys that do not affect what a run computes."""

NO_SETTINGS = ("logger.", "task.", "eval.", "sweep.")
"""Prefixes of such keys."""


@dataclass(frozen=True)
class Run:
    """A finished run, a file of rewards, or an ensemble of these.

    config     `group.key` -> value; of an evaluation: the configuration of the evaluated training
    labels     group -> chosen option
    given      keys on its command line
    metrics    `SET/metric` -> value
    cost       of its training: the keys of `COST`
    data       fingerprint of its data
    fold       what was held out in cross-validation, see `splits.Fold`
    parts      the folds that this run pools; `part_of`: comparison -> index of its fold
    members    of an ensemble, which has nothing else of its own but name and path
    trained    directory of the training, with the calibration: another one for an evaluation; None
               where none is known, as of a file or an evaluation without a checkpoint
    """

    name: str
    path: Path
    config: Mapping[str, Any] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    given: frozenset[str] = frozenset()
    metrics: Mapping[str, float] = field(default_factory=dict)
    cost: Mapping[str, float] = field(default_factory=dict)
    data: str | None = None
    fold: Mapping[str, Any] | None = None
    parts: tuple["Run", ...] = ()
    part_of: Mapping[str, int] = field(default_factory=dict)
    members: tuple["Run", ...] = ()
    trained: Path | None = None

    @property
    def is_file(self) -> bool:
        """Whether it is a file of rewards."""
        return self.path.is_file()

    @property
    def has_settings(self) -> bool:
        """Whether it was trained with settings that tell it from others."""
        return self.trained is not None

    @property
    def paths(self) -> list[Path]:
        """Its directory, those of the folds that it pools, or of the members of an ensemble."""
        return [part.path for part in self.parts or self.members] or [self.path]

    def identity(self, *without: str) -> tuple[Any, ...]:
        """Equal for runs with equal settings, ignoring the keys `without`."""
        if not self.has_settings:
            return (self.name, *map(str, self.paths))
        settings = {k: v for k, v in self.config.items() if k not in without and is_setting(k)}
        return tuple(sorted((k, repr(v)) for k, v in settings.items()))


@dataclass(frozen=True)
class SkippedRun:
    """A run that is not compared, and why."""

    name: str
    path: Path
    status: str
    why: str


def value_on_command_line(run: Run, key: str) -> Any:
    """The chosen option of a group of keys, or the value of a key; None without it."""
    return run.labels.get(key, run.config.get(key))


def is_setting(key: str) -> bool:
    """Whether a configuration key affects what a run computes."""
    return key not in NO_SETTING and not key.startswith(NO_SETTINGS)


def find_runs(given: Sequence[str]) -> tuple[list[Run], list[SkippedRun]]:
    """Read everything that `runs` names, each run once.

    Raises:
        UserError: a name does not exist or has no runs.
    """
    paths: dict[Path, Path] = {}
    for path in (path for text in given for path in places(text)):
        paths.setdefault(path.resolve(), path)
    found = [Run(p.stem, p) if p.is_file() else read_run(p) for p in paths.values()]
    runs = [one for one in found if isinstance(one, Run)]
    return _with_unique_names(runs), [one for one in found if isinstance(one, SkippedRun)]


def places(text: str, key: str = "runs") -> list[Path]:
    """The run directories and reward files that one name stands for.

    Args:
        key: that the name is given to, for messages.

    Raises:
        UserError: it does not exist, or has nothing that can be compared.
    """
    path = Path(text).expanduser()
    if path.is_file() and path.suffix != ".wandb":
        return [path]
    if not path.exists():
        raise UserError(f"{key}={text}: there is no such file or directory.")
    if found := sorted(_run_directories(path), key=_natural):
        return found
    inside = ("*.wandb", "*/*.wandb")
    mirrored = path.suffix == ".wandb" or any(any(path.glob(pattern)) for pattern in inside)
    if home := next((p for p in path.absolute().parents if mirrored and _is_run(p)), None):
        return [home]  # an offline W&B run lies inside its run directory
    if mirrored:
        raise UserError(
            f"{key}={text}: a W&B run outside of a run directory of rmexp (it was moved, or rmexp "
            "did not make it) has no reward of every response; name the run directory instead, or "
            "a file of rewards (rows id, response, reward)."
        )
    raise UserError(f"{key}={text}: there is no run in it (no result.json).")


def _run_directories(path: Path) -> Iterator[Path]:
    for folder, inner, _ in os.walk(path):
        if _is_run(Path(folder)):
            inner.clear()
            yield Path(folder)


def _is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() and not any(folder.glob("*/result.json"))


def _natural(path: Path) -> list[Any]:
    """Sort key that puts job 10 after job 9."""
    parts = re.split(r"(\d+)", str(path))
    return [(len(part), part) if part.isdigit() else (0, part) for part in parts]


def read_run(home: Path) -> Run | SkippedRun:
    """Read a run directory, or say why it cannot be compared."""
    state = read_state(home)
    result = state.result

    def skipped(status: str, why: str) -> SkippedRun:
        return SkippedRun(home.name, home, status, why)

    if state.status == "broken":
        return skipped("unreadable", "its result.json is incomplete")
    if state.status in ("running", "dead"):
        beat = result.get("heartbeat", "its start")
        alive = state.status == "running"
        return skipped(state.status, "it is running" if alive else f"no heartbeat since {beat}")
    if state.status != "done":
        status = result.get("status", state.status)
        return skipped(status, result.get("error") or "no reason is given")
    if result.get("task") not in TASKS_WITH_REWARDS:
        return skipped("done", f"task={result.get('task')} computes no rewards")
    if not (home / "config.yaml").is_file():
        return skipped("done", "it has no config.yaml")
    try:
        check_links(home)
    except UserError as error:
        return skipped("unreadable", str(error))
    return finished_run(home, result)


def finished_run(home: Path, result: Mapping[str, Any]) -> Run:
    """A run; name, configuration and cost of an evaluation are those of its training, if found."""
    origin, config, given = home, read_yaml(home / "config.yaml"), _given(home)
    found = Run(
        name=home.resolve().name,
        path=home,
        metrics=result.get("metrics") or {},
        data=_read_json(home / "environment.json").get("data_fingerprint"),
        fold=result.get("fold"),
    )
    if result.get("task") == "evaluate" and not config.get("checkpoint"):
        return found
    trained = Path(config.get("checkpoint") or "").expanduser()
    if config.get("checkpoint") and (trained / "config.yaml").is_file():
        origin, config = trained, read_yaml(trained / "config.yaml")
        given |= _given(origin)
    if members := result.get(MERGED):
        config[MERGED] = f"{len(members)} runs"
    config.setdefault("head", {"_target_": LINEAR_TARGET})
    training = result if origin == home else _read_json(origin / "result.json")
    return dataclasses.replace(
        found,
        name=origin.resolve().name,
        config=dict(_flat(config)),
        labels={"head": "linear"} | (result.get("labels") or {}),
        given=frozenset(given),
        cost={name: training[name] for name in COST if training.get(name) is not None},
        trained=origin,
    )


def _read_json(file: Path) -> dict[str, Any]:
    return json.loads(file.read_bytes()) if file.is_file() else {}


def _given(home: Path) -> set[str]:
    file = home / "overrides.yaml"
    overrides = read_yaml(file) if file.is_file() else []
    return {override.split("=", 1)[0].lstrip("+~") for override in overrides}


def _flat(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`group.key` -> value; lists are values."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_unique_names(runs: Sequence[Run]) -> list[Run]:
    """Prefix the folder to names that several runs have."""
    names = [run.name for run in runs]
    return [
        dataclasses.replace(run, name=f"{run.path.resolve().parent.name}/{run.path.name}")
        if names.count(run.name) > 1
        else run
        for run in runs
    ]
