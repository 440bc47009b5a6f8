"""Runs that differ in nothing but their seed are one setting; what differs between settings."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rmexp.analysis.compare.paired_runs import ScoredRun
from rmexp.analysis.compare.runs import SkippedRun, is_setting

ABSENT = None
"""The value of a key that a setting does not have."""


MAX_NAME_LENGTH = 40
"""Signs of a value in a setting's name."""


@dataclass(frozen=True)
class RunGroup:
    """A configuration without its seed, and the checkpoints that came of it.

    name       what differs from the others, or the run's own name
    entries    by seed
    values     of the keys that differ between the settings
    """

    name: str
    entries: tuple[ScoredRun, ...]
    values: Mapping[str, Any]

    def items(self, metric: str) -> np.ndarray:
        """(S, P) what each seed and pair adds to an itemwise metric."""
        return np.stack([entry.items(metric) for entry in self.entries])

    def metric(self, name: str) -> float | None:
        """The mean over seeds; None where one of them did not log it."""
        values = [entry.metrics.get(name) for entry in self.entries]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    def cost(self, name: str) -> float | None:
        """The mean over those seeds that know it."""
        known = [e.run.cost[name] for e in self.entries if name in e.run.cost]
        return float(np.mean(known)) if known else None


def group_runs(entries: Sequence[ScoredRun]) -> tuple[list[RunGroup], list[str], list[SkippedRun]]:
    """The settings, the keys that differ between them, and runs that are there twice."""
    groups: dict[tuple[Any, ...], dict[Any, ScoredRun]] = {}
    left: list[SkippedRun] = []
    for entry in entries:
        key, seed = entry.run.identity("seed"), entry.run.config.get("seed")
        same = groups.setdefault(key, {}).get(seed)
        if same is None:
            groups[key][seed] = entry
        elif np.array_equal(same.gaps_P, entry.gaps_P):
            why = f"the same configuration, seed and rewards as {same.run.name}: counted once"
            left.append(SkippedRun(entry.run.name, entry.run.path, "left out", why))
        else:  # another code, or another machine: a setting of its own
            groups[*key, str(entry.run.path)] = {seed: entry}
    members = [tuple(by_seed[s] for s in _ordered(by_seed)) for by_seed in groups.values()]
    keys = differing_settings([group[0] for group in members])
    settings = [
        RunGroup("", group, {key: group[0].run.config.get(key, ABSENT) for key in keys})
        for group in members
    ]
    return _named(_with_labels(settings), keys), keys, left


def _ordered(seeds: Mapping[Any, ScoredRun]) -> list[Any]:
    return sorted(seeds, key=lambda seed: (seed is None, seed))


def differing_settings(entries: Sequence[ScoredRun]) -> list[str]:
    """The keys in which runs differ; the ones that somebody set come first.

    A key that follows from an option (each loss brings its own keys and defaults) is left out,
    unless a command line named it.
    """
    runs = [entry.run for entry in entries if not entry.run.is_file]
    every = sorted({key for run in runs for key in run.config if is_setting(key) and key != "seed"})
    differ = [k for k in every if len({repr(run.config.get(k, ABSENT)) for run in runs}) > 1]
    given = frozenset().union(*(run.given for run in runs)) if runs else frozenset()
    labels = [g for g in ("model", "data", "loss") if len({r.labels.get(g) for r in runs}) > 1]
    kept = []
    for key in differ:
        group = key.split(".")[0]
        options = {(run.labels.get(group), repr(run.config.get(key, ABSENT))) for run in runs}
        follows = group in labels and len(options) == len({option for option, _ in options})
        if key in given or not follows:
            kept.append(key)
    return [*reversed(labels), *sorted(kept, key=lambda k: (k not in given, k))]


def _with_labels(settings: Sequence[RunGroup]) -> list[RunGroup]:
    """The same, with the option chosen as the value of a group."""
    return [
        replace(s, values={k: s.entries[0].run.labels.get(k, v) for k, v in s.values.items()})
        for s in settings
    ]


def _named(settings: Sequence[RunGroup], keys: Sequence[str]) -> list[RunGroup]:
    """The same, named by what differs, or else by their first run."""
    names = [" ".join(_words(setting, keys)) for setting in settings]
    return [
        replace(setting, name=name if name and names.count(name) == 1 else _run_name(setting))
        for setting, name in zip(settings, names, strict=True)
    ]


def _words(setting: RunGroup, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        if setting.values[key] is not ABSENT:
            yield f"{key}={shorten(setting.values[key])}"


def shorten(value: Any) -> str:
    """A value in few signs: the last part of a path, the name of a `_target_`, its end."""
    text = str(value).rstrip("/")
    text = text.rsplit("/", 1)[-1] or text
    return text if len(text) <= MAX_NAME_LENGTH else f"...{text[-MAX_NAME_LENGTH + 3 :]}"


def _run_name(setting: RunGroup) -> str:
    names = [entry.run.name for entry in setting.entries]
    return names[0] if len(names) == 1 else f"{names[0]} (and {len(names) - 1} more seeds)"
