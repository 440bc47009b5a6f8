"""Lengths and labels of rows in numbers, with 95% intervals over prompts."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from rmexp.analysis.inspect.rows import RowFacts
from rmexp.evaluation.rank_correlation import spearman
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean

SUMMARY_QUANTILES = (0, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 1)
LENGTH_BINS = 30
VALUES = 12  # different ratings that are counted one by one; more are binned


def tally(rows: Sequence[RowFacts]) -> tuple[dict[str, dict[str, int]], dict[str, int]]:
    """Subset -> split -> its comparisons, the largest subset first; language -> comparisons.

    Rows without a language are not counted.
    """
    subsets: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        subsets[row.subset][row.split] += 1
    ordered = sorted(subsets.items(), key=lambda item: -item[1].total())
    languages = Counter(row.language for row in rows if row.language)
    return {name: dict(counts) for name, counts in ordered}, dict(languages.most_common())


def lengths(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Tokens of the responses with their prompts, and the share of them in shared prefixes."""
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
    """Number of responses with each rating; None without ratings."""
    values = np.array([r for row in rows for r in row.ratings if r == r])
    if not len(values):
        return None
    names, times = np.unique(values, return_counts=True)
    found: dict[str, Any] = {"rated": len(values), "mean": float(values.mean())}
    if len(names) <= VALUES:
        return found | {"values": {f"{n:g}": int(t) for n, t in zip(names, times, strict=True)}}
    return found | {"histogram": _histogram(values)}


def position(rows: Sequence[RowFacts]) -> dict[str, float | None] | None:
    """Share of pairs that the first response wins; None if all or none, as the format decides."""
    strict = [(i < j, row.prompt) for row in rows for i, j, verdict in row.pairs if verdict]
    if len({first for first, _ in strict}) < 2:
        return None
    wins, prompts = zip(*strict, strict=True)
    return _finite(clustered_mean(np.array(wins, dtype=float), np.array(prompts)), "first_wins")


def length_bias(rows: Sequence[RowFacts]) -> dict[str, Any]:
    """Accuracy of "the longer wins", and rank correlation of lengths and ratings.

    The accuracy is in tokens, equal lengths count half, as `length_baseline` of a report. The
    correlation is in characters of the response.
    """
    judged = [(row, i, j) for row in rows for i, j, verdict in row.pairs if verdict]
    gaps = np.array([row.tokens[i] - row.tokens[j] for row, i, j in judged], dtype=float)
    found: dict[str, Any] = {"pairs": len(judged)}
    if judged:
        found["gaps"] = _histogram(gaps)  # tokens, better - worse
        wins, prompts = (np.sign(gaps) + 1) / 2, np.array([row.prompt for row, *_ in judged])
        found |= _finite(clustered_mean(wins, prompts), "longer_wins")
    rated = [
        (rating, size, row.prompt)
        for row in rows
        for rating, size in zip(row.ratings, row.characters, strict=True)
        if rating == rating
    ]
    if len({rating for rating, *_ in rated}) > 1:
        scores, sizes, clusters = (np.array(column) for column in zip(*rated, strict=True))
        found["rated"] = len(rated)
        found |= _finite(spearman(scores, sizes, clusters), "spearman")
    return found


def _histogram(values: np.ndarray) -> dict[str, list[float]]:
    """Counts in bins; bins of whole numbers are equally wide."""
    edges: Any = LENGTH_BINS
    if np.all(values == np.round(values)):
        width = int(np.ptp(values)) // LENGTH_BINS + 1
        edges = np.arange(values.min(), values.max() + width + 1, width)
    counts, edges = np.histogram(values, bins=edges)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _finite(estimate: Estimate, name: str) -> dict[str, float | None]:
    """`name`, `name_low` and `name_high`; JSON has no NaN."""
    named = estimate.named(name).items()
    return {key: float(value) if np.isfinite(value) else None for key, value in named}
