"""Does the reward order responses as their ratings do? Rank correlations, good against bad.

Plain functions of arrays over N responses: `rewards_N` (no NaN), `ratings_N` (NaN where unrated),
and the prompt that each belongs to.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy import stats

from rmexp.bootstrap import Estimate, Means, recomputed, stratified


def within_prompts(
    rewards_N: np.ndarray, ratings_N: np.ndarray, prompts_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kendall's tau-b and Spearman's correlation of rewards and ratings within each prompt.

    Returns:
        prompts_G: the prompts with two or more different ratings, sorted.
        kendall_G, spearman_G: for each of them; equal rewards throughout are a correlation of 0.
    """
    rated = ~np.isnan(ratings_N)
    prompts, member = np.unique(prompts_N[rated], return_inverse=True)
    rewards, ratings = rewards_N[rated].astype(np.float64), ratings_N[rated]
    first, second = _pairs_within(member)
    x = np.sign(rewards[first] - rewards[second])
    y = np.sign(ratings[first] - ratings[second])
    group, count = member[first], len(prompts)
    kendall, told = _ratio_of_sums(x, y, group, count)
    ranked = [_ranks_within(values, member) for values in (rewards, ratings)]
    x, y = (_centred(values, member) for values in ranked)
    spearman, _ = _ratio_of_sums(x, y, member, count)
    return prompts[told], kendall[told], spearman[told]


def _ratio_of_sums(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """sum(xy) / sqrt(sum(xx) sum(yy)) of each group, and where y varies."""
    xy, xx, yy = (
        np.bincount(group, weights=products, minlength=count) for products in (x * y, x * x, y * y)
    )
    spread = np.sqrt(xx * yy)
    return np.divide(xy, spread, out=np.zeros(count), where=spread > 0), yy > 0


def rank_agreement(
    rewards_N: np.ndarray, ratings_N: np.ndarray, prompts_N: np.ndarray
) -> dict[str, Estimate]:
    """`kendall` and `spearman` over all rated responses, and `..._within`: the mean over prompts.

    Overall says whether rewards are comparable between prompts; within a prompt is what RL and
    best-of-n use. Intervals are bootstrapped over prompts. Nothing where ratings do not vary.
    """
    rated = ~np.isnan(ratings_N)
    rewards, ratings, prompts = rewards_N[rated], ratings_N[rated], prompts_N[rated]
    if len(np.unique(ratings)) < 2:
        return {}
    measures = {"kendall": stats.kendalltau, "spearman": stats.spearmanr}
    found = {
        name: recomputed(_correlation(measure, rewards, ratings), prompts, (-1.0, 1.0))
        for name, measure in measures.items()
    }
    groups, kendall, spearman = within_prompts(rewards, ratings, prompts)
    if len(groups):
        within = np.stack([kendall, spearman], axis=1)
        found |= stratified(within, np.zeros(len(groups), dtype=int), groups, _within)
    return found


def _within(means: Means) -> dict[str, np.ndarray]:
    (both,) = means.values()
    return {"kendall_within": both[..., 0], "spearman_within": both[..., 1]}


def _correlation(
    measure: Callable[..., Any], x: np.ndarray, y: np.ndarray
) -> Callable[[np.ndarray], float]:
    """The correlation of drawn units; NaN where something does not vary (scipy would warn)."""

    def of(drawn: np.ndarray) -> float:
        a, b = x[drawn], y[drawn]
        constant = a.min() == a.max() or b.min() == b.max()
        return float("nan") if constant else float(measure(a, b).statistic)

    return of


def label_auc(rewards_N: np.ndarray, ratings_N: np.ndarray, prompts_N: np.ndarray) -> Estimate:
    """P(a good response outscores a bad one of any prompt), ties half: the ROC's area.

    Raises:
        ValueError: ratings do not have exactly two values.
    """
    rated = ~np.isnan(ratings_N)
    rewards, ratings, prompts = rewards_N[rated], ratings_N[rated], prompts_N[rated]
    values = np.unique(ratings)
    if len(values) != 2:
        raise ValueError(f"good and bad are two ratings, not {len(values)}")
    good = ratings == values[1]

    def area(drawn: np.ndarray) -> float:
        flags = good[drawn]
        n, m = int(flags.sum()), int((~flags).sum())
        if not n or not m:
            return float("nan")
        ranks = stats.rankdata(rewards[drawn])  # the Mann-Whitney statistic
        return float((ranks[flags].sum() - n * (n + 1) / 2) / (n * m))

    return recomputed(area, prompts, (0.0, 1.0))


def _pairs_within(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of units that are of one group."""
    order = np.argsort(member, kind="stable")
    counts = np.bincount(member)
    firsts, seconds, start = [], [], 0
    for size in counts:
        i, j = np.triu_indices(size, 1)
        firsts.append(order[start + i])
        seconds.append(order[start + j])
        start += size
    none = np.zeros(0, dtype=np.int64)
    return np.concatenate([none, *firsts]), np.concatenate([none, *seconds])


def _ranks_within(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """The rank of each value in its group; equal values share the mean of theirs."""
    order = np.lexsort((values, member))
    changes = (np.diff(values[order], prepend=np.nan) != 0) | (
        np.diff(member[order], prepend=-1) != 0
    )
    run = np.cumsum(changes) - 1
    place = np.bincount(run, weights=np.arange(len(values))) / np.bincount(run)
    ranks = np.empty(len(values))
    ranks[order] = place[run]
    return ranks


def _centred(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    means = np.bincount(member, weights=values) / np.bincount(member)
    return values - means[member]
