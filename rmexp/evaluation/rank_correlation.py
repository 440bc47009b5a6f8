"""Rank correlations of rewards and ratings, and the area under the ROC curve.

Functions of arrays over N responses: `rewards_N` (no NaN), `ratings_N` (NaN where unrated) and the
prompt of each.
"""

import numpy as np

from rmexp.evaluation.stats.bootstrap import Estimate, clustered, clustered_mean, ratio

ROWS_PER_BLOCK = 1_000_000
"""Pairs of units compared at once, to bound memory."""


def within_prompts(
    rewards_N: np.ndarray, ratings_N: np.ndarray, prompts_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Kendall's tau-b and Spearman's correlation of rewards and ratings within each prompt.

    Returns:
        prompts_G: the prompts with two or more different ratings, sorted.
        kendall_G, spearman_G: the correlations; 0 where all rewards are equal.
    """
    rated = ~np.isnan(ratings_N)
    prompts, member = np.unique(prompts_N[rated], return_inverse=True)
    rewards, ratings = rewards_N[rated].astype(np.float64), ratings_N[rated]
    first, second = _pairs_within(member)
    x = np.sign(rewards[first] - rewards[second])
    y = np.sign(ratings[first] - ratings[second])
    group, count = member[first], len(prompts)
    kendall, varies = _ratio_of_sums(x, y, group, count)
    ranked = [_ranks_within(values, member) for values in (rewards, ratings)]
    x, y = (_centred(values, member) for values in ranked)
    spearman, _ = _ratio_of_sums(x, y, member, count)
    return prompts[varies], kendall[varies], spearman[varies]


def _ratio_of_sums(
    x: np.ndarray, y: np.ndarray, group: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """sum(xy) / sqrt(sum(xx) sum(yy)) of each group, and whether its y varies."""
    xy, xx, yy = (
        np.bincount(group, weights=products, minlength=count) for products in (x * y, x * x, y * y)
    )
    spread = np.sqrt(xx * yy)
    return np.divide(xy, spread, out=np.zeros(count), where=spread > 0), yy > 0


def within_means(
    rewards_N: np.ndarray, ratings_N: np.ndarray, prompts_N: np.ndarray, weights_N: np.ndarray
) -> dict[str, Estimate]:
    """`kendall_within` and `spearman_within`: means of `within_prompts` over prompts.

    RL and best-of-n depend on the order within a prompt; correlations over all responses also
    measure whether rewards are comparable between prompts. A prompt's weight is the mean weight of
    its rated responses. Empty where ratings vary within no prompt.
    """
    groups, kendall_G, spearman_G = within_prompts(rewards_N, ratings_N, prompts_N)
    if not len(groups):
        return {}
    rated = ~np.isnan(ratings_N)
    names, member = np.unique(prompts_N[rated], return_inverse=True)
    weights = np.bincount(member, weights_N[rated]) / np.bincount(member)
    shares_G = weights[np.searchsorted(names, groups)]
    return {
        "kendall_within": clustered_mean(kendall_G, groups, shares_G, (-1, 1)),
        "spearman_within": clustered_mean(spearman_G, groups, shares_G, (-1, 1)),
    }


def spearman(
    x: np.ndarray, y: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> Estimate:
    """Spearman's correlation: Pearson's of (weighted) mid-ranks.

    A unit of weight w counts as w copies. Ranks are recomputed in each resample. NaN where x or y
    is constant.

    Args:
        x, y: (U,) two numbers of each unit.
        clusters: (U,) the cluster of each unit.
        weights: (U,) weight of each unit, above 0; None: all 1.
    """
    w = np.ones(len(x)) if weights is None else weights
    r, q, total = _mass_below(x, x, w), _mass_below(y, y, w), w.sum()
    xy = r * q + _mass_above(x, x, w * q) + _mass_above(y, y, w * r)
    xx = r * r + 2 * _mass_above(x, x, w * r)
    yy = q * q + 2 * _mass_above(y, y, w * q)
    sums = (np.stack([xy, xx, yy], axis=1) - 0.75 * total**2) * (w / total**2)[:, None]
    return clustered(sums, clusters, _correlation, degree=3, span=(-1, 1))


def kendall(
    x: np.ndarray, y: np.ndarray, clusters: np.ndarray, weights: np.ndarray | None = None
) -> Estimate:
    """Kendall's tau-b, where a pair's weight is the product of its units' weights.

    The weighted form is that of the R package wdm (Nagler 2018, "Weighted dependence measures"): a
    unit of weight w counts as w copies. NaN where x or y is constant. Quadratic in the number of
    units: a second for 10,000.

    Args:
        x, y: (U,) two numbers of each unit.
        clusters: (U,) the cluster of each unit.
        weights: (U,) weight of each unit, above 0; None: all 1.
    """
    w = np.ones(len(x)) if weights is None else weights
    x, y = x.astype(np.float64), y.astype(np.float64)
    sums = np.empty((len(x), 3))
    rows = max(1, ROWS_PER_BLOCK // len(x))
    for start in range(0, len(x), rows):
        block = slice(start, start + rows)
        a, b = (np.sign(values[block, None] - values) for values in (x, y))
        sums[block] = np.stack([(a * b) @ w, np.abs(a) @ w, np.abs(b) @ w], axis=1)
    return clustered(2 * sums * w[:, None], clusters, _correlation, degree=2, span=(-1, 1))


def _correlation(sums: np.ndarray) -> np.ndarray:
    """Correlation from the sums of xy, x^2 and y^2; NaN where x or y is constant."""
    xy, xx, yy = np.moveaxis(sums, -1, 0)
    spread = np.maximum(xx, 0) * np.maximum(yy, 0)
    return np.clip(ratio(xy, np.sqrt(np.where(spread > 1e-12, spread, 0))), -1, 1)


def label_auc(
    rewards_N: np.ndarray,
    ratings_N: np.ndarray,
    prompts_N: np.ndarray,
    weights_N: np.ndarray | None = None,
) -> Estimate:
    """P(a good response outscores a bad one of any prompt), ties half: area under the ROC curve.

    Raises:
        ValueError: the ratings do not have exactly two values.
    """
    weights_N = np.ones(len(rewards_N)) if weights_N is None else weights_N
    here = ~np.isnan(ratings_N) & (weights_N > 0)
    values = np.unique(ratings_N[here])
    if len(values) != 2:
        raise ValueError(f"good and bad are two ratings, not {len(values)}")
    good, bad = (here & (ratings_N == value) for value in values[::-1])
    sides = [(rewards_N[side], prompts_N[side], weights_N[side]) for side in (good, bad)]
    return area(*sides)


Side = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Rewards, clusters and weights of units."""


def area(better: Side, worse: Side) -> Estimate:
    """P(a better one outscores a worse one), ties half: the weighted Mann-Whitney statistic.

    The interval is that of clustered ROC data: Obuchowski 1997, "Nonparametric analysis of
    clustered ROC curve data", Biometrics 53. NaN where a side has no weight.
    """
    (x, of_x, w), (y, of_y, v) = (
        [column[side[2] > 0] for column in side] for side in (better, worse)
    )
    above = np.stack([w * _mass_below(x, y, v), w * v.sum()], axis=1)
    below = np.stack([v * _mass_above(y, x, w), v * w.sum()], axis=1)
    columns, clusters = np.concatenate([above, below]), np.concatenate([of_x, of_y])
    return clustered(columns, clusters, _share, degree=2, span=(0, 1))


def _share(sums: np.ndarray) -> np.ndarray:
    return np.clip(ratio(sums[..., 0], sums[..., 1]), 0, 1)


def _mass_below(at: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """For each of `at`, the total weight of smaller values plus half that of equal ones."""
    order = np.argsort(values, kind="stable")
    up_to = np.concatenate([[0.0], np.cumsum(weights[order])])
    ends = (np.searchsorted(values[order], at, side=side) for side in ("left", "right"))
    left, right = (up_to[end] for end in ends)
    return (left + right) / 2


def _mass_above(at: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    return weights.sum() - _mass_below(at, values, weights)


def _pairs_within(member: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of units of one group."""
    order = np.argsort(member, kind="stable")
    ends = np.cumsum(np.bincount(member))
    pairs = [np.zeros((2, 0), dtype=np.int64)]
    for group in np.split(order, ends[:-1]):
        pairs.append(group[np.stack(np.triu_indices(len(group), 1))])
    first, second = np.concatenate(pairs, axis=1)
    return first, second


def _ranks_within(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    """Mid-rank of each value in its group."""
    order = np.lexsort((values, member))
    changes = (np.diff(values[order], prepend=np.nan) != 0) | (
        np.diff(member[order], prepend=-1) != 0
    )
    run = np.cumsum(changes) - 1
    rank = np.bincount(run, weights=np.arange(len(values))) / np.bincount(run)
    ranks = np.empty(len(values))
    ranks[order] = rank[run]
    return ranks


def _centred(values: np.ndarray, member: np.ndarray) -> np.ndarray:
    means = np.bincount(member, weights=values) / np.bincount(member)
    return values - means[member]
