"""One job: a composed configuration becomes built objects, a run directory, and an outcome."""

import contextlib
import dataclasses
import errno
import inspect
import json
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.table import Table

from rmexp.config.compose import build, locate
from rmexp.config.schema import GROUPS, HEAD_TARGET, plain_name
from rmexp.config.validate import makes_run
from rmexp.core import distributed
from rmexp.core.console import Reporter
from rmexp.core.errors import DiskFull, PeerProcessLost, UserError, collect_fallbacks, note_fallback
from rmexp.evaluation.metric_values import format_metric
from rmexp.evaluation.metrics import shown_in
from rmexp.inference.checkpoint import inherit_config, resumed_config
from rmexp.runner.launch import launch_processes
from rmexp.tracking.run_directory import Listener, NoLogger, RunDirectory, first_line
from rmexp.tracking.run_state import known_state
from rmexp.training.trainer import requested_processes


@dataclass(frozen=True)
class Job:
    """What Hydra knows of a job: its configuration, how it came about, and where it goes.

    sweep        the name of the sweep that it is part of
    fingerprint  of a sweep's job: configuration, data and code
    claimed      the directory is this job's already
    """

    config: DictConfig
    overrides: list[str]
    choices: Mapping[str, str]
    directory: Path
    sweep: str | None
    fingerprint: str | None = None
    claimed: bool = False


def decide_resume(job: Job, reporter: Reporter) -> Job | None:
    """What a sweep has left to do of a job.

    None where it is done; one that was killed or interrupted goes on from its last checkpoint; what
    failed or was left half-written begins anew in its directory.

    Raises:
        UserError: another process works on it, or the directory holds a run of other settings.
    """
    state = known_state(job.directory)
    same = state.result.get("fingerprint") == job.fingerprint
    if state.status == "running":
        raise UserError(
            f"{relative_path(job.directory)}: that run is at work "
            f"(process {state.result['pid']} on {state.result['host']})."
        )
    if state.status == "done" and not same:
        raise UserError(
            f"{relative_path(job.directory)} holds a finished run of other settings, data or code: "
            "move it away."
        )
    if state.status == "done":
        reporter.say("done before: reused")
        return None
    if state.resumable and same:
        reporter.say(f"{state.status} before: goes on from its last checkpoint")
        config = job.config.copy()
        config.resume = str(job.directory)
        return dataclasses.replace(job, config=config)
    if state.status != "left":
        reporter.say(f"{state.status} before: begins anew")
        for part in job.directory.iterdir():
            shutil.rmtree(part) if part.is_dir() else part.unlink()
    return job


def attempt_job(
    job: Job,
    reporter: Reporter,
    work: Callable[..., dict[str, float]] | None = None,
) -> str | None:
    """Do a job, of a sweep what is left of it; what it failed with is said, and returned.

    Raised on, it would reach the person as Hydra's traceback, or stop a sweep.

    Args:
        work: see `run_job`.

    Raises:
        DiskFull: nothing more can be written.
    """
    try:
        with raise_disk_full(job.directory):
            left = job if job.sweep is None or job.claimed else decide_resume(job, reporter)
            if left is not None:
                run_job(left, reporter, work)
    except Exception as error:
        trace = "" if isinstance(error, UserError) else f" (traceback: {job.directory}/error.txt)"
        # The error itself would keep the model in memory.
        said = first_line(error)
        print(f"{reporter.mark}rmexp: {said}{trace}", file=sys.stderr, flush=True)
        return said
    return None


