"""Align runs on the same labelled pairs, and say which runs cannot be aligned."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.analysis.compare.cross_validation import (
    OpenRun,
    Rewards,
    pool_folds,
    standard_deviations,
)
from rmexp.analysis.compare.ensembles import ensembles_of
from rmexp.analysis.compare.runs import Run, SkippedRun
from rmexp.core.errors import UserError
from rmexp.data.reward_file import read_rewards
from rmexp.data.verdict_file import is_verdict_file, read_verdicts
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.external_verdicts import outcome
from rmexp.evaluation.metrics import itemwise_metrics
from rmexp.evaluation.reliability import calibration_error
from rmexp.evaluation.stats.bootstrap import clustered_mean
from rmexp.tracking.predictions import Judgements, read_judgements, read_predictions


@dataclass(frozen=True)
class ScoredRun:
    """A run with its rewards on the P labelled pairs that all compared runs share.

    gaps_P        r_better - r_worse, in fp64 over fp32 rewards
    reward_std    standard deviation of the rewards of all responses; of pooled folds (P,), that of
                  each pair's fold
    metrics       of the set, by their names without the set's
    has_scale     whether gaps are more than sides: not those of pairwise verdicts
    """

    run: Run
    gaps_P: np.ndarray
    reward_std: float | np.ndarray
    metrics: Mapping[str, float]
    has_scale: bool = True

    def items(self, metric: str) -> np.ndarray:
        """(P,) the value of each pair, of an itemwise metric."""
        return itemwise_metrics()[metric](self.gaps_P, self.reward_std)


def pair_runs(
    runs: Sequence[Run], name: str, ensembles: Sequence[Aggregation] = ()
) -> tuple[Judgements, list[ScoredRun], list[SkippedRun]]:
    """Align the runs on the labelled pairs of the set `name`.

    Where runs have different pairs, the most common ones are used and the other runs are skipped.
    Files of rewards use the pairs of the runs, and so do the `ensembles` of all that are aligned.

    Raises:
        UserError: no run has the set.
    """
    opened, skipped = _open([run for run in runs if not run.is_file], name)
    opened, more = pool_folds(opened, name)
    skipped += more
    if not opened:
        raise UserError(_nothing(runs, skipped, name))
    digests = [one.judgements.digest for one in opened]
    common = max(digests, key=Counter(digests).__getitem__)  # the first of equally common ones
    first, shared, known = opened[digests.index(common)]
    scored: list[ScoredRun] = []
    aligned: list[tuple[Run, Rewards]] = []

    def add(run: Run, own: Judgements, rewards: Rewards, responses: Rewards) -> None:
        found = _score(run, own, rewards, responses, name)
        if isinstance(found, ScoredRun):
            scored.append(found)
            aligned.append((run, rewards))
        else:
            skipped.append(found)

    for run, judgements, rewards in opened:
        if judgements.digest == common:
            add(run, judgements, rewards, rewards)
        else:
            skipped.append(_skipped(run, _other_rows(run, judgements, first, shared, name)))
    for run in (run for run in runs if run.is_file):
        try:
            if is_verdict_file(str(run.path)):
                judge = _score_verdicts(run, shared)
                if isinstance(judge, ScoredRun):
                    scored.append(judge)
                else:
                    skipped.append(judge)
            else:
                add(run, shared, read_rewards(str(run.path)), known)
        except UserError as error:
            skipped.append(_skipped(run, str(error).removeprefix("eval.scores=")))
    for run, rewards in ensembles_of(aligned, ensembles):
        add(run, shared, rewards, known)
    return shared, scored, skipped


def selected_on_same(scored: Sequence[ScoredRun], name: str) -> bool:
    """Whether checkpoints were selected on the rows that are compared."""
    if name == "val":
        return True
    run = next((one.run for one in scored if one.run.has_settings), None)
    if run is None:
        return False
    val, own = (run.path / "judgements" / f"{which}.parquet" for which in ("val", name))
    return val.is_file() and read_judgements(val).digest == read_judgements(own).digest


def _open(runs: Sequence[Run], name: str) -> tuple[list[OpenRun], list[SkippedRun]]:
    opened: list[OpenRun] = []
    skipped: list[SkippedRun] = []
    for run in runs:
        predictions, judgements = (
            run.path / kind / f"{name}.parquet" for kind in ("predictions", "judgements")
        )
        if not predictions.is_file() and (file := run.config.get("eval.scores")):
            skipped.append(_skipped(run, f"it has no rewards of {name}: name {file} in its place"))
        elif not predictions.is_file():
            skipped.append(_skipped(run, f"it has no rewards of {name} ({_sets(run.path)})"))
        elif not judgements.is_file():
            again = f"task=evaluate checkpoint={run.path} writes them"
            skipped.append(
                _skipped(run, f"it has no judgements of {name}, as it is older: {again}")
            )
        else:
            try:
                rewards = read_predictions(predictions)
                opened.append(OpenRun(run, read_judgements(judgements), rewards))
            except UserError as error:
                skipped.append(_skipped(run, str(error)))
    return opened, skipped


def _score(
    run: Run, judged: Judgements, rewards: Rewards, responses: Rewards, name: str
) -> ScoredRun | SkippedRun:
    """Join a run's rewards with the labelled pairs; it is skipped if it lacks one of them.

    Args:
        run: the run.
        judged: the shared pairs, by the run's own ids.
        rewards: of the run.
        responses: those of the set, over which rewards have a standard deviation.
        name: of the set.
    """
    better, worse = judged.sides
    needed = dict.fromkeys([*better, *worse])
    missing = [key for key in needed if not math.isfinite(rewards.get(key, math.nan))]
    if missing:
        first = f"{missing[0][0]}, response {missing[0][1]}"
        count = f"{len(missing)} of {len(needed)} responses have no finite reward"
        return _skipped(run, f"{count} (the first: {first})")
    better_P, worse_P = (
        np.array([rewards[key] for key in side], dtype=np.float32) for side in (better, worse)
    )
    gaps_P = better_P.astype(np.float64) - worse_P
    std = standard_deviations(run, rewards, responses, judged.ids_P)
    own = {
        k.removeprefix(f"{name}/"): v for k, v in run.metrics.items() if k.startswith(f"{name}/")
    }
    computed = _gap_metrics(gaps_P, judged, std)
    if len(gaps_P) and (run.parts or "ece_low" not in own):  # resampling is slow
        computed |= calibration_error(gaps_P, judged.prompts_P, judged.weights_P).named("ece")
    # A run's own metrics are more complete; those of pooled folds are only means over the folds.
    return ScoredRun(run, gaps_P, std, own | computed if run.parts else computed | own)


def _score_verdicts(run: Run, judged: Judgements) -> ScoredRun | SkippedRun:
    """Join pairwise verdicts with the labelled pairs; skipped if a pair has none.

    Raises:
        UserError: the file cannot be read.
    """
    verdicts = read_verdicts(str(run.path))
    sides = zip(*judged.sides, strict=True)
    found = [outcome(verdicts, name, better, worse) for (name, better), (_, worse) in sides]
    missing = [name for name, one in zip(judged.ids_P, found, strict=True) if one is None]
    if missing:
        count = f"{len(missing)} of {len(found)} labelled pairs have no verdict"
        return _skipped(run, f"{count} (the first: {missing[0]})")
    outcomes = np.array(found, dtype=np.float64).reshape(-1, 4)
    gaps_P, flips_P = outcomes[:, 0], outcomes[:, 2]
    computed = _gap_metrics(gaps_P, judged, 1.0)
    values = {name: computed[name] for name in SIDE_METRICS if name in computed}
    both_P = ~np.isnan(flips_P)
    if both_P.any():
        columns = (flips_P[both_P], judged.prompts_P[both_P], judged.weights_P[both_P])
        values |= clustered_mean(*columns, (0, 1)).named("position_flips")
    return ScoredRun(run, gaps_P, 1.0, values, has_scale=False)


SIDE_METRICS = ("accuracy", "tie_rate")
"""Metrics of gaps that depend on their signs alone."""


def _gap_metrics(
    gaps_P: np.ndarray, judged: Judgements, std: float | np.ndarray
) -> dict[str, float]:
    """The metrics that depend on gaps alone."""
    if not len(gaps_P):
        return {}
    values = {name: items(gaps_P, std) for name, items in itemwise_metrics().items()}
    values |= {"margin": gaps_P, "tie_rate": gaps_P == 0}
    return {name: float(np.average(x, weights=judged.weights_P)) for name, x in values.items()}


def _other_rows(run: Run, own: Judgements, first: Run, shared: Judgements, name: str) -> str:
    common = own.common(shared)
    what = f"{len(own.ids_P)} pairs, {common} of them among the {len(shared.ids_P)} of {first.name}"
    if common == len(own.ids_P) == len(shared.ids_P):
        what = f"the same pairs as {first.name}, with other weights"
    elif sorted(own.ids_P) == sorted(shared.ids_P):
        what = f"the same ids as {first.name}, with other texts: {what}"
    data = "" if run.data == first.data else f"; its data is other ({run.data}, not {first.data})"
    return f"evaluated on other rows of {name} ({what}{data}), so that no paired test is possible"


def _sets(home: Path) -> str:
    sets = sorted(file.stem for file in (home / "predictions").glob("*.parquet"))
    return f"it has {', '.join(sets)}: task.set={sets[0]}" if sets else "it has none at all"


def _skipped(run: Run, why: str) -> SkippedRun:
    return SkippedRun(run.name, run.path, "left out", why)


def _nothing(runs: Sequence[Run], skipped: Sequence[SkippedRun], name: str) -> str:
    if runs and all(run.is_file for run in runs):
        return (
            "A file of rewards or verdicts does not say which response is better: name a run too, "
            f"whose {name} rows they are of."
        )
    found: Any = [f"{one.name}: {one.why}" for one in skipped]
    return f"No run can be compared on {name}. " + "; ".join(found or ["none is done"]) + "."
