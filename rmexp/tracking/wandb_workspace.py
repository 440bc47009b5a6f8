"""A saved view of a W&B project: python -m rmexp.tracking.wandb_workspace ENTITY/PROJECT

Needs the extra `workspace` (pip install 'rmexp[workspace]') and an account, as only the server
stores views. `view` alone needs neither account nor network.
"""

import sys
from typing import Any

from rmexp.core.errors import UserError
from rmexp.evaluation.metrics import shown_in
from rmexp.tracking.wandb_logger import STEP

LOSS, MARGIN = "labels.loss", "loss.margin"
"""Keys of a run's configuration."""

ACCURACY = ("test/accuracy_low", "test/accuracy", "test/accuracy_high")
BOUNDS = ("lower bound", "accuracy", "upper bound")


def view(entity: str, project: str) -> Any:
    """Build the view: test accuracy by loss and margin with intervals, then the training curves.

    Raises:
        UserError: the extra is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
        from wandb_workspaces import expr
    except ImportError:
        raise UserError(
            "A W&B workspace needs the extra: pip install 'rmexp[workspace]'."
        ) from None
    shown = [f"test/{metric.name}" for metric in shown_in("wandb")]
    axes: list[Any] = [
        *(wr.Config(key) for key in (LOSS, MARGIN, "optim.lr", "seed")),
        *(wr.SummaryMetric(name) for name in shown),
    ]
    results = ws.Section(
        name="Which is better",
        is_open=True,
        pinned=True,
        panels=[
            wr.BarPlot(
                title="Test accuracy with its 95% interval",
                metrics=list(ACCURACY),
                line_titles=dict(zip(ACCURACY, BOUNDS, strict=True)),
                max_runs_to_show=30,
            ),
            wr.ScatterPlot(
                title="Test accuracy over margin",
                x=wr.Config(MARGIN),
                y=wr.SummaryMetric("test/accuracy"),
                legend_template=f"${{config:{LOSS}}} ${{config:{MARGIN}}}",
            ),
            *(
                wr.BarPlot(
                    title=f"Test accuracy by {what}, mean and standard error over its runs",
                    metrics=["test/accuracy"],
                    groupby=wr.Config(key),
                    groupby_aggfunc="mean",
                    groupby_rangefunc="stderr",
                )
                for what, key in (("loss", LOSS), ("margin", MARGIN))
            ),
            wr.ParallelCoordinatesPlot(
                title="Settings and test metrics",
                columns=[wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes],
            ),
        ],
    )
    training = ws.Section(
        name="Training",
        is_open=True,
        panels=[
            wr.LinePlot(title=name, x=STEP, y=[name])
            for name in ("train/loss", "train/accuracy", "val/loss", "val/accuracy")
        ],
    )
    return ws.Workspace(
        entity=entity,
        project=project,
        name="rmexp: loss by margin",
        sections=[results, training],
        auto_generate_panels=True,  # histograms, plots and tables below
        runset_settings=ws.RunsetSettings(
            order=[expr.Ordering(expr.Summary("test/accuracy"), ascending=False)],
            pinned_columns=[
                f"config:{LOSS}",
                f"config:{MARGIN}",
                *(f"summary:{name}" for name in dict.fromkeys([*ACCURACY, *shown])),
            ],
        ),
    )


def write_workspace(words: list[str]) -> str:
    """Save the view as a new one.

    Args:
        words: the command line: one ENTITY/PROJECT.

    Returns:
        Its URL.

    Raises:
        UserError: no ENTITY/PROJECT is given, the extra is missing, or the server refuses.
    """
    entity, _, project = words[0].partition("/") if len(words) == 1 else ("", "", "")
    if not entity or not project or "/" in project:
        raise UserError(
            "Give one project of W&B: python -m rmexp.tracking.wandb_workspace ENTITY/PROJECT"
        )
    workspace = view(entity, project)
    try:
        return workspace.save_as_new_view().url
    except Exception as error:
        line = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{entity}/{project}: W&B does not save the view ({line}); `wandb login` first, "
            "and check that the project exists."
        ) from error


if __name__ == "__main__":
    try:
        print(write_workspace(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"rmexp: {error}")
