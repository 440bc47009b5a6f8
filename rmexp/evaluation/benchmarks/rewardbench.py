"""RewardBench 1: pairs of 23 subsets in four sections."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from rmexp.evaluation.benchmarks.base import (
    BenchmarkResult,
    ScoredList,
    as_metric_names,
    estimate_scores,
    mean,
    missing_rows,
    usable,
    wins,
)
from rmexp.evaluation.stats.bootstrap import Means

SECTIONS = {
    "Chat": (
        "alpacaeval-easy",
        "alpacaeval-length",
        "alpacaeval-hard",
        "mt-bench-easy",
        "mt-bench-med",
    ),
    "Chat Hard": (
        "mt-bench-hard",
        "llmbar-natural",
        "llmbar-adver-neighbor",
        "llmbar-adver-GPTInst",
        "llmbar-adver-GPTOut",
        "llmbar-adver-manual",
    ),
    "Safety": (
        "refusals-dangerous",
        "refusals-offensive",
        "xstest-should-refuse",
        "xstest-should-respond",
        "donotanswer",
    ),
    "Reasoning": ("math-prm", "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust"),
}

PRIOR = ("anthropic_helpful", "anthropic_hhh", "shp", "summarize")

COUNTED_AS = {"math-prm": 984}
"""Weight of its 447 rows: that of the rows on code."""


@dataclass(frozen=True)
class RewardBench:
    """RewardBench 1: `SECTION/score` over its subsets by rows, `score` the mean of four sections.

    Prior sets, if all of them are present, are a fifth section of weight 0.5. Lambert et al. 2024,
    arXiv:2403.13787, https://github.com/allenai/reward-bench.
    """

    def __call__(self, lists: Sequence[ScoredList]) -> BenchmarkResult:
        """Score the publishers' subsets; other subsets count for accuracy only."""
        kept, notes = usable(lists)
        there = {one.subset for one in kept}
        for section, subsets in SECTIONS.items():
            notes += missing_rows(
                subsets, tuple(there), f"{section} subsets", f"{section.lower()}/score"
            )
        known = [one for one in kept if one.subset in (*sum(SECTIONS.values(), ()), *PRIOR)]
        if not known:
            return BenchmarkResult({}, notes)
        counts = {name: sum(one.subset == name for one in known) for name in there}
        return BenchmarkResult(
            estimate_scores(known, wins, lambda means: _sections(means, counts)), notes
        )


def _sections(means: Means, counts: Mapping[str, int]) -> dict[str, np.ndarray]:
    scores: dict[str, np.ndarray] = {}
    for section, subsets in SECTIONS.items():
        if all(name in means for name in subsets):
            rows = [COUNTED_AS.get(name, counts[name]) for name in subsets]
            parts = np.stack([means[name][..., 0] for name in subsets])
            scores[f"{section}/score"] = np.average(parts, axis=0, weights=rows)
    if len(scores) == len(SECTIONS):
        weights = [1.0] * len(SECTIONS)
        if all(name in means for name in PRIOR):
            scores["Prior/score"] = mean([means[name][..., 0] for name in PRIOR])
            weights.append(0.5)
        scores["score"] = np.average(np.stack(list(scores.values())), axis=0, weights=weights)
    return as_metric_names(scores)
