"""W&B media of an evaluation set, made at the end of a run from the files of the run directory.

For each set S: histograms S/rewards_better, S/rewards_worse (each pair counts once on either side)
and S/margins; the charts S/reliability_plot and S/margin_plot; the table S/predictions. The local
report is uploaded as it is.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rmexp.evaluation import calibration
from rmexp.evaluation.reliability import reliability
from rmexp.tracking.predictions import read_judgements, read_responses

HISTOGRAM_BINS = 30
PAIRS = ("id", "subset", "better", "worse", "reward_better", "reward_worse", "margin")
RESPONSES = ("id", "response", "subset", "text", "reward", "rating")


def log_run_media(
    folder: Path, evaluated: str | None, rows: int
) -> tuple[dict[str, Any], list[str]]:
    """Build the W&B objects of a run.

    Args:
        folder: the run directory.
        evaluated: the checkpoint that the run evaluated, with its calibration; None: its own.
        rows: maximum rows of a table; 0: neither tables nor the report, so that no text is
            uploaded.

    Returns:
        The objects by name, and a sentence for each table that was shortened.
    """
    import wandb

    scale = calibration.load_calibration(Path(evaluated or folder).expanduser())
    temperature = scale.temperature if scale is not None else None
    media: dict[str, Any] = {}
    notes: list[str] = []
    for file in sorted((folder / "predictions").glob("*.parquet")):
        found, note = _of_set(folder, file.stem, temperature, rows)
        media |= {f"{file.stem}/{name}": value for name, value in found.items()}
        notes += [note] if note else []
    if rows and (folder / "report.html").is_file():
        media["report"] = wandb.Html(str(folder / "report.html"), inject=False)
    return media, notes


def _of_set(
    folder: Path, name: str, temperature: float | None, rows: int
) -> tuple[dict[str, Any], str | None]:
    responses = read_responses(folder / "predictions" / f"{name}.parquet")
    pairs = read_judgements(folder / "judgements" / f"{name}.parquet")
    ids, better, worse = pairs.ids_P, pairs.better_P.tolist(), pairs.worse_P.tolist()
    better_P = np.array([responses[key]["reward"] for key in zip(ids, better, strict=True)])
    worse_P = np.array([responses[key]["reward"] for key in zip(ids, worse, strict=True)])
    usable_P = np.isfinite(better_P) & np.isfinite(worse_P)
    media: dict[str, Any] = {}
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
    media["predictions"] = _table(columns, lines[:rows])
    if len(lines) <= rows:
        return media, None
    file = f"predictions/{name}.parquet"
    return media, (
        f"W&B: {name}/predictions has the {rows} {what}, of {len(lines)} "
        f"(logger.table_rows); {file} has all."
    )


def _distributions(
    better_P: np.ndarray,
    worse_P: np.ndarray,
    weights_P: np.ndarray,
    temperature: float | None,
) -> dict[str, Any]:
    """Histograms and charts of a set's pairs; reliability is weighted, as in the metrics."""
    import wandb

    gaps_P = better_P - worse_P
    edges = np.histogram_bin_edges(np.concatenate([better_P, worse_P]), bins=HISTOGRAM_BINS)
    counts, bounds = np.histogram(gaps_P, bins=HISTOGRAM_BINS)
    series = {"as trained": reliability(gaps_P, weights_P=weights_P)}
    if temperature is not None:
        series[f"temperature {temperature:.3g}"] = reliability(
            gaps_P / temperature, weights_P=weights_P
        )
    lines = {n: (r.confidence_B.tolist(), r.accuracy_B.tolist()) for n, r in series.items()}
    lines["calibrated"] = ([0.5, 1.0], [0.5, 1.0])
    middles = ((bounds[1:] + bounds[:-1]) / 2).tolist()
    return {
        "rewards_better": wandb.Histogram(np_histogram=np.histogram(better_P, edges)),
        "rewards_worse": wandb.Histogram(np_histogram=np.histogram(worse_P, edges)),
        "margins": wandb.Histogram(np_histogram=(counts, bounds)),
        "reliability_plot": _lines(lines, "Accuracy over confidence", "confidence"),
        "margin_plot": _lines(
            {"pairs": (middles, counts.tolist())}, "Pairs over reward gap", "r_better - r_worse"
        ),
    }


def _lines(series: Mapping[str, tuple[list[float], list[float]]], title: str, x: str) -> Any:
    """A line chart of (xs, ys) by name; its table stays out of the panels."""
    import wandb

    xs, ys = zip(*series.values(), strict=True)
    return wandb.plot.line_series(xs, ys, list(series), title=title, xname=x, split_table=True)


def _table(columns: tuple[str, ...], lines: list[tuple[Any, ...]]) -> Any:
    import wandb

    # Mixed types: a column may be text in one row and null in the next.
    return wandb.Table(columns=list(columns), data=[list(x) for x in lines], allow_mixed_types=True)
