"""Plots: inline SVG in the page's text colour (light or dark), and PNG on white."""

import html
import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import numpy as np
from matplotlib.layout_engine import ConstrainedLayoutEngine

PLOT_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}

INK = "#59636d"
COLOURS = ("#2f7ed8", "#e2711d", "#3a9d5d", "#8e5bb5")
GREENS = "Greens"
DPI = 120

FOLDER = "plots"
"""Folder in a run directory with NAME.png."""

MIN_POINTS = 12
"""Up to this many points a curve is drawn as it is; longer ones get a running mean on top."""

Axes = matplotlib.axes.Axes
Figure = matplotlib.figure.Figure

ForestRows = Sequence[tuple[str, float, float, float]]
"""(name, value, low, high); NaN bounds are not drawn."""


@dataclass(frozen=True)
class Plot:
    """A figure with a caption; `name` is that of its PNG."""

    name: str
    caption: str
    figure: Figure

    def svg(self) -> str:
        """Inline SVG with a transparent background, in the page's text colour."""
        out = io.StringIO()
        with matplotlib.rc_context(PLOT_STYLE), _glyphs():
            self.figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
        text = out.getvalue()[out.getvalue().index("<svg") :].replace(INK, "currentColor")
        return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(self.caption)}"', 1)

    def save(self, folder: Path) -> None:
        """`NAME.png`, for slides and papers."""
        folder.mkdir(parents=True, exist_ok=True)
        with _glyphs():
            self.figure.savefig(folder / f"{self.name}.png", dpi=DPI, facecolor="white")


def published(plots: Sequence[Plot], folder: Path | None = None) -> list[dict[str, str]]:
    """The plots as SVG for a page; each is also saved as PNG in `folder`."""
    for plot in plots:
        if folder is not None:
            plot.save(folder)
    return [{"svg": plot.svg(), "caption": plot.caption} for plot in plots]


def logged_series(
    logged: Sequence[Mapping[str, Any]], name: str
) -> tuple[list[float], list[float]]:
    """Steps and values of a metric in the lines of metrics.jsonl."""
    here = [line for line in logged if name in line]
    return [line["step"] for line in here], [line[name] for line in here]


def curves(series: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> Figure:
    """Lines of (steps, values) by name."""
    axes = _canvas("step", label)
    for colour, (name, (steps, values)) in zip(COLOURS, series.items(), strict=False):
        if len(steps) <= MIN_POINTS:
            axes.plot(steps, values, "o-", color=colour, label=_plain(name), markersize=4)
        else:
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=1)
            mean = _running_mean(values)
            axes.plot(steps, mean, color=colour, label=_plain(name), linewidth=1.8)
    return _done(axes)


@dataclass(frozen=True)
class Band:
    """A curve with its intervals; `low` and `high` may be None. A dashed one has no legend."""

    name: str
    x: Sequence[float]
    values: Sequence[float]
    low: Sequence[float] | None = None
    high: Sequence[float] | None = None
    dashed: bool = False


def bands(
    groups: Sequence[Sequence[Band]], x: str, y: str, line: float | None, log2: bool = False
) -> Figure:
    """Curves with intervals; those of a group share a colour, and a dotted line is a reference."""
    axes = _canvas(x, y)
    if line is not None:
        axes.axhline(line, color=INK, linewidth=0.8, linestyle=":")
    for colour, group in zip((*COLOURS, INK), groups, strict=False):
        for one in group:
            style, label = ("--", None) if one.dashed else ("-", _plain(one.name))
            axes.plot(one.x, one.values, style, color=colour, linewidth=1.6, label=label)
            if one.low is not None and one.high is not None:
                axes.fill_between(one.x, one.low, one.high, color=colour, alpha=0.15, linewidth=0)
    if log2:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.0f}")
    return _done(axes)


def reward_plot(groups: Mapping[str, np.ndarray]) -> Figure:
    """Histograms of rewards by name, on the same bins."""
    axes = _canvas("reward", "responses")
    bins = np.histogram_bin_edges(np.concatenate(list(groups.values())), bins=30).tolist()
    shades = COLOURS[2:0:-1] if len(groups) > 1 else COLOURS
    for colour, (name, values) in zip(shades, groups.items(), strict=False):
        counts = np.histogram(values, bins)[0]
        axes.stairs(counts, bins, color=colour, alpha=0.55, fill=True, label=_plain(name))
    return _done(axes)


def histogram(edges: Sequence[float], counts: Sequence[int], x: str, y: str) -> Figure:
    """Counts in bins; there is an edge more than there are bins."""
    axes = _canvas(x, y)
    axes.stairs(counts, edges, color=COLOURS[0], fill=True, alpha=0.7)
    return _done(axes)


def bars(counts: Mapping[str, int], x: str, y: str) -> Figure:
    """One bar per name."""
    axes = _canvas(x, y)
    axes.bar(list(counts), list(counts.values()), color=COLOURS[0], alpha=0.7, width=0.7)
    return _done(axes)


