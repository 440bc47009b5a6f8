"""Compare runs: ranked groups, paired tests, main effects, and notes on their limits."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.analysis.compare.cross_validation import fold_notes
from rmexp.analysis.compare.main_effects import Effect, confounded, main_effects
from rmexp.analysis.compare.paired_runs import ScoredRun, pair_runs, selected_on_same
from rmexp.analysis.compare.pairwise_tests import PairVerdict, RunPairs, test_pairs
from rmexp.analysis.compare.run_groups import RunGroup, group_runs
from rmexp.analysis.compare.runs import COST, Run, SkippedRun, find_runs
from rmexp.config.compose import suggest
from rmexp.core.errors import UserError
from rmexp.evaluation.aggregate import Aggregation
from rmexp.evaluation.metrics import (
    find_metric,
    itemwise_metrics,
    lower_is_better,
    shown_in,
)
from rmexp.evaluation.stats.bootstrap import clustered_mean
from rmexp.evaluation.stats.seed_replicates import contrast, interval_over_seeds
from rmexp.tracking.predictions import Judgements


@dataclass(frozen=True)
class ComparisonRow:
    """A group of runs in the table.

    value low high   of the chosen metric, with its 95% interval (NaN where unknown)
    besides          further metrics, as (value, low, high); cost: of training
    verdict          the best group against this one, if tested
    """

    group: RunGroup
    value: float | None
    low: float
    high: float
    besides: dict[str, tuple[float | None, float, float]]
    cost: dict[str, float | None]
    verdict: PairVerdict | None


@dataclass(frozen=True)
class RunComparison:
    """Result of `compare_runs`.

    metric    that the table is sorted by; tested: that the tests are of
    keys      that differ between the groups
    rows      best first
    skipped   runs that are not compared, and why
    notes     limits of these numbers
    """

    set: str
    metric: str
    tested: str
    keys: list[str]
    rows: list[ComparisonRow]
    verdicts: list[PairVerdict]
    effects: list[Effect]
    skipped: list[SkippedRun]
    notes: list[str]
    judgements: Judgements


def compare_runs(
    given: Sequence[str],
    name: str,
    metric: str,
    pairs: RunPairs,
    ensembles: Sequence[Aggregation] = (),
) -> RunComparison:
    """Compare runs on an evaluation set.

    Args:
        given: run directories, folders of them, reward files.
        name: of the set.
        metric: without the set, e.g. `accuracy`.
        pairs: the pairs to test, see `test_pairs`.
        ensembles: of all runs, each one more entry.

    Raises:
        UserError: nothing can be compared, or no run has the metric.
    """
    return compare_found(*find_runs(given), name, metric, pairs, ensembles)


def compare_found(
    runs: Sequence[Run],
    left_out: Sequence[SkippedRun],
    name: str,
    metric: str,
    pairs: RunPairs,
    ensembles: Sequence[Aggregation] = (),
) -> RunComparison:
    """Compare runs that are read already, see `compare_runs`.

    Args:
        left_out: runs that cannot be compared.
    """
    shared, scored, more = pair_runs(runs, name, ensembles)
    tested = metric if metric in itemwise_metrics() else "accuracy"
    scored, without = _with_scale(scored, tested)
    skipped = [*left_out, *more, *without]
    if not scored:
        reasons = "; ".join(f"{one.name}: {one.why}" for one in skipped)
        raise UserError(f"No run can be compared on {name}. {reasons}.")
    groups, keys, duplicates = group_runs(scored)
    _check_sorts(metric, name, scored)
    ranked = sorted(groups, key=lambda group: _rank(group.metric(metric), metric))
    has_pairs = len(shared.ids_P) > 0
    verdicts = test_pairs(ranked, shared, tested, pairs) if has_pairs else []
    trained = [group for group in groups if group.runs[0].run.has_settings]
    effects = main_effects(trained, keys, shared, tested) if has_pairs and len(keys) > 1 else []
    found = RunComparison(
        set=name,
        metric=metric,
        tested=tested,
        keys=keys,
        rows=[_row(group, ranked[0], metric, shared, verdicts) for group in ranked],
        verdicts=verdicts,
        effects=effects,
        skipped=skipped + duplicates,
        notes=[],
        judgements=shared,
    )
    found.notes.extend(_notes(found))
    return found


def _with_scale(
    scored: Sequence[ScoredRun], tested: str
) -> tuple[list[ScoredRun], list[SkippedRun]]:
    """Without the files of verdicts, unless accuracy is tested."""
    why = f"verdicts have a side and no scale, so no {tested}: task.metric=accuracy compares them"
    skipped = [
        SkippedRun(one.run.name, one.run.path, "left out", why)
        for one in scored
        if not (one.has_scale or tested == "accuracy")
    ]
    return [one for one in scored if one.has_scale or tested == "accuracy"], skipped


def _check_sorts(metric: str, name: str, scored: Sequence[ScoredRun]) -> None:
    """Refuse a metric that no run has, that has no better end, or that has no interval."""
    bounds = {m for one in scored for m in one.metrics if m.endswith(("_low", "_high"))}
    known = sorted({m for one in scored for m in one.metrics} - bounds)
    if metric not in known:
        hint = suggest(metric, known) or f"; there are {', '.join(known)}"
        raise UserError(f"task.metric={metric}: no run has a {name}/{metric}{hint}.")
    itemwise = itemwise_metrics()

    def sorts(metric: str) -> bool:
        registered = find_metric(metric)
        directed = registered is None or registered.direction is not None
        return directed and (metric in itemwise or f"{metric}_low" in bounds)

    if not sorts(metric):
        raise UserError(
            f"task.metric={metric}: neither end of it is better, or these runs have no interval of "
            f"it, so that it sorts no runs; those that do: {', '.join(filter(sorts, known))}."
        )


def _rank(value: float | None, metric: str) -> float:
    """Sort key: best first, missing values last."""
    if value is None or math.isnan(value):
        return math.inf
    return value if lower_is_better(metric) else -value


def _row(
    group: RunGroup,
    best: RunGroup,
    metric: str,
    shared: Judgements,
    verdicts: Sequence[PairVerdict],
) -> ComparisonRow:
    def shown(metric: str) -> tuple[float | None, float, float]:
        return group.metric(metric), *_interval(group, metric, shared)

    value, low, high = shown(metric)
    against = (v for v in verdicts if {id(v.a), id(v.b)} == {id(group), id(best)})
    return ComparisonRow(
        group=group,
        value=value,
        low=low,
        high=high,
        besides={m.name: shown(m.name) for m in shown_in("compare") if m.name != metric},
        cost={name: group.cost(name) for name in COST},
        verdict=next(against, None) if group is not best else None,
    )


def _interval(group: RunGroup, metric: str, shared: Judgements) -> tuple[float, float]:
    """95% interval over prompts, and over seeds if there are several; NaN where unknown.

    A single run's is the one that it logged.
    """
    known, of_P = find_metric(metric), (shared.prompts_P, shared.weights_P)
    itemwise = known if known and known.itemwise and len(shared.ids_P) else None
    logged = [
        (one.metrics[f"{metric}_low"], one.metrics[f"{metric}_high"])
        for one in group.runs
        if f"{metric}_low" in one.metrics
    ]
    several = len(group.runs) > 1
    if itemwise and several:
        found = contrast([group.items(metric)], [1], *of_P)
        low, high = itemwise.span or (-math.inf, math.inf)  # Student's t ignores the range
        return max(low, found.low), min(high, found.high)
    if len(logged) == len(group.runs):
        values = [one.metrics[metric] for one in group.runs]
        prompts = len(np.unique(shared.prompts_P))
        return interval_over_seeds(values, logged, prompts) if several else logged[0]
    if itemwise:
        return clustered_mean(group.items(metric)[0], *of_P, itemwise.span).interval
    return math.nan, math.nan


def _notes(found: RunComparison) -> Iterator[str]:
    groups = [row.group for row in found.rows]
    runs = [one for group in groups for one in group.runs]
    if selected_on_same(runs, found.set):
        yield "Selected on the same rows: checkpoints were chosen by them, so these are optimistic."
    yield from fold_notes([one.run for one in runs])
    if not len(found.judgements.ids_P):
        yield f"{found.set} has no strictly labelled pairs: nothing can be tested."
    elif found.tested != found.metric:
        yield f"{found.metric} is no mean over pairs: the tests are of accuracy."
    seeds = {len(group.runs) for group in groups}
    if len(groups) > 1 and seeds == {1}:
        yield (
            "One seed a setting: verdicts are on checkpoints, not on losses or other settings; "
            "more seeds (-m seed=0,1,2) would tell."
        )
    elif 1 in seeds and len(seeds) > 1:
        yield "Where a setting has one seed, verdicts are on its checkpoint."
    if alone := confounded(found.effects, found.keys) if found.effects else []:
        yield f"No two settings differ in {' or '.join(alone)} alone: its effect is unknown."
    yield from _choice_on_val(found, groups)


def _choice_on_val(found: RunComparison, groups: Sequence[RunGroup]) -> Iterator[str]:
    """Which group to choose, as the rows that are reported must not select."""
    groups = [group for group in groups if not group.runs[0].run.members]
    values = [_val(group, found.metric) for group in groups]
    if found.set != "val" and len(groups) > 1 and None not in values:
        index = min(range(len(groups)), key=lambda n: _rank(values[n], found.metric))
        yield f"By val/{found.metric} the choice is {groups[index].name} ({values[index]:.4f})."


def _val(group: RunGroup, metric: str) -> float | None:
    values = [one.run.metrics.get(f"val/{metric}") for one in group.runs]
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known and len(known) == len(values) else None
