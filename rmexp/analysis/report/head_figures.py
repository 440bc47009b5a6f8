"""Figures of a set that a head with several outputs has scored."""

from collections.abc import Iterator, Mapping

import numpy as np

from rmexp.analysis.report import plots
from rmexp.evaluation.scored_set import ScoredSet
from rmexp.evaluation.set_statistics import SetStatistics
from rmexp.evaluation.uncertainty import risk_curve

LEAST_SHARE = 0.1
"""Where curves begin: accuracies of fewer pairs are noise."""


def head_figures(name: str, s: ScoredSet, metrics: Mapping[str, float]) -> Iterator[plots.Plot]:
    """Accuracy by the share of pairs that is kept, and ratings below predicted quantiles."""
    statistics = SetStatistics(s)
    if statistics.doubts_P is not None:
        right_P = statistics.gaps_P > 0
        orders = {
            "members agree most": statistics.doubts_P,
            "largest gap": -np.abs(statistics.gaps_P),
        }
        drawn = []
        for label, doubts_P in orders.items():
            share_P, accuracy_P = risk_curve(doubts_P, right_P, s.weights_P)
            here = share_P >= LEAST_SHARE
            drawn.append([plots.Band(label, share_P[here].tolist(), accuracy_P[here].tolist())])
        yield plots.Plot(
            f"{name}-selective",
            "Accuracy on the pairs that are kept, the surest first; dotted: all",
            plots.bands(drawn, "share of pairs kept", "accuracy", metrics.get(f"{name}/accuracy")),
        )
    if s.kind == "quantile":
        rows: list[tuple[str, float, float, float]] = []
        for level in s.names:
            key = f"{name}/quantile_{level}/share_below"
            if f"{key}_low" in metrics:
                rows.append((level, metrics[key], metrics[f"{key}_low"], metrics[f"{key}_high"]))
        if rows:
            yield plots.Plot(
                f"{name}-quantiles",
                "Ratings at or below each predicted quantile, with 95% intervals; dotted: as "
                "predicted",
                plots.quantile_shares(rows),
            )
