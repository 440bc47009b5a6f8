"""Plots as inline SVG, without a background and in colours that read on light and dark."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np

STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
INK = "#808890"
COLOURS = ("#2f7ed8", "#e2711d", "#3a9d5d", "#8e5bb5")
FEW = 12
"""Up to so many points a curve is drawn as it is; a longer one is smoothed over its raw values."""


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> str:
    """Lines of (steps, values) by name."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("step", label)
        for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=False):
            if len(steps) <= FEW:
                axes.plot(steps, values, "o-", color=colour, label=name, markersize=4)
            else:
                axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
                axes.plot(steps, _running_mean(values), color=colour, label=name, linewidth=1.8)
        return _svg(figure, axes)


def reward_histogram(better: np.ndarray, worse: np.ndarray) -> str:
    """Rewards of better and of worse responses, each pair counted once on either side."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("reward", "responses")
        bins = np.histogram_bin_edges(np.concatenate([better, worse]), bins=30).tolist()
        axes.hist(better, bins, color=COLOURS[2], alpha=0.55, label="better")
        axes.hist(worse, bins, color=COLOURS[1], alpha=0.55, label="worse")
        return _svg(figure, axes)


def histogram(edges: Sequence[float], counts: Sequence[int], x: str, y: str) -> str:
    """Counts in bins; there is an edge more than there are bins."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(x, y)
        axes.stairs(counts, edges, color=COLOURS[0], fill=True, alpha=0.7)
        return _svg(figure, axes)


def bars(counts: Mapping[str, int], x: str, y: str) -> str:
    """A bar a name."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(x, y)
        axes.bar(list(counts), list(counts.values()), color=COLOURS[0], alpha=0.7, width=0.7)
        return _svg(figure, axes)


def forest(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """A line a row (name, value, low, high), the first on top; NaN bounds are not drawn."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas(label, "")
        figure.set_size_inches(5.2, 1.0 + 0.28 * len(rows))
        places = np.arange(len(rows), 0, -1)
        names, values, lows, highs = zip(*rows, strict=True)
        axes.hlines(places, lows, highs, color=COLOURS[0], linewidth=2.2, alpha=0.5)
        axes.plot(values, places, "o", color=COLOURS[0], markersize=5)
        axes.axvline(values[0], color=INK, linewidth=0.8, linestyle=":")
        axes.set_yticks(places, names, parse_math=False)
        return _svg(figure, axes)


def reliability_curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> str:
    """Accuracy over confidence in bins, by name; the dotted line is a calibrated model's."""
    with matplotlib.rc_context(STYLE):
        figure, axes = _canvas("confidence", "accuracy")
        axes.plot([0.5, 1], [0.5, 1], ":", color=INK, linewidth=1)
        for colour, (name, (confidence, accuracy)) in zip(COLOURS, series.items(), strict=False):
            (line,) = axes.plot(confidence, accuracy, "o-", color=colour, markersize=4, label=name)
            line.set_label(name.replace("$", r"\$"))
        return _svg(figure, axes)


def _running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, up to a tenth of the curve."""
    width = max(4, len(values) // 10)
    return [float(np.mean(values[max(0, n - width + 1) : n + 1])) for n in range(len(values))]


def _canvas(x: str, y: str) -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    figure = matplotlib.figure.Figure(figsize=(5.2, 3.0), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK)
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    return figure, axes


def _svg(figure: matplotlib.figure.Figure, axes: matplotlib.axes.Axes) -> str:
    if axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, labelcolor=INK)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