def run_job(
    job: Job,
    reporter: Reporter,
    work: Callable[..., dict[str, float]] | None = None,
) -> dict[str, float]:
    """Build what the task's signature names, run it, and record how it ended.

    A run on several devices is started here, in processes of its own, or, where a launcher started
    this process, is joined.

    Args:
        work: what is left of the task, where some was done together with other jobs.

    Raises:
        DiskFull: nothing more can be written.
        whatever else the task raised, once it is recorded in `result.json` and `error.txt`.
    """
    quieten_libraries()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if not makes_run(job.config):
        names = ("runs", "source", "out")
        return _call(job.config, {"reporter": reporter} | {n: job.config[n] for n in names})
    config, facts = _settle(job)
    if facts["task"] == "train" and (count := requested_processes(config.trainer)) > 1:
        if distributed.launcher_env() is None:
            run = _open(job, config)
            held = dataclasses.replace(job, directory=run.path, claimed=True)
            launch_processes(held, run.path, count, reporter.mark)
            return {}
        distributed.init_process_group(gpu=build(config.trainer).resolved_accelerator() == "gpu")
    run = _open(job, config)
    if not distributed.is_rank_zero():
        reporter = Reporter(quiet=True)
    fallbacks: list[str] = []

    def record(sentence: str) -> None:
        fallbacks.append(sentence)
        run.update(fallbacks=fallbacks)
        reporter.say(f"note: {sentence}")

    content: Any = OmegaConf.to_container(config, resolve=True)
    run.start(
        content,
        job.overrides,
        task=facts["task"],
        name=facts["name"],
        labels=facts["labels"],
        sweep=facts["sweep"],
        fingerprint=facts["fingerprint"],
        fallbacks=fallbacks,
        interrupted=False,
    )
    logger, exit_code = None, 1
    try:
        with collect_fallbacks(record), _library_warnings(run.notes):
            task = locate("task", config.task["_target_"])
            if (
                distributed.world_size() > 1
                and facts["sweep"]
                and config.tune["_target_"] == HEAD_TARGET
            ):
                note_fallback("On several devices the heads of a sweep train one by one.")
            # A task that measures nothing has nothing to mirror.
            logs = "loggers" in inspect.signature(task).parameters
            logger = build(config.logger) if logs and distributed.is_rank_zero() else NoLogger()
            mirror = logger.start(
                run,
                facts["name"],
                facts["sweep"],
                facts["task"],
                facts["labels"],
                content,
            )
            offered = facts | {
                "run": run,
                "reporter": reporter,
                "loggers": [mirror] if mirror else [],
                "seed": config.seed,
                "resume": config.resume,
                "out": config.out,
                "source": job.config.source,
                "runs": job.config.runs,
                "exports": facts["sweep"] is None or config.sweep.export == "all",
            }
            metrics = _call(config, offered, work)
            if mirror:
                reporter.say(*mirror.show(run, metrics))
        run.finish("done", metrics=metrics)
        exit_code = 0
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the one into the other
        run.finish("failed", error="interrupted", interrupted=True)
        if job.sweep is None and (run.path / "checkpoints" / "last.ckpt").is_file():
            reporter.say(
                f"interrupted; go on with: python -m rmexp resume={relative_path(run.path)}"
            )
        raise KeyboardInterrupt from None
    except Exception as error:
        if _is_full(error):
            full = _disk_full(run.path)
            with contextlib.suppress(OSError):  # as far as the disk still lets us
                run.finish("failed", error=str(full), interrupted=True)
                (run.path / "error.txt").write_text(f"{full}\n")
            raise full from error
        if distributed.is_peer_loss(error):
            lost = PeerProcessLost(
                "Another process of this run ended, which says why itself, or the exchange with "
                f"it failed: {first_line(error)}"
            )
            lost.__cause__ = error  # for the traceback in error.txt
            run.fail(lost)
            raise lost from error
        run.fail(error)
        raise
    finally:
        if logger is not None and (said := logger.finish(exit_code)):
            with contextlib.suppress(OSError):  # the disk may be full: what was raised counts
                record(said)
    _close(run, metrics, reporter, brief=job.sweep is not None)
    return metrics


