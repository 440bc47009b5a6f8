"""What a run prints at its end: its metrics, and where everything is."""

import re
from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from rmexp.core.console import Reporter, relative_path
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import shown_in
from rmexp.tracking.run_directory import RunDirectory


def print_closing(
    run: RunDirectory, metrics: Mapping[str, float], reporter: Reporter, brief: bool
) -> None:
    """Print the closing table and the paths; if `brief`, the main metrics of a sweep's job."""
    if metrics and brief:
        reporter.say(", ".join(headlines(metrics)))
    elif _sets(metrics):  # other tasks print tables of their own
        reporter.console.print(closing_table(metrics))
    rows = [("run", relative_path(run.path))]
    rows += [
        (what, relative_path(run.path / name))
        for what, name in (("report", "report.html"), ("export", "export"))
        if (run.path / name).exists() and not (brief and what == "report")
    ]
    if wandb := run.result.get("wandb"):
        offline = wandb["mode"] == "offline"
        parts = Path(wandb["directory"])  # a resumed run has one for each of its starts
        if len(list(parts.parent.glob("offline-run-*"))) > 1:
            parts = parts.with_name("offline-run-*")
        rows.append(("W&B", f"wandb sync {relative_path(parts)}" if offline else wandb["url"]))
    if (run.path / "tensorboard").is_dir() and not brief:
        rows.append(("see", f"tensorboard --logdir {relative_path(run.path)}"))
    if (trackio := run.result.get("trackio")) and not brief:
        rows.append(
            ("see", f"TRACKIO_DIR={relative_path(Path(trackio['directory']))} trackio show")
        )
    reporter.say(*(f"{what:<8}{where}" for what, where in rows))


def headlines(metrics: Mapping[str, float]) -> list[str]:
    """The first metric of the table that each set has, with its 95% interval."""
    found = []
    for home in _sets(metrics):
        names = (f"{home}/{metric.name}" for metric in shown_in("table"))
        if name := next((name for name in names if name in metrics), None):
            found.append(f"{name} {format_metric(metrics, name)}")
    return found


def closing_table(metrics: Mapping[str, float]) -> Table:
    """The sets side by side, each number with its 95% interval where it has one."""
    sets = _sets(metrics)
    scores = sorted({n.split("/", 1)[1] for n in metrics if re.fullmatch(r"[^/]+/.+/score", n)})
    table = Table("metric", *sets, box=None, padding=(0, 2, 0, 0))
    first, *others = (metric.name for metric in shown_in("table"))
    for metric in (first, *scores, *others):
        cells = [format_metric(metrics, f"{name}/{metric}") for name in sets]
        if any(cells):
            table.add_row(metric, *cells)
    return table


def _sets(metrics: Mapping[str, float]) -> list[str]:
    return [name.split("/")[0] for name in metrics if re.fullmatch(r"[^/]+/reward_mean", name)]
