"""Lengths and labels of rows in numbers; what is compared comes with a 95% interval."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmexp.analysis.inspect.rows import RowFacts
from rmexp.evaluation.rank_correlation import spearman
from rmexp.evaluation.stats.bootstrap import clustered_mean

SUMMARY_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)


LENGTH_BINS = 30


VALUES = 12
"""So many different ratings are counted one by one; more are counted in bins."""


def tally(rows: Sequence[RowFacts]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Subset -> split -> its comparisons, the largest subset first; language -> comparisons.

    Rows that name no language are in none.
    """
    subsets: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        subsets[row.subset][row.split] += 1
    ordered = sorted(subsets.items(), key=lambda item: -item[1].total())
    languages = Counter(row.language for row in rows if row.language)
    return {name: dict(counts) for name, counts in ordered}, dict(languages.most_common())


def lengths(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Tokens of the responses with their prompts, and what share of them responses share."""
    tokens = np.array([count for row in rows for count in row.tokens])
    distinct = sum(row.size for row in rows)
    found = np.quantile(tokens, SUMMARY_QUANTILES).tolist()
    return {
        "responses": len(tokens),
        "mean": float(tokens.mean()),
        "quantiles": {f"{100 * q:g}": n for q, n in zip(SUMMARY_QUANTILES, found, strict=True)},
        "histogram": _histogram(tokens),
        "tokens": int(tokens.sum()),
        "distinct_tokens": distinct,
        "shared_prefix": 1 - distinct / int(tokens.sum()),
    }


def ratings(rows: Sequence[RowFacts]) -> dict[str, Any] | None:
    """How often each rating was given; None where there are none."""
    values = np.array([r for row in rows for r in row.ratings if r == r])
    if not len(values):
        return None
    names, times = np.unique(values, return_counts=True)
    found: dict[str, Any] = {"rated": len(values), "mean": float(values.mean())}
    if len(names) <= VALUES:
        return found | {"values": {f"{n:g}": int(t) for n, t in zip(names, times, strict=True)}}
    return found | {"histogram": _histogram(values)}


def position(rows: Sequence[RowFacts]) -> dict[str, float | None] | None:
    """How often the response that stands first wins, with its 95% interval over prompts.

    None where it always does or never: then the format writes the better one there.
    """
    strict = [(i < j, row.prompt) for row in rows for i, j, verdict in row.pairs if verdict]
    first = np.array([won for won, _ in strict], dtype=float)
    if len(set(first)) < 2:
        return None
    return _estimate("first_wins", float(first.mean()), first, [key for _, key in strict])


def length_bias(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """How much length alone says: accuracy of "the longer wins", rank correlation with ratings.

    The former is in tokens, equal lengths half, as `length_baseline` of a report; the latter in
    characters of the response, over all that are rated. Both with 95% intervals over prompts.
    """
    judged = [(row, i, j) for row in rows for i, j, verdict in row.pairs if verdict]
    gaps = np.array([row.tokens[i] - row.tokens[j] for row, i, j in judged], dtype=float)
    wins = (np.sign(gaps) + 1) / 2
    found: dict[str, Any] = {"pairs": len(judged)}
    if judged:
        found["gaps"] = _histogram(gaps)  # tokens of the better one, less those of the worse
        keys = [row.prompt for row, _, _ in judged]
        found |= _estimate("longer_wins", float(wins.mean()), wins, keys)
    rated = [
        (rating, size, row.prompt)
        for row in rows
        for rating, size in zip(row.ratings, row.characters, strict=True)
        if rating == rating
    ]
    if len({rating for rating, *_ in rated}) > 1:
        scores, sizes, clusters = (np.array(column) for column in zip(*rated, strict=True))
        correlation = spearman(scores, sizes, clusters)
        names = ("spearman", "spearman_low", "spearman_high")
        found |= {"rated": len(rated)} | dict(zip(names, map(_finite, correlation), strict=True))
    return found


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Counts in bins; those of whole numbers hold equally many of them."""
    edges: Any = LENGTH_BINS
    if np.all(values == np.round(values)):
        width = int(np.ptp(values)) // LENGTH_BINS + 1
        edges = np.arange(values.min(), values.max() + width + 1, width)
    counts, edges = np.histogram(values, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _estimate(
    name: str, value: float, values: np.ndarray, prompts: Sequence[str]
) -> dict[str, float | None]:
    low, high = clustered_mean(values, np.array(prompts)).interval
    return {name: value, f"{name}_low": _finite(low), f"{name}_high": _finite(high)}


def _finite(value: float) -> float | None:
    """JSON has no NaN."""
    return float(value) if np.isfinite(value) else None
