"""Folds of one cross-validation: runs that differ in `data.fold` alone are judged as one.

Each group of rows is the test set of one of them, so that their union is the whole data, each pair
judged by a model that never saw its group. Seeds stay replicates: one union a seed.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from rmexp.analysis.compare.runs import Run, SkippedRun
from rmexp.evaluation.bias_probes import length_controlled_accuracy
from rmexp.evaluation.metrics import find_metric
from rmexp.evaluation.rank_correlation import within_prompts
from rmexp.evaluation.stats.bootstrap import clustered_mean
from rmexp.evaluation.stats.significance import MIN_CLUSTERS
from rmexp.tracking.predictions import Judgements, read_responses

Rewards = Mapping[tuple[str, int], float]
"""By comparison and index of the response."""


OpenedFolds = tuple[Run, Judgements, Rewards]


FOLD_KEYS = ("data.fold", "data.fold_by", "data.fold_until")


def pool_folds(
    opened: Sequence[OpenedFolds], name: str
) -> tuple[list[OpenedFolds], list[SkippedRun]]:
    """The same, with the folds of a setting and seed as one run, on the folds that all have.

    Where a setting has less than half of the folds it is left out; where one lacks some of them,
    these folds are left out of all. Folds that share judged rows (val, a public suite) stay apart,
    as does everything that is no fold.
    """
    alone = [one for one in opened if one[0].fold is None]
    families: dict[str, list[OpenedFolds]] = {}
    for one in opened:
        if one[0].fold is not None:
            key = repr([one[0].fold["by"], one[0].fold["until"]])
            families.setdefault(key, []).append(one)
    left: list[SkippedRun] = []
    for family in families.values():
        found, more = _family(family, name)
        alone += found
        left += more
    return alone, left


def _family(family: Sequence[OpenedFolds], name: str) -> tuple[list[OpenedFolds], list[SkippedRun]]:
    """The folds of one way of telling groups apart."""
    groups: dict[Any, dict[str, OpenedFolds]] = {}
    left: list[SkippedRun] = []
    for one in family:
        run, held_out = one[0], _held_out(one[0])
        members = groups.setdefault(run.identity(FOLD_KEYS[0]), {})
        if held_out in members:
            twice = f"the same configuration, seed and fold as {members[held_out][0].name}"
            left.append(SkippedRun(run.name, run.path, "left out", f"{twice}: counted once"))
        else:
            members[held_out] = one
    union = {held_out for members in groups.values() for held_out in members}
    if len(union) < 2 or not all(_disjoint(members) for members in groups.values()):
        return [one for members in groups.values() for one in members.values()], left
    names = dict(zip(groups, _names([_first(members) for members in groups.values()]), strict=True))
    kept, common = dict(groups), set.intersection(*map(set, groups.values()))
    while len(kept) > 1 and 2 * len(common) < len(union):
        key = min(kept, key=lambda key: len(kept[key]))
        why = (
            f"it has {len(kept[key])} of {len(union)} folds: to compare it, name the runs of these "
            "folds alone"
        )
        left.append(SkippedRun(names[key], _first(kept.pop(key)).path, "left out", why))
        common = set.intersection(*map(set, kept.values()))
    for held_out in sorted(set().union(*kept.values()) - common):
        without = [names[key] for key, members in kept.items() if held_out not in members]
        path = next(members[held_out][0].path for members in kept.values() if held_out in members)
        why = f"{', '.join(without)} lacks this fold, which is left out of all settings"
        left.append(SkippedRun(f"fold {held_out}", path, "left out", why))
    return [_union([members[f] for f in sorted(common)], name) for members in kept.values()], left


def _held_out(run: Run) -> str:
    assert run.fold is not None, "a run without a fold is not pooled"
    return run.fold["held_out"]


def _first(members: Mapping[str, OpenedFolds]) -> Run:
    return next(iter(members.values()))[0]


def _disjoint(members: Mapping[str, OpenedFolds]) -> bool:
    """No comparison is judged in two folds."""
    ids = [set(judgements.ids_P) for _, judgements, _ in members.values()]
    return len(set().union(*ids)) == sum(map(len, ids))


def _names(runs: Sequence[Run]) -> list[str]:
    """What tells the runs apart of all that was named on their command lines."""
    given = sorted(frozenset().union(*(run.given for run in runs)) - set(FOLD_KEYS))
    values = {key: [run.labels.get(key, run.config.get(key)) for run in runs] for key in given}
    telling = [key for key in given if len(set(map(repr, values[key]))) > 1]
    words = [" ".join(f"{k}={values[k][n]}" for k in telling) for n in range(len(runs))]
    return [word or run.name for word, run in zip(words, runs, strict=True)]


def _union(members: Sequence[OpenedFolds], name: str) -> OpenedFolds:
    """Folds as one run, one set of judged pairs and one of rewards."""
    runs, judged, rewards = zip(*members, strict=True)
    part_of = {id: n for n, one in enumerate(rewards) for id, _ in one}
    first = runs[0]
    run = dataclasses.replace(
        first,
        name=f"{first.name} and {len(runs) - 1} more folds",
        config={key: value for key, value in first.config.items() if key != FOLD_KEYS[0]},
        given=first.given - {FOLD_KEYS[0]},
        metrics=_means(runs) | _anew(members, name),
        cost=_cost(runs),
        parts=runs,
        part_of=part_of,
    )
    fields = {
        field: np.concatenate([getattr(one, field) for one in judged])
        for field in ("ids_P", "better_P", "worse_P", "prompts_P", "subsets_P", "weights_P")
    }
    if len(runs) >= MIN_CLUSTERS:  # pairs of a group are judged by one model, and are of one kind
        sizes = [len(one.ids_P) for one in judged]
        groups = np.array([_held_out(run) for run in runs], dtype=object)
        fields["prompts_P"] = np.repeat(groups, sizes)
    together = Judgements(**fields, tied=sum(one.tied for one in judged))
    return run, together, {key: value for one in rewards for key, value in one.items()}


def _means(runs: Sequence[Run]) -> dict[str, float]:
    """Metrics that all folds have: numbers add up, others are means, weighing by judged pairs."""
    known = set.intersection(*(set(run.metrics) for run in runs))
    found = {}
    for key in sorted(known):
        home, metric = key.split("/", 1)[0], find_metric(key)
        values = np.array([run.metrics[key] for run in runs], dtype=np.float64)
        weights = np.array([run.metrics.get(f"{home}/pairs", 0.0) for run in runs])
        if metric is not None and metric.count:
            found[key] = float(values.sum())
        elif not key.endswith(("_low", "_high")):
            found[key] = float(np.average(values, weights=weights if weights.all() else None))
    return found


def _anew(members: Sequence[OpenedFolds], name: str) -> dict[str, float]:
    """What is no mean over folds: how length does over all pairs, ranks within prompts.

    Pairs and prompts count alike here, as those metrics have no weights.
    """
    right, longer = [], []
    kendall, spearman, clusters = [], [], []
    for run, judged, rewards in members:
        told = read_responses(run.path / "predictions" / f"{name}.parquet")
        for id, better, worse in zip(
            judged.ids_P, judged.better_P.tolist(), judged.worse_P.tolist(), strict=True
        ):
            right.append(rewards[id, better] > rewards[id, worse])
            longer.append(told[id, better]["tokens"] - told[id, worse]["tokens"])
        rated = [k for k, r in told.items() if r["rating"] is not None and rewards[k] == rewards[k]]
        if rated:
            of = np.array([told[k]["prompt"] for k in rated], dtype=object)
            values = np.array([(rewards[k], told[k]["rating"]) for k in rated], dtype=np.float64)
            found = within_prompts(values[:, 0], values[:, 1], of)
            kendall += found[1].tolist()
            spearman += found[2].tolist()
            clusters += [_held_out(run)] * len(found[0])
    out = {}
    if longer:
        longer_P = np.array(longer)
        out["length_baseline"] = float(((np.sign(longer_P) + 1) / 2).mean())
        out["length_controlled_accuracy"] = length_controlled_accuracy(np.array(right), longer_P)
    for metric, values_G in (("kendall_within", kendall), ("spearman_within", spearman)):
        if values_G:
            out |= clustered_mean(np.array(values_G), np.array(clusters)).named(metric)
    return {f"{name}/{metric}": value for metric, value in out.items() if value == value}


def _cost(runs: Sequence[Run]) -> dict[str, float]:
    """Seconds add up; the rate is that of all; memory is what the largest took."""
    how: dict[str, Callable[[list[float]], Any]]
    how = {"training_seconds": sum, "pairs_per_second": np.mean, "peak_memory_gib": max}
    return {
        key: float(combine([run.cost[key] for run in runs]))
        for key, combine in how.items()
        if all(key in run.cost for run in runs)
    }


def standard_deviations(run: Run, rewards: Rewards, known: Rewards, ids_P: np.ndarray) -> Any:
    """The deviation of a run's rewards of all responses; of folds (P,), each pair that of its own
    fold, as their models have scales of their own."""
    finite = [(key, rewards[key]) for key in known if np.isfinite(rewards.get(key, np.nan))]
    if not finite:
        return 0.0
    values = np.array([value for _, value in finite], dtype=np.float32)
    if not run.parts:
        return float(values.std(dtype=np.float64))
    part = np.array([run.part_of[id] for (id, _), _ in finite])
    spread = np.array([values[part == n].std(dtype=np.float64) for n in range(len(run.parts))])
    return spread[[run.part_of[id] for id in ids_P]]


def metrics_by_fold(runs: Sequence[Run], key: str) -> dict[str, float]:
    """Group -> the metric `SET/NAME` of the fold that held it out, the mean over these seeds."""
    found: dict[str, list[float]] = {}
    for part in (part for run in runs for part in run.parts if key in part.metrics):
        found.setdefault(_held_out(part), []).append(part.metrics[key])
    return {held_out: float(np.mean(values)) for held_out, values in found.items()}


def fold_notes(runs: Sequence[Run]) -> Iterator[str]:
    """What a reader must know of numbers over folds."""
    counts = {len(run.parts) for run in runs if run.parts}
    for count in sorted(counts):
        unit = "held-out group" if count >= MIN_CLUSTERS else "prompt, as the groups are few"
        yield (
            f"Judged on the union of {count} folds, each pair by a model that saw nothing of its "
            f"group; intervals and tests go by {unit}. Val rows of one fold are test rows of "
            "others: a setting that is chosen by val was chosen by rows of other models' tests."
        )
