"""The attributes of a head on a run's page: a table and the correlations between them."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.analysis.report import plots
from rmexp.evaluation.metric_values import format_interval, format_metric
from rmexp.evaluation.metrics import METRICS

TABLE_METRICS = ("accuracy", "spearman", "ece_calibrated", "rating_rmse", "length_r2")
"""Metrics of the table, on the evaluated set."""


def attributes_section(
    facts: Mapping[str, Any], metrics: Mapping[str, float]
) -> tuple[dict[str, Any], list[plots.Plot]]:
    """The table, and the plot.

    Args:
        facts: `attributes` of `result.json`, see `training.attribute_outputs`.
        metrics: by full name.
    """
    home = f"{facts['set']}/attributes"
    there = {name.rpartition("/")[2] for name in metrics if name.startswith(f"{home}/")}
    shown = [metric for metric in METRICS if metric.name in TABLE_METRICS and metric.name in there]
    rows = [
        [
            name,
            format_interval(*weight),
            *(format_metric(metrics, f"{home}/{name}/{metric.name}") for metric in shown),
        ]
        for name, weight in facts["weights"].items()
    ]
    table = {
        "set": facts["set"],
        "learnt": facts["learnt"],
        "columns": ["attribute", "weight", *(metric.label for metric in shown)],
        "rows": rows,
    }
    names, found = facts["rated"], facts["correlations"]
    if len(names) < 2:
        return table, []
    cells = [
        [_cell(found["outputs" if k < j else "ratings"], j, k) for k in range(len(names))]
        for j in range(len(names))
    ]
    caption = "Correlations between attributes: of outputs below the diagonal, of ratings above it"
    drawn = plots.heat(cells, names, names, "", "")
    return table, [plots.Plot("attributes", caption, drawn)]


def _cell(table: Sequence[Sequence[float | None]], row: int, column: int) -> float:
    value = None if row == column else table[row][column]
    return float("nan") if value is None else value
