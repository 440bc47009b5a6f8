"""Cross-validation: runs that differ only in `data.fold` are pooled into one run.

Each group of rows is the test set of one fold, so their union is the whole data, with each pair
scored by a model that never saw its group. Seeds stay replicates: one pooled run per seed.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from rmexp.analysis.compare.runs import Run, SkippedRun, value_on_command_line
from rmexp.evaluation.length_control import length_controlled_accuracy
from rmexp.evaluation.metrics import find_metric
from rmexp.evaluation.rank_correlation import within_prompts
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean
from rmexp.evaluation.stats.significance import MIN_CLUSTERS
from rmexp.tracking.predictions import Judgements, read_responses

Rewards = Mapping[tuple[str, int], float]
"""By comparison and index of the response."""

FOLD_KEYS = ("data.fold", "data.fold_by", "data.fold_until")


class OpenRun(NamedTuple):
    """A run with the labelled pairs and the rewards of a set."""

    run: Run
    judgements: Judgements
    rewards: Rewards


def pool_folds(opened: Sequence[OpenRun], name: str) -> tuple[list[OpenRun], list[SkippedRun]]:
    """Pool the folds of each configuration and seed, over the folds that all of them have.

    A configuration with less than half of the folds is skipped; otherwise a fold that one of them
    lacks is skipped for all. Folds that share evaluated rows (val, a public suite) are not pooled,
    nor are runs without folds.

    Args:
        opened: the runs.
        name: of the evaluation set.
    """
    kept = [one for one in opened if one.run.fold is None]
    families: dict[str, list[OpenRun]] = {}
    for one in opened:
        if one.run.fold is not None:
            families.setdefault(repr([one.run.fold["by"], one.run.fold["until"]]), []).append(one)
    skipped: list[SkippedRun] = []
    for family in families.values():
        found, more = _pool_family(family, name)
        kept += found
        skipped += more
    return kept, skipped


def _pool_family(family: Sequence[OpenRun], name: str) -> tuple[list[OpenRun], list[SkippedRun]]:
    """Pool folds that were split by the same field."""
    groups: dict[Any, dict[str, OpenRun]] = {}
    skipped: list[SkippedRun] = []

    def skip(name: str, run: Run, why: str) -> None:
        skipped.append(SkippedRun(name, run.path, "left out", why))

    for one in family:
        members = groups.setdefault(one.run.identity(FOLD_KEYS[0]), {})
        same = members.setdefault(_held_out(one.run), one)
        if same is not one:
            twice = f"the same configuration, seed and fold as {same.run.name}: counted once"
            skip(one.run.name, one.run, twice)
    union = {held_out for members in groups.values() for held_out in members}
    if len(union) < 2 or not all(_disjoint(members.values()) for members in groups.values()):
        return [one for members in groups.values() for one in members.values()], skipped
    firsts = {key: next(iter(members.values())).run for key, members in groups.items()}
    names = dict(zip(groups, _distinguishing_names(list(firsts.values())), strict=True))
    kept, common = dict(groups), set.intersection(*map(set, groups.values()))
    while len(kept) > 1 and 2 * len(common) < len(union):
        key = min(kept, key=lambda key: len(kept[key]))
        few = f"it has {len(kept.pop(key))} of {len(union)} folds"
        skip(names[key], firsts[key], f"{few}: to compare it, name the runs of these folds alone")
        common = set.intersection(*map(set, kept.values()))
    for held_out in sorted(set().union(*kept.values()) - common):
        without = [names[key] for key, members in kept.items() if held_out not in members]
        one = next(members[held_out] for members in kept.values() if held_out in members)
        why = f"{', '.join(without)} lacks this fold, which is left out of all settings"
        skip(f"fold {held_out}", one.run, why)
    return [_pool([m[f] for f in sorted(common)], name) for m in kept.values()], skipped


def _held_out(run: Run) -> str:
    assert run.fold is not None, "a run without a fold is not pooled"
    return run.fold["held_out"]


def _disjoint(members: Iterable[OpenRun]) -> bool:
    """Whether no pair is evaluated in two folds."""
    contents = [set(one.judgements.contents_P) for one in members]
    return len(set().union(*contents)) == sum(map(len, contents))


def _distinguishing_names(runs: Sequence[Run]) -> list[str]:
    """What differs between the runs, of the keys on their command lines."""
    given = sorted(frozenset().union(*(run.given for run in runs)) - set(FOLD_KEYS))
    values = {key: [value_on_command_line(run, key) for run in runs] for key in given}
    differ = [key for key in given if len(set(map(repr, values[key]))) > 1]
    names = [" ".join(f"{key}={values[key][n]}" for key in differ) for n in range(len(runs))]
    return [name or run.name for name, run in zip(names, runs, strict=True)]


def _pool(members: Sequence[OpenRun], name: str) -> OpenRun:
    """Folds as one run, with the union of their pairs and rewards."""
    runs = tuple(one.run for one in members)
    first = runs[0]
    judged = [one.judgements for one in members]
    fields = {
        field: np.concatenate([getattr(one, field) for one in judged])
        for field in (f.name for f in dataclasses.fields(Judgements) if f.name.endswith("_P"))
    }
    if len(runs) >= MIN_CLUSTERS:  # one model scores all pairs of a group: the group is the cluster
        groups = np.array([_held_out(run) for run in runs], dtype=object)
        fields["prompts_P"] = np.repeat(groups, [len(one.ids_P) for one in judged])
    pooled = Judgements(**fields, tied=sum(one.tied for one in judged))
    run = dataclasses.replace(
        first,
        name=f"{first.name} and {len(runs) - 1} more folds",
        config={key: value for key, value in first.config.items() if key != FOLD_KEYS[0]},
        given=first.given - {FOLD_KEYS[0]},
        metrics=_mean_metrics(runs) | _pooled_metrics(members, name, pooled.prompts_P),
        cost=_cost(runs),
        parts=runs,
        part_of={id: n for n, one in enumerate(members) for id, _ in one.rewards},
    )
    return OpenRun(run, pooled, {k: v for one in members for k, v in one.rewards.items()})


def _mean_metrics(runs: Sequence[Run]) -> dict[str, float]:
    """Metrics that all folds have: sums of counts, else means weighted by pairs."""
    found = {}
    for key in sorted(set.intersection(*(set(run.metrics) for run in runs))):
        metric = find_metric(key)
        values = np.array([run.metrics[key] for run in runs], dtype=np.float64)
        pairs = f"{key.split('/', 1)[0]}/pairs"
        weights = np.array([run.metrics.get(pairs, 0.0) for run in runs])
        if metric is not None and metric.count:
            found[key] = float(values.sum())
        elif not key.endswith(("_low", "_high")):
            found[key] = float(np.average(values, weights=weights if weights.all() else None))
    return found


def _pooled_metrics(members: Sequence[OpenRun], name: str, clusters: Any) -> dict[str, float]:
    """Metrics that are no mean over folds: accuracy by length, and ranks within prompts.

    Args:
        members: the folds.
        name: of the set.
        clusters: (P,) the cluster of each pair, fold by fold.
    """
    gaps, longer, weights = [], [], []
    kendall, spearman, groups = [], [], []
    for run, judged, rewards in members:
        responses = read_responses(run.path / "predictions" / f"{name}.parquet")
        weights += judged.weights_P.tolist()
        for better, worse in zip(*judged.sides, strict=True):
            gaps.append(rewards[better] - rewards[worse])
            longer.append(responses[better]["tokens"] - responses[worse]["tokens"])
        rated = {
            key: row
            for key, row in responses.items()
            if row["rating"] is not None and rewards[key] == rewards[key]
        }
        if rated:
            _, kendall_G, spearman_G = within_prompts(
                np.array([rewards[key] for key in rated], dtype=np.float64),
                np.array([row["rating"] for row in rated.values()], dtype=np.float64),
                np.array([row["prompt"] for row in rated.values()], dtype=object),
            )
            kendall += kendall_G.tolist()
            spearman += spearman_G.tolist()
            groups += [_held_out(run)] * len(kendall_G)
    found: dict[str, Estimate] = {}
    if longer:
        gaps_P, longer_P, weights_P = map(np.array, (gaps, longer, weights))
        ahead_P = (np.sign(longer_P) + 1) / 2
        found["length_baseline"] = clustered_mean(ahead_P, clusters, weights_P, (0, 1))
        found["length_controlled_accuracy"] = length_controlled_accuracy(
            gaps_P, longer_P, clusters, weights_P
        )
    for metric, values_G in (("kendall_within", kendall), ("spearman_within", spearman)):
        if values_G:
            found[metric] = clustered_mean(np.array(values_G), np.array(groups), span=(-1, 1))
    named = (one.named(f"{name}/{metric}") for metric, one in found.items())
    return {key: value for each in named for key, value in each.items() if value == value}


def _cost(runs: Sequence[Run]) -> dict[str, float]:
    combine: dict[str, Callable[[list[float]], Any]]
    combine = {"training_seconds": sum, "pairs_per_second": np.mean, "peak_memory_gib": max}
    return {
        key: float(of([run.cost[key] for run in runs]))
        for key, of in combine.items()
        if all(key in run.cost for run in runs)
    }


def standard_deviations(run: Run, rewards: Rewards, known: Rewards, ids_P: np.ndarray) -> Any:
    """Standard deviation of a run's rewards of all responses in `known`.

    Each fold's model has a scale of its own: for a pooled run the result is (P,), the standard
    deviation in the fold of each pair.
    """
    finite = [(key, rewards[key]) for key in known if np.isfinite(rewards.get(key, np.nan))]
    if not finite:
        return 0.0
    values = np.array([value for _, value in finite], dtype=np.float32)
    if not run.parts:
        return float(values.std(dtype=np.float64))
    part = np.array([run.part_of[id] for (id, _), _ in finite])
    std = np.array([values[part == n].std(dtype=np.float64) for n in range(len(run.parts))])
    return std[[run.part_of[id] for id in ids_P]]


def metrics_by_fold(runs: Sequence[Run], key: str) -> dict[str, float]:
    """Held-out group -> the metric `SET/NAME` of its fold, averaged over seeds."""
    found: dict[str, list[float]] = {}
    for part in (part for run in runs for part in run.parts if key in part.metrics):
        found.setdefault(_held_out(part), []).append(part.metrics[key])
    return {held_out: float(np.mean(values)) for held_out, values in found.items()}


def fold_notes(runs: Sequence[Run]) -> Iterator[str]:
    """Notes on how pooled folds are evaluated."""
    for count in sorted({len(run.parts) for run in runs if run.parts}):
        unit = "held-out group" if count >= MIN_CLUSTERS else "prompt, as the groups are few"
        yield (
            f"Evaluated on the union of {count} folds, each pair by a model that saw nothing of "
            f"its group; intervals and tests are clustered by {unit}. Val rows of one fold are "
            "test rows of others: a setting chosen on val was chosen on rows of other folds' tests."
        )
