"""What a sweep ends with: how each job ended, the comparison, the best run and its export."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from omegaconf import OmegaConf

from rmexp.compare.comparison import compare
from rmexp.config import compose_config, settled
from rmexp.errors import UserError
from rmexp.job import Job, near, run_job
from rmexp.metrics import LOWER_IS_BETTER
from rmexp.progress import Reporter
from rmexp.sweep.plan import Plan
from rmexp.sweep.state import State
from rmexp.tasks.compare import show
from rmexp.tasks.train import tidy
from rmexp.tracking import first_line

JUDGED_BY = ("accuracy", "spearman", "label_auc")
"""Metrics that runs with different losses have in common; the first that all have is taken."""


def finish(plan: Plan, export: str, reporter: Reporter) -> bool:
    """Say how the sweep ended, compare its runs, export the best; are all jobs done?

    Args:
        export: `best`, `all` (the jobs did) or `none`.
    """
    states = plan.states()
    reporter.say("", f"sweep {near(plan.directory)}", *(_line(state) for state in states))
    done = [state for state in states if state.status == "done"]
    good = len(done) == len(states)
    if not done or plan.task != "train":
        return good
    _compare(plan, done, reporter)
    best = best_of(done)
    if best is None:
        reporter.say("no val metric is common to all runs: none is the best, none is exported")
        return good
    state, metric = best
    value = state.result["metrics"][metric]
    reporter.say(f"best    {near(state.path)}  ({metric} {value:.4f})")
    if export != "none" and not _export(state.path, reporter):
        return False
    for state in done:  # their weights waited for this
        tidy(state.path, str(OmegaConf.load(state.path / "config.yaml").trainer.keep))
    return good


def _line(state: State) -> str:
    metrics = state.result.get("metrics") or {}
    shown = next((n for n in ("test/accuracy", "test/spearman") if n in metrics), None)
    last = f"{shown} {metrics[shown]:.4f}" if shown else state.result.get("error") or ""
    return f"  {state.status:<12}{state.path.name}  {last.splitlines()[0] if last else ''}".rstrip()


def _compare(plan: Plan, done: Sequence[State], reporter: Reporter) -> None:
    """The comparison of the runs that are done, in the terminal and in the sweep's directory."""
    known = {name for state in done for name in state.result["metrics"]}
    metric = next((name for name in JUDGED_BY if f"test/{name}" in known), "loss")
    given = [str(plan.directory)]
    reporter.say("")
    try:
        show(
            compare(given, "test", metric, "best"),
            given,
            plan.directory.name,
            plan.directory,
            reporter,
        )
        reporter.say("", f"report  {near(plan.directory / 'report.html')}")
    except UserError as error:
        reporter.say(f"not compared: {error}")


def best_of(done: Sequence[State]) -> tuple[State, str] | None:
    """The run that is best on val, and the metric that says so; the first of equals.

    It is the metric by which all of them chose their weights, unless that is a loss and the losses
    are not the same; then the first of `JUDGED_BY` that all have.
    """
    monitors = {str(state.result["monitor"]) for state in done}
    losses = {json.dumps(_loss(state.path), sort_keys=True) for state in done}
    usable = len(monitors) == 1 and (monitors != {"val/loss"} or len(losses) == 1)
    names = [*(monitors if usable else ()), *(f"val/{name}" for name in JUDGED_BY)]
    metric = next((n for n in names if all(n in s.result["metrics"] for s in done)), None)
    if metric is None:
        return None
    sign = -1 if metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER else 1
    return max(done, key=lambda state: sign * state.result["metrics"][metric]), metric


def _loss(run: Path) -> object:
    config = OmegaConf.load(run / "config.yaml")
    return OmegaConf.to_container(config.loss)


def _export(run: Path, reporter: Reporter) -> bool:
    """Export a run into its own directory, proved; an export that is there already stays."""
    if not (run / "export").is_dir():
        silent, aside = Reporter(), run.parent / ".export"
        silent.console.quiet = True
        config = settled(compose_config(["task=export", "logger=none"]))
        config.checkpoint, config.out = str(run), str(run / "export")
        choices = dict.fromkeys(("loss", "data", "model"), "")
        shutil.rmtree(aside, ignore_errors=True)
        try:
            run_job(Job(config, [], choices, aside, None), silent)
            result = json.loads((aside / "result.json").read_text())
            reporter.say(*(f"note: {sentence}" for sentence in result["fallbacks"]))
        except Exception as error:
            reporter.say(f"export failed: {first_line(error)}")
            return False
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    reporter.say(f"export  {near(run / 'export')}  (proved by plain Hugging Face loading)")
    return True
