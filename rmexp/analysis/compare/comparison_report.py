"""A comparison as a whole: settings ranked, tested against each other, with what cannot be said."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.analysis.compare import cross_validation
from rmexp.analysis.compare.main_effects import Effect, confounded, main_effects
from rmexp.analysis.compare.paired_runs import ScoredRun, pair_runs, selected_on_same
from rmexp.analysis.compare.pairwise_tests import PairVerdict, RunPairs, test_pairs
from rmexp.analysis.compare.run_groups import RunGroup, group_runs
from rmexp.analysis.compare.runs import COST, SkippedRun, find_runs
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.evaluation.metrics import itemwise_metrics, lower_is_better, shown_in
from rmexp.evaluation.stats.bootstrap import clustered_mean
from rmexp.evaluation.stats.seed_replicates import contrast
from rmexp.tracking.predictions import Judgements


@dataclass(frozen=True)
class ComparisonRow:
    """A setting in the table.

    value low high   of the chosen metric, with its 95% interval (NaN where there is none)
    besides          further metrics; cost: of its training
    verdict          against the best, where that was tested
    """

    setting: RunGroup
    value: float | None
    low: float
    high: float
    besides: dict[str, float | None]
    cost: dict[str, float | None]
    verdict: PairVerdict | None


@dataclass(frozen=True)
class RunComparison:
    """What `compare` found.

    metric    what the table is sorted by; `tested`: what the tests are of
    keys      those in which settings differ
    rows      best first
    left      runs that are not compared, and why
    notes     what a reader must know of these numbers
    """

    set: str
    metric: str
    tested: str
    keys: list[str]
    rows: list[ComparisonRow]
    verdicts: list[PairVerdict]
    effects: list[Effect]
    left: list[SkippedRun]
    notes: list[str]
    judgements: Judgements


def compare_runs(given: Sequence[str], name: str, metric: str, pairs: RunPairs) -> RunComparison:
    """Compare what `runs` names on the evaluation set `name`.

    Args:
        given: run directories, folders of them, files of rewards.
        metric: without the set, e.g. `accuracy`.
        pairs: which pairs are tested, see `pairs.judge_pairs`.

    Raises:
        UserError: nothing can be compared, or nobody logged the metric.
    """
    runs, left = find_runs(given)
    shared, entries, more = pair_runs(runs, name)
    left += more
    if not entries:
        raise UserError(
            f"No run can be compared on {name}. "
            + "; ".join(f"{one.name}: {one.why}" for one in left)
            + "."
        )
    settings, keys, twice = group_runs(entries)
    left += twice
    _check_metric(settings, name, metric)
    ranked = sorted(settings, key=lambda s: _rank(s.metric(metric), metric))
    tested = metric if metric in itemwise_metrics() else "accuracy"
    judged = len(shared.ids_P) > 0
    verdicts = test_pairs(ranked, shared, tested, pairs) if judged else []
    effects = main_effects(settings, keys, shared, tested) if judged and len(keys) > 1 else []
    return RunComparison(
        set=name,
        metric=metric,
        tested=tested,
        keys=keys,
        rows=[_row(s, ranked[0], metric, shared, verdicts) for s in ranked],
        verdicts=verdicts,
        effects=effects,
        left=left,
        notes=list(_notes(name, metric, tested, ranked, shared, entries, effects, keys)),
        judgements=shared,
    )


def _check_metric(settings: Sequence[RunGroup], name: str, metric: str) -> None:
    known = sorted({m for s in settings for e in s.entries for m in e.metrics})
    if metric not in known:
        hint = suggest(metric, known) or f"; there are {', '.join(known)}"
        raise UserError(f"task.metric={metric}: no run has a {name}/{metric}{hint}.")


def _rank(value: float | None, metric: str) -> float:
    """Sorts the best first, and settings without a value last."""
    if value is None or math.isnan(value):
        return math.inf
    return value if lower_is_better(metric) else -value


def _row(
    setting: RunGroup,
    best: RunGroup,
    metric: str,
    shared: Judgements,
    verdicts: Sequence[PairVerdict],
) -> ComparisonRow:
    low, high = metric_interval(setting, metric, shared)
    against = (v for v in verdicts if {id(v.a), id(v.b)} == {id(setting), id(best)})
    return ComparisonRow(
        setting=setting,
        value=setting.metric(metric),
        low=low,
        high=high,
        besides={m.name: setting.metric(m.name) for m in shown_in("compare") if m.name != metric},
        cost={name: setting.cost(name) for name in COST},
        verdict=next(against, None) if setting is not best else None,
    )


def metric_interval(setting: RunGroup, metric: str, shared: Judgements) -> tuple[float, float]:
    """The 95% interval of a setting's value: over prompts, and over seeds where there are several.

    A single run's is the one that it reported itself.
    """
    of_P = (shared.prompts_P, shared.weights_P)
    itemwise = metric in itemwise_metrics() and len(shared.ids_P)
    if len(setting.entries) == 1:
        own = setting.entries[0].metrics
        if f"{metric}_low" in own:
            return own[f"{metric}_low"], own[f"{metric}_high"]
        if itemwise:
            return clustered_mean(setting.items(metric)[0], *of_P).interval
    elif itemwise:
        found = contrast([setting.items(metric)], [1], *of_P)
        share = metric == "accuracy"  # which Student's t does not know
        return (max(0.0, found.low), min(1.0, found.high)) if share else (found.low, found.high)
    return math.nan, math.nan


def _notes(
    name: str,
    metric: str,
    tested: str,
    ranked: Sequence[RunGroup],
    shared: Judgements,
    entries: Sequence[ScoredRun],
    effects: Sequence[Effect],
    keys: Sequence[str],
) -> Iterator[str]:
    if selected_on_same(entries, name):
        yield (
            "Selected and judged on the same rows: checkpoints were chosen by them, so that these "
            "numbers flatter."
        )
    yield from cross_validation.fold_notes([entry.run for entry in entries])
    if not len(shared.ids_P):
        yield f"{name} has no strictly judged pairs: nothing can be tested."
    elif tested != metric:
        yield f"{metric} is no mean over pairs: the tests are of accuracy."
    seeds = {len(setting.entries) for setting in ranked}
    if len(ranked) > 1 and seeds == {1}:
        yield (
            "One seed a setting: verdicts are on checkpoints, not on losses or other settings; "
            "more seeds (-m seed=0,1,2) would tell."
        )
    elif 1 in seeds and len(seeds) > 1:
        yield "Where a setting has one seed, verdicts are on its checkpoint."
    if alone := confounded(effects, keys) if effects else []:
        yield f"No two settings differ in {' or '.join(alone)} alone: no effect of it is told."
    yield from _chosen_by_val(name, metric, ranked)


def _chosen_by_val(name: str, metric: str, ranked: Sequence[RunGroup]) -> Iterator[str]:
    """Which setting to take, as rows that are reported must not select."""
    values = [_val(setting, metric) for setting in ranked]
    if name == "val" or len(ranked) < 2 or None in values:
        return
    index = min(range(len(ranked)), key=lambda n: _rank(values[n], metric))
    yield f"By val/{metric} the choice is {ranked[index].name} ({values[index]:.4f})."


def _val(setting: RunGroup, metric: str) -> float | None:
    values = [entry.run.metrics.get(f"val/{metric}") for entry in setting.entries]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
