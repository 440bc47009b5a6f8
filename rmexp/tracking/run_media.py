"""What dashboards show of an evaluation set, made at the end of a run from its directory.

For each set S: histograms S/rewards_better, S/rewards_worse (each pair counts once on either side)
and S/margins; the charts S/reliability_plot and S/margin_plot; the table S/predictions. The local
report is `report`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.evaluation import calibration
from rmexp.evaluation.reliability import reliability
from rmexp.tracking.predictions import read_judgements, read_responses

HISTOGRAM_BINS = 30
PAIRS = ("id", "subset", "better", "worse", "reward_better", "reward_worse", "margin")
RESPONSES = ("id", "response", "subset", "text", "reward", "rating")


@dataclass(frozen=True, eq=False)
class Histogram:
    """Values in bins: `counts_B` of each, and the B + 1 `edges`."""

    counts_B: np.ndarray
    edges: np.ndarray


@dataclass(frozen=True)
class LineChart:
    """Lines (xs, ys) by name."""

    series: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    title: str
    x: str

    def image(self) -> np.ndarray:
        """(height, width, 3) RGB bytes, for dashboards that draw no charts from numbers."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 4), layout="constrained")
        axes = figure.add_subplot(title=self.title, xlabel=self.x)
        for name, (xs, ys) in self.series.items():
            axes.plot(xs, ys, marker=".", label=name)
        axes.legend()
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3]


@dataclass(frozen=True)
class TextTable:
    """Rows of texts and numbers; None where a value is missing."""

    columns: tuple[str, ...]
    rows: Sequence[tuple[Any, ...]]


@dataclass(frozen=True)
class HtmlPage:
    """A page that needs no other file."""

    file: Path


Media = Histogram | LineChart | TextTable | HtmlPage


def read_run_media(
    folder: Path, evaluated: str | None, rows: int
) -> tuple[dict[str, Media], list[str]]:
    """Collect the media of a run.

    Args:
        folder: the run directory.
        evaluated: the checkpoint that the run evaluated, with its calibration; None: its own.
        rows: maximum rows of a table; 0: neither tables nor the report, so that no text is
            shown.

    Returns:
        The media by name, and a sentence for each table that was shortened.
    """
    scale = calibration.load_calibration(Path(evaluated or folder).expanduser())
    temperature = scale.temperature if scale is not None else None
    media: dict[str, Media] = {}
    notes: list[str] = []
    for file in sorted((folder / "predictions").glob("*.parquet")):
        found, note = _of_set(folder, file.stem, temperature, rows)
        media |= {f"{file.stem}/{name}": value for name, value in found.items()}
        notes += [note] if note else []
    if rows and (folder / "report.html").is_file():
        media["report"] = HtmlPage(folder / "report.html")
    return media, notes


def _of_set(
    folder: Path, name: str, temperature: float | None, rows: int
) -> tuple[dict[str, Media], str | None]:
    responses = read_responses(folder / "predictions" / f"{name}.parquet")
    pairs = read_judgements(folder / "judgements" / f"{name}.parquet")
    ids, better, worse = pairs.ids_P, pairs.better_P.tolist(), pairs.worse_P.tolist()
    better_P = np.array([responses[key]["reward"] for key in zip(ids, better, strict=True)])
    worse_P = np.array([responses[key]["reward"] for key in zip(ids, worse, strict=True)])
    usable_P = np.isfinite(better_P) & np.isfinite(worse_P)
    media: dict[str, Media] = {}
    columns: tuple[str, ...]
    lines: list[tuple[Any, ...]]
    if usable_P.any():
        media |= _distributions(
            better_P[usable_P], worse_P[usable_P], pairs.weights_P[usable_P], temperature
        )
        lines = [
            (id, subset, *(responses[id, k]["text"] for k in (i, j)), up, down, up - down)
            for id, subset, i, j, up, down, usable in zip(
                ids, pairs.subsets_P, better, worse, better_P, worse_P, usable_P, strict=True
            )
            if usable
        ]
        lines.sort(key=lambda line: line[-1])
        columns, what = PAIRS, "most confidently wrong pairs"
    else:
        lines = [tuple(row[column] for column in RESPONSES) for row in responses.values()]
        columns, what = RESPONSES, "first responses"
    if not rows:
        return media, None
    media["predictions"] = TextTable(columns, lines[:rows])
    if len(lines) <= rows:
        return media, None
    file = f"predictions/{name}.parquet"
    return media, (
        f"{name}/predictions has the {rows} {what}, of {len(lines)} "
        f"(logger.table_rows); {file} has all."
    )


def _distributions(
    better_P: np.ndarray,
    worse_P: np.ndarray,
    weights_P: np.ndarray,
    temperature: float | None,
) -> dict[str, Media]:
    """Histograms and charts of a set's pairs; reliability is weighted, as in the metrics."""
    gaps_P = better_P - worse_P
    edges = np.histogram_bin_edges(np.concatenate([better_P, worse_P]), bins=HISTOGRAM_BINS)
    margins = Histogram(*np.histogram(gaps_P, bins=HISTOGRAM_BINS))
    series = {"as trained": reliability(gaps_P, weights_P=weights_P)}
    if temperature is not None:
        series[f"temperature {temperature:.3g}"] = reliability(
            gaps_P / temperature, weights_P=weights_P
        )
    lines = {n: (r.confidence_B.tolist(), r.accuracy_B.tolist()) for n, r in series.items()}
    lines["calibrated"] = ([0.5, 1.0], [0.5, 1.0])
    middles = ((margins.edges[1:] + margins.edges[:-1]) / 2).tolist()
    return {
        "rewards_better": Histogram(*np.histogram(better_P, edges)),
        "rewards_worse": Histogram(*np.histogram(worse_P, edges)),
        "margins": margins,
        "reliability_plot": LineChart(lines, "Accuracy over confidence", "confidence"),
        "margin_plot": LineChart(
            {"pairs": (middles, margins.counts_B.tolist())},
            "Pairs over reward gap",
            "r_better - r_worse",
        ),
    }
