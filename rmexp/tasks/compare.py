"""task=compare: which run is better, and is the difference more than chance? Loads no model."""

from typing import Literal

from omegaconf import DictConfig

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.analysis.compare.runs import places
from rmexp.analysis.report.compare_output import print_comparison
from rmexp.core.console import Reporter
from rmexp.evaluation.aggregate import Aggregates, Aggregation, LcbLambda
from rmexp.tracking.run_directory import RunDirectory


def compare(
    runs: str | list[str],
    run: RunDirectory,
    reporter: Reporter,
    name: str,
    set: str,
    metric: str,
    pairs: Literal["best", "neighbours", "all"],
    aggregate: Aggregates,
    lcb_lambda: LcbLambda,
) -> dict[str, float]:
    """Print the table and test results, and write `report.html` and `comparison.csv`.

    Args:
        runs: one or several run directories, folders of them, or reward files.
        run: directory of this comparison.
        reporter: prints the output.
        name: title of the page.
        set: the evaluation set to compare on.
        metric: with or without the set (`test/accuracy`).
        pairs: the pairs to test, see `test_pairs`.
        aggregate: ensembles of all `runs`, one more entry each.
        lcb_lambda: of the ensemble `lcb`.

    Raises:
        UserError: nothing can be compared, or no run has the metric.
    """
    given = [runs] if isinstance(runs, str) else [str(one) for one in runs]
    ensembles = Aggregation.of_each(aggregate, lcb_lambda)
    found = compare_runs(given, set, metric.removeprefix(f"{set}/"), pairs, ensembles)
    print_comparison(found, given, name, run.path, reporter)
    run.update(
        compared=[
            str(path) for row in found.rows for one in row.group.runs for path in one.run.paths
        ],
        best=found.rows[0].group.name,
        verdicts=[verdict.sentence() for verdict in found.verdicts],
        left_out=[f"{one.name}: {one.why}" for one in found.skipped],
    )
    return {}


def check_compare(config: DictConfig) -> None:
    """Check that there is something at the places of the runs."""
    for text in [config.runs] if isinstance(config.runs, str) else config.runs:
        places(str(text))
