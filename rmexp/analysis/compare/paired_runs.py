"""Runs on the same judged pairs: what is compared item by item, and what cannot be."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.analysis.compare.cross_validation import (
    OpenedFolds,
    Rewards,
    pool_folds,
    standard_deviations,
)
from rmexp.analysis.compare.runs import Run, SkippedRun
from rmexp.core.errors import UserError
from rmexp.evaluation.external_rewards import read_rewards
from rmexp.evaluation.metrics import itemwise_metrics
from rmexp.evaluation.reliability import pair_scores
from rmexp.tracking.predictions import Judgements, read_judgements, read_predictions


@dataclass(frozen=True)
class ScoredRun:
    """A run with its rewards on the P judged pairs that all entries share.

    gaps_P        r_better - r_worse, in fp64 over fp32 rewards
    reward_std    deviation of the rewards of all its responses; of folds (P,), of each pair's
    metrics       of the set, by their names without it
    """

    run: Run
    gaps_P: np.ndarray
    reward_std: float | np.ndarray
    metrics: Mapping[str, float]

    def items(self, metric: str) -> np.ndarray:
        """(P,) the value of each pair, of an itemwise metric."""
        return itemwise_metrics()[metric](self.gaps_P, self.reward_std)


def pair_runs(
    runs: Sequence[Run], name: str
) -> tuple[Judgements, list[ScoredRun], list[SkippedRun]]:
    """The runs that share the judged pairs of the set `name`, and those that do not.

    Where runs are judged on different pairs, the most common ones count. A file of rewards is
    judged by the pairs of the runs.

    Raises:
        UserError: no run has the set.
    """
    opened, left = _open([run for run in runs if not run.is_file], name)
    opened, more = pool_folds(opened, name)
    left += more
    if not opened:
        raise UserError(_nothing(runs, left, name))
    digests = [judgements.digest for _, judgements, _ in opened]
    most = max(digests, key=Counter(digests).__getitem__)  # of several the first
    first, shared, known = opened[digests.index(most)]
    entries: list[ScoredRun] = []
    for run, judgements, rewards in opened:
        if judgements.digest != most:
            left.append(_left(run, _other_rows(run, judgements, first, shared, name)))
        else:
            _add(run, shared, rewards, known, name, entries, left)
    for run in runs:
        if run.is_file:
            try:
                rewards = read_rewards(str(run.path))
            except UserError as error:
                left.append(_left(run, str(error).removeprefix("eval.scores=")))
            else:
                _add(run, shared, rewards, known, name, entries, left)
    return shared, entries, left


def selected_on_same(entries: Sequence[ScoredRun], name: str) -> bool:
    """Are the judged rows those that selected the checkpoints?"""
    if name == "val":
        return True
    run = next(entry.run for entry in entries if not entry.run.is_file)
    val, own = (run.path / "judgements" / f"{which}.parquet" for which in ("val", name))
    return val.is_file() and read_judgements(val).digest == read_judgements(own).digest


def _open(runs: Sequence[Run], name: str) -> tuple[list[OpenedFolds], list[SkippedRun]]:
    opened: list[OpenedFolds] = []
    left: list[SkippedRun] = []
    for run in runs:
        predictions, judgements = (
            run.path / kind / f"{name}.parquet" for kind in ("predictions", "judgements")
        )
        if not predictions.is_file():
            left.append(_left(run, f"it has no rewards of {name} ({_has(run.path)})"))
        elif not judgements.is_file():
            again = f"task=evaluate checkpoint={run.path} makes them"
            left.append(_left(run, f"it has no judgements of {name}, as it is older: {again}"))
        else:
            try:
                opened.append((run, read_judgements(judgements), read_predictions(predictions)))
            except UserError as error:
                left.append(_left(run, str(error)))
    return opened, left


def _add(
    run: Run,
    shared: Judgements,
    rewards: Rewards,
    known: Rewards,
    name: str,
    entries: list[ScoredRun],
    left: list[SkippedRun],
) -> None:
    """Join a run's rewards with the judged pairs; it is left out where one of them is missing."""
    sides = [
        list(zip(shared.ids_P.tolist(), side.tolist(), strict=True))
        for side in (shared.better_P, shared.worse_P)
    ]
    judged = dict.fromkeys(key for side in sides for key in side)
    lost = [key for key in judged if not math.isfinite(rewards.get(key, math.nan))]
    if lost:
        where = f"{lost[0][0]}, response {lost[0][1]}"
        counted = f"{len(lost)} of {len(judged)} judged responses have no finite reward"
        left.append(_left(run, f"{counted} (the first: {where})"))
        return
    better, worse = (np.array([rewards[k] for k in side], dtype=np.float32) for side in sides)
    gaps_P = better.astype(np.float64) - worse
    std = standard_deviations(run, rewards, known, shared.ids_P)
    own = {
        k.removeprefix(f"{name}/"): v for k, v in run.metrics.items() if k.startswith(f"{name}/")
    }
    anew = _metrics(gaps_P, shared.weights_P, std)
    # A run knows its own numbers best; of folds they are means, which all pairs together are not.
    entries.append(ScoredRun(run, gaps_P, std, own | anew if run.parts else anew | own))


def _metrics(
    gaps_P: np.ndarray, weights_P: np.ndarray, std: float | np.ndarray
) -> dict[str, float]:
    """Metrics of pairs that need nothing but their gaps."""
    if not len(gaps_P):
        return {}
    values = {name: items(gaps_P, std) for name, items in itemwise_metrics().items()}
    values |= {"margin": gaps_P, "tie_rate": gaps_P == 0}
    means = {name: float(np.average(x, weights=weights_P)) for name, x in values.items()}
    return means | pair_scores(gaps_P, weights_P)


def _other_rows(run: Run, own: Judgements, first: Run, shared: Judgements, name: str) -> str:
    common = len(own.keys & shared.keys)
    what = f"{len(own.ids_P)} pairs, {common} of them among the {len(shared.ids_P)} of {first.name}"
    if common == len(own.ids_P) == len(shared.ids_P):
        what = f"the same ids as {first.name}, with other prompts or weights"
    data = "" if run.data == first.data else f"; its data is other ({run.data}, not {first.data})"
    return f"judged on other rows of {name} ({what}{data}), so that no paired test is possible"


def _has(home: Path) -> str:
    sets = sorted(file.stem for file in (home / "predictions").glob("*.parquet"))
    return f"it has {', '.join(sets)}: task.set={sets[0]}" if sets else "it has none at all"


def _left(run: Run, why: str) -> SkippedRun:
    return SkippedRun(run.name, run.path, "left out", why)


def _nothing(runs: Sequence[Run], left: Sequence[SkippedRun], name: str) -> str:
    if runs and all(run.is_file for run in runs):
        return (
            "A file of rewards does not say which response is better: name a run too, whose "
            f"{name} rows they are of."
        )
    found: Any = [f"{one.name}: {one.why}" for one in left]
    return f"No run can be compared on {name}. " + "; ".join(found or ["none is done"]) + "."
