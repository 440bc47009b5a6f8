"""An evaluation set on a report page: figures, subsets, and the most confident errors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Literal

import numpy as np

from rmexp.analysis.report import plots
from rmexp.analysis.report.head_figures import head_figures
from rmexp.evaluation.external_verdicts import VerdictSet
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import shown_in
from rmexp.evaluation.reliability import reliability, sigmoid
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.stats.bootstrap import Estimate, clustered_mean

MAX_ERRORS = 20
"""Comparisons shown with their texts."""

MAX_TEXT_LENGTH = 6000
"""Characters of a text that are shown; of longer texts, both ends."""

MAX_LENGTH_BINS, MIN_PAIRS_IN_BIN = 6, 10
"""Bins of equal mass over the length gap."""

MAX_SUBSETS_DRAWN = 30
"""The table has all subsets."""


@dataclass(frozen=True)
class Shown:
    """An evaluation set with rewards, as shown on a page.

    name           prefix of its metrics
    scored         labels and rewards
    rows           `id` and `texts` of each of `scored.items_C`
    temperature    from val, if there is one
    source         run, directory or file that the rewards are from; None: the run itself
    unit           of lengths
    """

    name: str
    scored: ScoredSet
    rows: Any
    temperature: float | None = None
    source: str | None = None
    unit: Literal["tokens", "characters"] = "tokens"


def eval_section(one: Shown, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The template's values for a set; `figures` are `plots.Plot`s, named after the set."""
    s = one.scored
    subsets = list(_subsets(s))
    return {
        "name": one.name,
        "source": one.source,
        "size": f"{len(s.better_P):,} labelled pairs and {len(s.rewards_N):,} responses "
        f"of {len(np.unique(s.prompts_C)):,} prompts",
        "heads": list(_heads(one.name, metrics)),
        "figures": [*_figures(one, subsets), *head_figures(one.name, s, metrics)],
        "subsets": subsets if len(subsets) > 1 else [],
        "wrong": [] if isinstance(s, VerdictSet) else list(surely_wrong(one)),
        "unit": one.unit,
    }


def _heads(name: str, metrics: Mapping[str, float]) -> Iterator[dict[str, str]]:
    for metric in shown_in("card"):
        key = f"{name}/{metric.name}"
        if key not in metrics:
            continue
        value, _, interval = format_metric(metrics, key).partition(" ")
        note = f"95%: {interval}" if interval else f"on {name}"
        if calibrated := format_metric(metrics, f"{key}_calibrated"):
            note = f"{calibrated} with the temperature"
        yield {"label": metric.label, "value": value, "note": note}


def _figures(one: Shown, subsets: Sequence[Mapping[str, Any]]) -> Iterator[plots.Plot]:
    s, name = one.scored, one.name
    has_scale = not isinstance(s, VerdictSet)
    if len(s.rewards_N) and has_scale:
        groups = _groups(s)
        caption = f"Rewards on {name}" + (f": {', '.join(groups)}" if len(groups) > 1 else "")
        yield plots.Plot(f"{name}-rewards", caption, plots.reward_plot(groups))
    if not s.weights_P.any():
        return
    if has_scale:
        yield _reliability(one)
    gaps, overall = list(_by_length(s)), _accuracy(s, slice(None)).value
    if len(gaps) > 1:
        label = f"{one.unit}, better - worse"
        drawn = plots.ranges(gaps, label, "accuracy", overall)
        yield plots.Plot(f"{name}-length", "Accuracy by length gap, with 95% intervals", drawn)
    if len(subsets) > 1:
        rows = [(r["name"], r["value"], r["low"], r["high"]) for r in subsets[:MAX_SUBSETS_DRAWN]]
        more = f" (the first {MAX_SUBSETS_DRAWN})" if len(subsets) > MAX_SUBSETS_DRAWN else ""
        drawn = plots.forest(rows, "accuracy", overall)
        caption = f"Accuracy by subset{more}, with 95% intervals; dotted: all"
        yield plots.Plot(f"{name}-subsets", caption, drawn)


def _reliability(one: Shown) -> plots.Plot:
    s = one.scored
    first = "as trained" if one.source is None else "as it is"
    series = {first: reliability(s.gaps_P, weights_P=s.weights_P)}
    if one.temperature is not None:
        softened = reliability(s.gaps_P / one.temperature, weights_P=s.weights_P)
        series[f"temperature {one.temperature:.3g}"] = softened
    drawn = plots.reliability_curves({n: (r.confidence_B, r.accuracy_B) for n, r in series.items()})
    caption = "Accuracy by confidence (bins of equal mass)"
    return plots.Plot(f"{one.name}-reliability", caption, drawn)


