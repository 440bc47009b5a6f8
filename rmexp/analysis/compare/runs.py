"""What `runs=` names: run directories, folders of them (sweeps), files of rewards."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rmexp.config.yaml_io import read_yaml
from rmexp.core.errors import UserError
from rmexp.tracking.run_state import STALE_SECONDS

MEASURING = ("train", "evaluate")
"""Tasks whose runs have rewards to compare."""


COST = ("training_seconds", "pairs_per_second", "peak_memory_gib")


NO_SETTING = (
    *("name", "resume", "cache", "out", "source", "runs", "checkpoint"),
    *("data.cache", "trainer.keep", "trainer.checkpoint_every", "rmexp_version"),
)


NO_SETTINGS = ("logger.", "task.", "eval.", "sweep.")
"""Keys (and beginnings of keys) that say where a run goes, and not what it is."""


@dataclass(frozen=True)
class Run:
    """A run that is done, or a file of rewards.

    config     its settings as `group.key` -> value; of an evaluated run those of its training
    labels     group -> the option chosen
    given      the keys that its command line named
    metrics    `SET/metric` -> number
    cost       of its training: training_seconds, pairs_per_second, peak_memory_gib
    data       fingerprint of its data
    fold       of a cross-validation: what was held out, see `splits.Fold.deal`
    parts      the runs, one a fold, that this one is the union of; `part_of`: comparison -> part
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

    @property
    def is_file(self) -> bool:
        """Is it a file of rewards?"""
        return self.path.is_file()

    @property
    def paths(self) -> list[Path]:
        """Where it lies; the folds' directories where it is a union of them."""
        return [part.path for part in self.parts] or [self.path]

    def identity(self, *without: str) -> tuple[Any, ...]:
        """Equal for runs whose settings are, but for those `without`."""
        if self.is_file:
            return (str(self.path),)
        settings = {k: v for k, v in self.config.items() if k not in without and is_setting(k)}
        return tuple(sorted((k, repr(v)) for k, v in settings.items()))


@dataclass(frozen=True)
class SkippedRun:
    """A run that is not compared, and why."""

    name: str
    path: Path
    status: str
    why: str


def is_setting(key: str) -> bool:
    """Does the key say what a run is, and not where it goes?"""
    return key not in NO_SETTING and not key.startswith(NO_SETTINGS)


def find_runs(given: Sequence[str]) -> tuple[list[Run], list[SkippedRun]]:
    """Everything that `runs` names, each once.

    Raises:
        UserError: a name leads nowhere.
    """
    runs, left, seen = [], [], set()
    for place in (place for text in given for place in places(text)):
        if place.resolve() in seen:
            continue
        seen.add(place.resolve())
        found = Run(place.stem, place) if place.is_file() else read_run(place)
        if isinstance(found, Run):
            runs.append(found)
        else:
            left.append(found)
    return _with_own_names(runs), left


def places(text: str) -> list[Path]:
    """The run directories and files of rewards that one name means.

    Raises:
        UserError: there is nothing, or only what cannot be compared.
    """
    path = Path(text).expanduser()
    if path.is_file() and path.suffix != ".wandb":
        return [path]
    if not path.exists():
        raise UserError(f"runs={text}: there is no such file or directory.")
    if found := sorted(_below(path), key=_natural):
        return found
    inside = ("*.wandb", "*/*.wandb")
    mirrored = path.suffix == ".wandb" or any(any(path.glob(where)) for where in inside)
    if home := next((p for p in path.absolute().parents if mirrored and _is_run(p)), None):
        return [home]  # W&B keeps its offline runs inside of ours
    if mirrored:
        raise UserError(
            f"runs={text}: a W&B run outside of a run directory of rmexp (it was moved, or rmexp "
            "did not make it) has no reward of every response; name the run directory instead, or "
            "a file of rewards (rows id, response, reward)."
        )
    raise UserError(f"runs={text}: there is no run in it (no result.json).")


def _below(path: Path) -> Iterator[Path]:
    """The run directories in a folder, or the folder itself."""
    for folder, inner, _ in os.walk(path):
        if _is_run(Path(folder)):
            inner.clear()
            yield Path(folder)


def _is_run(folder: Path) -> bool:
    return (folder / "result.json").is_file() and not any(folder.glob("*/result.json"))


def _natural(path: Path) -> list[Any]:
    """Sorts job 10 behind job 9."""
    return [(len(part), part) if part.isdigit() else (0, part) for part in _pieces(path)]


def _pieces(path: Path) -> list[str]:
    return re.split(r"(\d+)", str(path))


def read_run(home: Path) -> Run | SkippedRun:
    """A run directory, or why it cannot be compared."""
    try:
        result = json.loads((home / "result.json").read_text())
        status = result["status"]
    except (ValueError, KeyError, TypeError):
        return SkippedRun(home.name, home, "unreadable", "its result.json is not whole")
    if status == "running":
        return SkippedRun(home.name, home, *_sign_of_life(result))
    if status != "done":
        return SkippedRun(home.name, home, status, result.get("error") or "no reason is given")
    if result.get("task") not in MEASURING:
        return SkippedRun(home.name, home, status, f"task={result.get('task')} measures no rewards")
    if not (home / "config.yaml").is_file():
        return SkippedRun(home.name, home, status, "it has no config.yaml")
    return _done(home, result)


def _sign_of_life(result: Mapping[str, Any]) -> tuple[str, str]:
    beat = result.get("heartbeat")
    if beat is None:
        return "running", "it has just begun, or died at once"
    age = (datetime.now(UTC) - datetime.fromisoformat(beat)).total_seconds()
    if age < STALE_SECONDS:
        return "running", "it is at work"
    return "running", f"no sign of life since {beat}: it died, or its machine sleeps"


def _done(home: Path, result: Mapping[str, Any]) -> Run:
    """What an evaluated run is, its training says, where that is a run that is still there."""
    origin, config, given = home, read_yaml(home / "config.yaml"), _given(home)
    trained = Path(config.get("checkpoint") or "").expanduser()
    if config.get("checkpoint") and (trained / "config.yaml").is_file():
        origin, config = trained, read_yaml(trained / "config.yaml")
        given |= _given(origin)
    training = result if origin == home else _json(origin / "result.json")
    return Run(
        name=origin.resolve().name,
        path=home,
        config=dict(_flat(config, "")),
        labels=result.get("labels") or {},
        given=frozenset(given),
        metrics=result.get("metrics") or {},
        cost={name: training[name] for name in COST if training.get(name) is not None},
        data=_json(home / "environment.json").get("data_fingerprint"),
        fold=result.get("fold"),
    )


def _json(file: Path) -> dict[str, Any]:
    """The facts of a file, or none of them."""
    return json.loads(file.read_text()) if file.is_file() else {}


def _given(home: Path) -> set[str]:
    """The keys of a run's command line."""
    file = home / "overrides.yaml"
    overrides = read_yaml(file) if file.is_file() else []
    return {override.split("=", 1)[0].lstrip("+~") for override in overrides}


def _flat(node: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """`group.key` -> value; lists are values."""
    for key, value in node.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _with_own_names(runs: list[Run]) -> list[Run]:
    """The same, with the folder in front where two have one name."""
    names = [run.name for run in runs]
    return [
        Run(**{**vars(run), "name": f"{run.path.resolve().parent.name}/{run.path.name}"})
        if names.count(run.name) > 1
        else run
        for run in runs
    ]