def forest(rows: ForestRows, label: str, line: float) -> Figure:
    """Forest plot: one interval per row, the first on top, and a dotted reference line."""
    axes = _canvas(label, "", height=1.0 + 0.28 * len(rows))
    positions = np.arange(len(rows), 0, -1)
    names, values, lows, highs = zip(*rows, strict=True)
    axes.axvline(line, color=INK, linewidth=0.8, linestyle=":")
    axes.hlines(positions, lows, highs, color=COLOURS[0], linewidth=2.2, alpha=0.5)
    axes.plot(values, positions, "o", color=COLOURS[0], markersize=5)
    axes.set_yticks(positions, names, parse_math=False)
    axes.set_ylim(0.4, len(rows) + 0.6)
    axes.locator_params(axis="x", nbins=5)  # long names leave little room for numbers
    return _done(axes)


def ranges(rows: ForestRows, x: str, y: str, line: float) -> Figure:
    """One point with its interval per row, left to right, e.g. accuracy in bins."""
    axes = _canvas(x, y)
    positions = np.arange(len(rows))
    names, values, lows, highs = zip(*rows, strict=True)
    axes.axhline(line, color=INK, linewidth=0.8, linestyle=":")
    axes.vlines(positions, lows, highs, color=COLOURS[0], linewidth=2.2, alpha=0.5)
    axes.plot(positions, values, "o-", color=COLOURS[0], markersize=5, linewidth=1)
    axes.set_xticks(positions, names, fontsize=7.5)
    return _done(axes)


def quantile_shares(rows: ForestRows) -> Figure:
    """Shares with intervals over the levels (the names) that they should have: the dotted line."""
    axes = _canvas("predicted quantile", "share of ratings")
    names, values, lows, highs = zip(*rows, strict=True)
    levels = [float(name) for name in names]
    axes.plot([0, 1], [0, 1], ":", color=INK, linewidth=1)
    axes.vlines(levels, lows, highs, color=COLOURS[0], linewidth=2.2, alpha=0.5)
    axes.plot(levels, values, "o-", color=COLOURS[0], markersize=5, linewidth=1)
    return _done(axes)


def reliability_curves(series: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Figure:
    """Accuracy over confidence by name; the dotted line is perfect calibration."""
    axes = _canvas("confidence", "accuracy")
    surest = max(0.6, *(float(confidence.max()) for confidence, _ in series.values()))
    axes.plot([0.5, surest], [0.5, surest], ":", color=INK, linewidth=1)
    for colour, (name, (confidence, accuracy)) in zip(COLOURS, series.items(), strict=False):
        axes.plot(confidence, accuracy, "o-", color=colour, markersize=4, label=_plain(name))
    return _done(axes)


def heat(
    cells: Sequence[Sequence[float]], across: Sequence[str], down: Sequence[str], x: str, y: str
) -> Figure:
    """Heat map with the number in each cell; NaN stays empty."""
    axes = _canvas(x, y, height=1.0 + 0.4 * len(down))
    values = np.array(cells, dtype=np.float64)
    axes.imshow(values, cmap=GREENS, alpha=0.6, aspect="auto")
    for (row, column), value in np.ndenumerate(values):
        if not np.isnan(value):
            axes.text(column, row, f"{value:.4f}", ha="center", va="center", fontsize=9)
    axes.set_xticks(range(len(across)), across, parse_math=False)
    axes.set_yticks(range(len(down)), down, parse_math=False)
    return _done(axes)


def _running_mean(values: Sequence[float]) -> list[float]:
    """The mean of each value and those before it, up to a tenth of the curve."""
    width = max(4, len(values) // 10)
    return [float(np.mean(values[max(0, n - width + 1) : n + 1])) for n in range(len(values))]


def _plain(name: str) -> str:
    """Escape a name: matplotlib would parse $ as a formula, and hide a leading _ in legends."""
    return f"\u200b{name}".replace("$", r"\$") if name.startswith("_") else name.replace("$", r"\$")


def _canvas(x: str, y: str, height: float = 3.0) -> Axes:
    with matplotlib.rc_context(PLOT_STYLE):
        axes = Figure(figsize=(5.2, height)).add_subplot()
    axes.tick_params(colors=INK)
    axes.set_xlabel(_plain(x), color=INK)
    axes.set_ylabel(_plain(y), color=INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    return axes


def _done(axes: Axes) -> Figure:
    """Add the legend and lay the figure out, once for both formats."""
    if axes.get_legend_handles_labels()[1]:
        with matplotlib.rc_context(PLOT_STYLE):
            axes.legend(frameon=False, labelcolor=INK)
    figure = axes.get_figure()
    assert isinstance(figure, Figure)
    with _glyphs():  # a layout engine of the figure itself would run again for each format
        ConstrainedLayoutEngine().execute(figure)
    return figure


class _glyphs(warnings.catch_warnings):
    """Ignore missing glyphs: the page's own font has them, a PNG shows boxes."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