@contextmanager
def raise_disk_full(path: Path) -> Iterator[None]:
    """Within, writing that fails for want of space ends as `DiskFull`, which names the path."""
    try:
        yield
    except Exception as error:
        if _is_full(error):
            raise _disk_full(path) from error
        raise


def _is_full(error: BaseException | None) -> bool:
    """Did writing fail for want of space? Libraries say it in words of their own."""
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    return error is not None and (
        full or "No space left on device" in str(error) or _is_full(error.__cause__)
    )


def _disk_full(path: Path) -> DiskFull:
    """What to say where nothing more can be written; the run can go on later."""
    return DiskFull(f"The disk of {relative_path(path)} is full: free some space.")


def _call(
    config: DictConfig,
    offered: Mapping[str, Any],
    work: Callable[..., dict[str, float]] | None = None,
) -> dict[str, float]:
    """Call the task with the built groups and facts that its signature names."""
    task = work or locate("task", config.task["_target_"])
    own = {key: value for key, value in config.task.items() if key != "_target_"}
    arguments = {}
    for name in inspect.signature(task).parameters:
        if name in offered:
            arguments[name] = offered[name]
        elif name in GROUPS:
            arguments[name] = build(config[name])
        else:
            arguments[name] = own[name]
    return task(**arguments)


def _settle(job: Job) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that counts (a resumed run's own; a checkpoint's, where nothing else was
    asked for), and the facts that tasks may name."""
    config = job.config
    if config.resume is not None:
        config = resumed_config(config, job.overrides)
        old = json.loads((Path(config.resume) / "result.json").read_text())
        return config, {key: old[key] for key in ("task", "labels", "name", "sweep", "fingerprint")}
    task = config.task["_target_"].split(".")[-2]
    labels = {group: job.choices[group] for group in ("loss", "data", "model")}
    facts: dict[str, Any] = {"task": task, "labels": labels, "sweep": job.sweep}
    facts["fingerprint"] = job.fingerprint
    if config.checkpoint is not None:
        config, inherited = inherit_config(config, job.overrides, own_rows=task != "score")
        facts |= inherited | {"labels": labels | inherited["labels"]}
    label = "-".join((labels["loss"], labels["data"])) if task == "train" else task
    name = job.directory.name if job.sweep else plain_name(config.name or label)
    return config, facts | {"name": name, "checkpoint": config.checkpoint}


def _open(job: Job, config: DictConfig) -> RunDirectory:
    """The run's directory; for the processes of a run that do not write, one to listen by."""
    if not distributed.is_rank_zero():
        return Listener(distributed.broadcast_from_rank0(None))
    if config.resume is not None:
        run = RunDirectory.reopen(Path(config.resume))
    else:
        run = RunDirectory(job.directory) if job.claimed else RunDirectory.claim(job.directory)
    distributed.broadcast_from_rank0(run.path)
    return run


def _close(
    run: RunDirectory, metrics: Mapping[str, float], reporter: Reporter, brief: bool
) -> None:
    """The closing table, and where everything is; `brief`: what there is to say of one of many."""
    if metrics and brief:
        reporter.say(", ".join(headlines(metrics)))
    elif metrics:
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
    reporter.say(*(f"{what:<8}{where}" for what, where in rows))


def relative_path(path: Path) -> str:
    """A path as a person here would type it."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


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


@contextmanager
def _library_warnings(file: Path) -> Iterator[None]:
    """Other libraries' warnings go into a file of the run: kept, but not in the reader's way."""
    before = warnings.showwarning

    def note(message: Any, category: Any, filename: str, lineno: int, *_: Any) -> None:
        with open(file, "a") as stream:
            stream.write(warnings.formatwarning(message, category, filename, lineno))

    warnings.showwarning = note  # type: ignore[assignment]
    try:
        yield
    finally:
        warnings.showwarning = before


def quieten_libraries() -> None:
    """Their progress bars and notes would tear ours apart."""
    import datasets
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    for name in ("lightning.pytorch", "lightning.fabric", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
