"""The end of a sweep: how each job ended, the comparison, the best setting and its export."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rmexp.analysis.compare.comparison_report import compare_runs
from rmexp.analysis.report.compare_output import print_comparison
from rmexp.config.trust import Trust
from rmexp.config.yaml_io import read_yaml
from rmexp.core.console import Reporter, relative_path
from rmexp.core.disk_errors import raise_disk_full
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.evaluation.metrics import lower_is_better
from rmexp.runner.job_spec import JobSpec
from rmexp.runner.outcome import quieten_libraries
from rmexp.runner.sweep_plan import SweepPlan, headline, shared_overrides
from rmexp.tracking.run_directory import first_line
from rmexp.tracking.run_state import State
from rmexp.training.finish import export_saved_run, remove_checkpoints, report_saved_run

JUDGED_BY = ("accuracy", "spearman", "label_auc")
"""Metrics that are comparable between losses; the first one that all runs have is used."""

REPLICATES = ("seed", "data.fold")
"""Keys in which the runs of one setting differ."""


@dataclass(frozen=True)
class Best:
    """The setting that is best on val.

    Attributes:
        name: the overrides that tell it from the others; empty if there are no others.
        metric: that decided; value: its mean over the runs, weighted by their pairs.
        runs: of the setting, the best on val first.
        folds: number of folds in the sweep.
    """

    name: str
    metric: str
    value: float
    runs: list[State]
    folds: int

    def lines(self) -> list[str]:
        """The lines to print."""
        first, many = self.runs[0], len(self.runs) > 1
        mean = f"{self.metric} {self.value:.4f}" + (f", mean of {len(self.runs)} runs" * many)
        name = [f"best    {self.name}  ({mean})"] if self.name and many else []
        if self.folds > 1:
            return name or [f"folds   {mean}"]
        value = f"{self.metric} {first.result['metrics'][self.metric]:.4f}"
        which = f", the best of {len(self.runs)} runs" * many
        return [
            *name,
            f"{'run' if name else 'best':<8}{relative_path(first.path)}  ({value}{which})",
        ]


def finish_sweep(plan: SweepPlan, jobs: Sequence[JobSpec], export: str, reporter: Reporter) -> bool:
    """Print how the jobs ended, compare them, and export the best setting.

    Args:
        jobs: of this command, with their places in the sweep.
        export: `best`, `all` (done by the jobs themselves) or `none`.

    Returns:
        Whether all jobs are done, and the best one's report and export succeeded.
    """
    states = plan.states()
    reporter.say("", f"sweep {relative_path(plan.directory)}")
    reporter.say(*(f"  {s.status:<12}{s.path.name}  {headline(s)}".rstrip() for s in states))
    done = [state for state in states if state.status == "done"]
    good = len(done) == len(states)
    if not done or plan.task != "train":
        return good
    _compare(plan, done, reporter)
    best = best_of(done)
    if best is None:
        reporter.say("no val metric is common to all runs: none is the best, none is exported")
        return good
    reporter.say(*best.lines())
    first = best.runs[0].path
    if best.folds > 1 and export == "best":
        reporter.say(
            "no export: each run is the model of one fold, and none that of a setting; train the "
            "setting without data.fold (sweep.export=all exports every run)"
        )
    trust = Trust.of(*(job.config for job in jobs if job.directory.name == first.name))
    if best.folds == 1 and not (first / "report.html").is_file():
        good &= _report(first, trust, reporter)
    if best.folds == 1 and export != "none" and not _export(first, trust, reporter):
        return False  # the weights are still needed
    for state in done:
        remove_checkpoints(state.path, read_yaml(state.path / "config.yaml")["trainer"]["keep"])
    return good


def _compare(plan: SweepPlan, done: Sequence[State], reporter: Reporter) -> None:
    """Compare the finished runs, in the terminal and in the sweep's directory."""
    known = {name for state in done for name in state.result["metrics"]}
    metric = next((name for name in JUDGED_BY if f"test/{name}" in known), "loss")
    given = [str(plan.directory)]
    reporter.say("")
    try:
        print_comparison(
            compare_runs(given, "test", metric, "best"),
            given,
            plan.directory.name,
            plan.directory,
            reporter,
        )
        reporter.say("", f"report  {relative_path(plan.directory / 'report.html')}")
    except UserError as error:
        reporter.say(f"not compared: {error}")


def best_of(done: Sequence[State]) -> Best | None:
    """The setting whose runs are best on val, on the folds that all settings have.

    The metric is the one that selected the weights of all runs, unless it is a loss and the losses
    differ; then the first of `JUDGED_BY` that all have. The first of equal settings wins; None if
    there is no common metric.
    """
    monitors = {str(state.result["monitor"]) for state in done}
    configs = [read_yaml(state.path / "config.yaml") for state in done]
    losses = {json.dumps(config["loss"], sort_keys=True) for config in configs}
    usable = len(monitors) == 1 and (monitors != {"val/loss"} or len(losses) == 1)
    names = [*(monitors if usable else ()), *(f"val/{name}" for name in JUDGED_BY)]
    metric = next((n for n in names if all(n in s.result["metrics"] for s in done)), None)
    if metric is None:
        return None
    overrides = [[str(word) for word in read_yaml(s.path / "overrides.yaml")] for s in done]
    shared = shared_overrides(overrides)
    settings: dict[str, dict[str | None, list[State]]] = {}
    for state, own in zip(done, overrides, strict=True):
        name = " ".join(w for w in own if w not in shared and _key(w) not in REPLICATES)
        fold = next((word for word in own if _key(word) == "data.fold"), None)
        settings.setdefault(name, {}).setdefault(fold, []).append(state)
    common = set.intersection(*map(set, settings.values()))
    count = len(set().union(*settings.values()))
    if not common:
        return None
    sign = -1 if lower_is_better(metric) else 1

    def value(state: State) -> float:
        return sign * float(state.result["metrics"][metric])

    found = []
    for name, by_fold in settings.items():
        runs = [state for fold, states in by_fold.items() if fold in common for state in states]
        pairs = np.array([state.result["metrics"].get("val/pairs", 0) for state in runs])
        mean = float(np.average([*map(value, runs)], weights=pairs if pairs.all() else None))
        runs.sort(key=value, reverse=True)
        found.append((mean, Best(name, metric, sign * mean, runs, count)))
    return max(found, key=lambda one: one[0])[1]


def _key(override: str) -> str:
    return override.partition("=")[0].lstrip("+")


def _report(run: Path, trust: Trust, reporter: Reporter) -> bool:
    """Write the report of a run that is done."""
    try:
        with raise_disk_full(run), collect_fallbacks(lambda _: None):  # the run reported them
            report_saved_run(run, trust)
    except Exception as error:
        reporter.say(f"report failed: {first_line(error)}")
        return False
    return True


def _export(run: Path, trust: Trust, reporter: Reporter) -> bool:
    """Export a run into its own directory; an export that is there already stays."""
    if not (run / "export").is_dir():
        quieten_libraries()  # no job has done so where all were done before
        try:
            note = collect_fallbacks(lambda sentence: reporter.say(f"note: {sentence}"))
            with raise_disk_full(run), note:
                export_saved_run(run, trust)
        except Exception as error:
            reporter.say(f"export failed: {first_line(error)}")
            return False
    reporter.say(
        f"export  {relative_path(run / 'export')}  (verified by plain Hugging Face loading)"
    )
    return True
