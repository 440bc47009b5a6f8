"""Plots as inline SVG that take their colours from the page, so that dark mode works."""

import io
from collections.abc import Mapping, Sequence

import matplotlib
import matplotlib.figure
import numpy as np

matplotlib.rcParams |= {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
INK = "#808890"
COLOURS = ("#2f7ed8", "#e2711d", "#3a9d5d", "#8e5bb5")


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> str:
    """Lines of (steps, values) by name."""
    figure, axes = _canvas()
    for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=False):
        marker = "o" if len(steps) < 12 else None
        axes.plot(
            steps, values, color=colour, label=name, marker=marker, markersize=4, linewidth=1.6
        )
    axes.set_xlabel("step")
    axes.set_ylabel(label)
    return _svg(figure, axes, len(series) > 1)


def reward_histogram(better: np.ndarray, worse: np.ndarray) -> str:
    """Rewards of better and of worse responses, each pair counted once on either side."""
    figure, axes = _canvas()
    bins = np.histogram_bin_edges(np.concatenate([better, worse]), bins=30).tolist()
    axes.hist(better, bins, color=COLOURS[2], alpha=0.55, label="better")
    axes.hist(worse, bins, color=COLOURS[1], alpha=0.55, label="worse")
    axes.set_xlabel("reward")
    axes.set_ylabel("responses")
    return _svg(figure, axes, True)


def _canvas() -> tuple[matplotlib.figure.Figure, matplotlib.axes.Axes]:
    figure = matplotlib.figure.Figure(figsize=(5.2, 3.0), layout="constrained")
    figure.patch.set_alpha(0)
    axes = figure.add_subplot()
    axes.patch.set_alpha(0)
    axes.tick_params(colors=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    return figure, axes


def _svg(figure: matplotlib.figure.Figure, axes: matplotlib.axes.Axes, legend: bool) -> str:
    if legend:
        axes.legend(frameon=False, labelcolor=INK)
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()[out.getvalue().index("<svg") :]
