"""Group runs that differ only in their seed, and find what differs between the groups."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmexp.analysis.compare.paired_runs import ScoredRun
from rmexp.analysis.compare.runs import SkippedRun, is_setting, value_on_command_line

ABSENT = None
"""Value of a key that a group does not have."""

MAX_NAME_LENGTH = 40
"""Maximum characters of a value in a group's name."""


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration with different seeds.

    name     what differs from the other groups, or the run's own name
    runs     ordered by seed
    values   of the keys that differ between the groups
    """

    name: str
    runs: tuple[ScoredRun, ...]
    values: Mapping[str, Any]

    def items(self, metric: str) -> np.ndarray:
        """(S, P) the value of each seed and pair, of an itemwise metric."""
        return np.stack([one.items(metric) for one in self.runs])

    def metric(self, name: str) -> float | None:
        """Mean over seeds; None if one of them lacks it."""
        values = [one.metrics.get(name) for one in self.runs]
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if len(known) == len(values) else None

    def cost(self, name: str) -> float | None:
        """Mean over the seeds that have it."""
        known = [one.run.cost[name] for one in self.runs if name in one.run.cost]
        return float(np.mean(known)) if known else None


def group_runs(scored: Sequence[ScoredRun]) -> tuple[list[RunGroup], list[str], list[SkippedRun]]:
    """Group the runs; returns the groups, the keys that differ between them, and duplicates."""
    by_seed: dict[tuple[Any, ...], dict[Any, ScoredRun]] = {}
    skipped: list[SkippedRun] = []
    for one in scored:
        key, seed = one.run.identity("seed"), one.run.config.get("seed")
        same = by_seed.setdefault(key, {}).setdefault(seed, one)
        if same is one:
            continue
        if np.array_equal(same.gaps_P, one.gaps_P):
            why = f"the same configuration, seed and rewards as {same.run.name}: counted once"
            skipped.append(SkippedRun(one.run.name, one.run.path, "left out", why))
        else:  # other code or another machine: a group of its own
            by_seed[*key, str(one.run.path)] = {seed: one}
    members = [
        tuple(seeds[seed] for seed in sorted(seeds, key=lambda seed: (seed is None, seed)))
        for seeds in by_seed.values()
    ]
    keys = differing_settings([runs[0] for runs in members])
    values = [{key: value_on_command_line(runs[0].run, key) for key in keys} for runs in members]
    names = [" ".join(_words(own)) for own in values]
    groups = [
        RunGroup(name if name and names.count(name) == 1 else _run_name(runs), runs, own)
        for name, runs, own in zip(names, members, values, strict=True)
    ]
    return groups, keys, skipped


def differing_settings(scored: Sequence[ScoredRun]) -> list[str]:
    """The keys in which runs differ, those named on a command line first.

    Keys that follow from a chosen option (each loss has its own) are left out unless a command line
    names them.
    """
    runs = [one.run for one in scored if one.run.has_settings]
    every = sorted({key for run in runs for key in run.config if is_setting(key) and key != "seed"})
    differ = [k for k in every if len({repr(run.config.get(k, ABSENT)) for run in runs}) > 1]
    given = frozenset().union(*(run.given for run in runs)) if runs else frozenset()
    labels = [
        g for g in ("model", "data", "head", "loss") if len({r.labels.get(g) for r in runs}) > 1
    ]
    kept = []
    for key in differ:
        group = key.split(".")[0]
        options = {(run.labels.get(group), repr(run.config.get(key, ABSENT))) for run in runs}
        follows = group in labels and len(options) == len({option for option, _ in options})
        if key in given or not follows:
            kept.append(key)
    return [*reversed(labels), *sorted(kept, key=lambda k: (k not in given, k))]


def _words(values: Mapping[str, Any]) -> Iterator[str]:
    for key, value in values.items():
        if value is not ABSENT:
            yield f"{key}={shorten(value)}"


def shorten(value: Any) -> str:
    """A value in few characters: the last part of a path, or the end of a long text."""
    text = str(value).rstrip("/")
    text = text.rsplit("/", 1)[-1] or text
    return text if len(text) <= MAX_NAME_LENGTH else f"...{text[-MAX_NAME_LENGTH + 3 :]}"


def _run_name(runs: Sequence[ScoredRun]) -> str:
    name = runs[0].run.name
    return name if len(runs) == 1 else f"{name} (and {len(runs) - 1} more seeds)"
