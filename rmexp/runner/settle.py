"""The configuration and directory state of a job, before it runs."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig

from rmexp.config.schema import plain_name
from rmexp.core.console import Reporter, relative_path
from rmexp.core.errors import UserError
from rmexp.inference.checkpoint import resumed_config
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_state import known_state


def decide_resume(job: JobSpec, reporter: Reporter) -> JobSpec | None:
    """What is left of a sweep's job: None if it is done.

    A job that was killed or interrupted resumes from its last checkpoint; one that failed, or whose
    result.json is damaged, restarts in its directory.

    Raises:
        UserError: another process runs it, or the directory holds a run of other settings.
    """
    state = known_state(job.directory)
    same = state.result.get("fingerprint") == job.fingerprint
    if state.status == "running":
        raise UserError(
            f"{relative_path(job.directory)}: that run is already running "
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
        reporter.say(f"{state.status} before: resumes from its last checkpoint")
        config = job.config.copy()
        config.resume = str(job.directory)
        return dataclasses.replace(job, config=config)
    if state.status != "pending":
        reporter.say(f"{state.status} before: restarts")
        for part in job.directory.iterdir():
            shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()
    return job


def settle_config(job: JobSpec) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration that counts, and the facts about the run that tasks may ask for.

    A resumed run keeps its own configuration.
    """
    config = job.config
    if config.resume is not None:
        config = resumed_config(config, job.overrides)
        old = json.loads((Path(config.resume) / "result.json").read_bytes())
        known = {key: old[key] for key in ("task", "labels", "name", "sweep", "fingerprint")}
        return config, known | {"checkpoint": config.checkpoint}
    task = config.task.name
    labels = {group: job.choices[group] for group in ("loss", "data", "model")}
    if (head := job.choices.get("head", "linear")) != "linear":
        labels["head"] = head
    facts: dict[str, Any] = {"task": task, "sweep": job.sweep, "fingerprint": job.fingerprint}
    if job.inherited:
        facts |= job.inherited
        labels |= job.inherited["labels"]
    label = "-".join((labels["loss"], labels["data"])) if task == "train" else task
    checkpoint: Any = config.checkpoint
    if isinstance(checkpoint, ListConfig):
        checkpoint = list(checkpoint)
    name = job.directory.name if job.sweep else plain_name(config.name or label)
    return config, facts | {"labels": labels, "name": name, "checkpoint": checkpoint}
