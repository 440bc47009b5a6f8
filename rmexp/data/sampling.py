"""Sampling rates of training rows: balanced groups and shares of several sources."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def balanced(groups: Sequence[Hashable]) -> np.ndarray:
    """(C,) draws of each row in an epoch, mean 1, with equally many draws from each group.

    Rows without a group (None) are drawn once.
    """
    counts = Counter(group for group in groups if group is not None)
    share = sum(counts.values()) / max(1, len(counts))
    return np.array([1.0 if group is None else share / counts[group] for group in groups])


def by_source(
    sources: np.ndarray, shares: Sequence[float], within: np.ndarray | None = None
) -> np.ndarray:
    """(C,) draws of each row in an epoch, mean 1, where source s has `shares[s]` of all draws.

    Args:
        sources: (C,) the source of each row, 0 to S - 1; every source has rows.
        shares: (S,) positive; they need not sum to 1.
        within: (C,) draws relative to other rows of the source; None: equal.
    """
    weights = np.ones(len(sources)) if within is None else within
    totals = np.bincount(sources, weights=weights, minlength=len(shares))
    parts = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    return weights * (parts / totals)[sources] * len(sources)


def tempered(counts: Sequence[int], temperature: float) -> list[float]:
    """Shares proportional to counts^(1 / temperature): above 1, small sources have larger shares.

    Arivazhagan et al. 2019, arXiv:1907.05019, section 3.3.
    """
    raised = np.asarray(counts, dtype=np.float64) ** (1 / temperature)
    return (raised / raised.sum()).tolist()


def capped(keys: np.ndarray, limit: int, seed: int) -> np.ndarray:
    """(C,) true for at most `limit` rows of each key, chosen at random by `seed`."""
    order = np.random.default_rng(seed).permutation(len(keys))
    seen: Counter[int] = Counter()
    keep = np.zeros(len(keys), dtype=bool)
    for index in order.tolist():
        seen[keys[index]] += 1
        keep[index] = seen[keys[index]] <= limit
    return keep


def shares_of(groups: Sequence[Hashable], rates: np.ndarray) -> Mapping[str, tuple[float, float]]:
    """Group -> its shares of the rows and of the draws."""
    names = sorted(set(map(str, groups)))
    own = np.array([names.index(str(group)) for group in groups])
    rows = np.bincount(own, minlength=len(names)) / len(own)
    drawn = np.bincount(own, weights=rates, minlength=len(names)) / rates.sum()
    return dict(zip(names, zip(rows.tolist(), drawn.tolist(), strict=True), strict=True))
