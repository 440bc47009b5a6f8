"""How often each training row is drawn: against imbalance, and by the shares of several sources."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence

import numpy as np


def balanced(groups: Sequence[Hashable]) -> np.ndarray:
    """(C,) draws an epoch of each row, mean 1, at which all groups are drawn equally often.

    Rows of no group (None) are drawn once.
    """
    counts = Counter(group for group in groups if group is not None)
    share = sum(counts.values()) / max(1, len(counts))
    return np.array([1.0 if group is None else share / counts[group] for group in groups])


def by_source(
    sources: np.ndarray, shares: Sequence[float], within: np.ndarray | None = None
) -> np.ndarray:
    """(C,) draws an epoch of each row, mean 1, at which source s has `shares[s]` of all draws.

    Args:
        sources: (C,) the source of each row, 0 to S - 1; every source has rows.
        shares: (S,) above 0; they need not sum to 1.
        within: (C,) how often rows are drawn relative to others of their source; None: equally.
    """
    weights = np.ones(len(sources)) if within is None else within
    totals = np.bincount(sources, weights=weights, minlength=len(shares))
    parts = np.asarray(shares, dtype=np.float64) / np.sum(shares)
    return weights * (parts / totals)[sources] * len(sources)


def tempered(counts: Sequence[int], temperature: float) -> list[float]:
    """Shares as counts^(1 / temperature): 1 is by rows, more lifts small sources.

    Arivazhagan et al. 2019, arXiv:1907.05019, section 3.3.
    """
    raised = np.asarray(counts, dtype=np.float64) ** (1 / temperature)
    return (raised / raised.sum()).tolist()


def capped(keys: np.ndarray, most: int, seed: int) -> np.ndarray:
    """(C,) true for at most `most` rows of each key, chosen at random by `seed`."""
    order = np.random.default_rng(seed).permutation(len(keys))
    seen: Counter[int] = Counter()
    keep = np.zeros(len(keys), dtype=bool)
    for index in order.tolist():
        seen[keys[index]] += 1
        keep[index] = seen[keys[index]] <= most
    return keep


def shares_of(groups: Sequence[Hashable], times: np.ndarray) -> Mapping[str, tuple[float, float]]:
    """Group -> its share of the rows, and of the draws."""
    names = sorted(set(map(str, groups)))
    own = np.array([names.index(str(group)) for group in groups])
    rows = np.bincount(own, minlength=len(names)) / len(own)
    drawn = np.bincount(own, weights=times, minlength=len(names)) / times.sum()
    return dict(zip(names, zip(rows.tolist(), drawn.tolist(), strict=True), strict=True))