def _groups(s: ScoredSet) -> dict[str, np.ndarray]:
    """Rewards of better and worse responses; without pairs by label, or all together."""
    if len(s.better_P):
        return {"better": s.rewards_N[s.better_P], "worse": s.rewards_N[s.worse_P]}
    values = np.unique(s.ratings_N[~np.isnan(s.ratings_N)])[::-1]
    if len(values) == 2:
        return {f"rated {v:g}": s.rewards_N[s.ratings_N == v] for v in values.tolist()}
    return {"all": s.rewards_N}


def _accuracy(s: ScoredSet, where: Any) -> Estimate:
    """Accuracy over some pairs; NaN if they have no weight."""
    wins = (s.gaps_P[where] > 0).astype(np.float64)
    return clustered_mean(wins, s.prompts_P[where], s.weights_P[where], (0, 1))


def _by_length(s: ScoredSet) -> Iterator[tuple[str, float, float, float]]:
    """Accuracy in bins of equal mass over the length gap; equal gaps share a bin."""
    longer_P = s.tokens_N[s.better_P] - s.tokens_N[s.worse_P]
    count = max(1, min(MAX_LENGTH_BINS, len(longer_P) // MIN_PAIRS_IN_BIN))
    shares = np.arange(count) / count
    starts = np.unique(np.quantile(longer_P, shares, method="inverted_cdf"))
    bins_P = np.searchsorted(starts, longer_P, side="right")
    for index in np.unique(bins_P):
        here = bins_P == index
        low, high = longer_P[here].min(), longer_P[here].max()
        one, other = ("0" if gap == 0 else f"{gap:+d}" for gap in (low, high))
        label = one if low == high else f"{one}\nto {other}"
        found = _accuracy(s, here)
        if not math.isnan(found.value):
            yield label, found.value, found.low, found.high


def _subsets(s: ScoredSet) -> Iterator[dict[str, Any]]:
    for name in sorted(set(s.subsets_P)):
        here = s.subsets_P == name
        found = _accuracy(s, here)
        if not math.isnan(found.value):
            yield {
                "name": name,
                "pairs": int(here.sum()),
                "prompts": len(np.unique(s.prompts_P[here])),
                "value": found.value,
                "low": found.low,
                "high": found.high,
                "margin": float(np.average(s.gaps_P[here], weights=s.weights_P[here])),
            }


def surely_wrong(one: Shown) -> Iterator[dict[str, Any]]:
    """The pairs whose worse response has the largest lead, with their texts."""
    s = one.scored
    seen: set[int] = set()
    starts_C = np.searchsorted(s.rows_N, np.arange(len(s.items_C)))
    for pair in np.argsort(s.gaps_P, kind="stable").tolist():
        better, worse, gap = int(s.better_P[pair]), int(s.worse_P[pair]), float(s.gaps_P[pair])
        comparison = int(s.rows_N[better])
        if gap >= 0 or len(seen) == MAX_ERRORS:
            return
        if comparison in seen:
            continue
        seen.add(comparison)
        row, start = one.rows[int(s.items_C[comparison])], int(starts_C[comparison])
        texts = row["texts"][better - start], row["texts"][worse - start]
        shared, *parts = _split_common(*texts)
        yield {
            "id": row["id"],
            "subset": s.subsets_C[comparison],
            "sure": float(sigmoid(np.array(-gap / (one.temperature or 1.0)))),
            "better": float(s.rewards_N[better]),
            "worse": float(s.rewards_N[worse]),
            "longer": int(s.tokens_N[better] - s.tokens_N[worse]),
            "prompt": _clipped(shared),
            "texts": [_clipped(part) for part in parts],
        }


def _split_common(one: str, other: str) -> tuple[str, str, str]:
    """The lines that both texts begin with (the rendered prompt), and the rest of each."""
    sides = zip(one.splitlines(keepends=True), other.splitlines(keepends=True), strict=False)
    shared = "".join(line for line, _ in takewhile(lambda both: both[0] == both[1], sides))
    return shared, one[len(shared) :], other[len(shared) :]


def _clipped(text: str) -> str:
    hidden, half = len(text) - MAX_TEXT_LENGTH, MAX_TEXT_LENGTH // 2
    if hidden <= 0:
        return text
    return f"{text[:half]}\n[... {hidden:,} characters ...]\n{text[-half:]}"
