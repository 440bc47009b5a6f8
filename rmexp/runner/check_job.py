"""Checks of a job that need its parts: what is missing, out of range, or does not fit together."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rmexp.config.compose import build, without_hydra
from rmexp.config.schema import (
    GROUPS,
    HEAD_TARGET,
    IMPROVE_TARGET,
    LAST_LAYERS_TARGET,
    SINGLE_PROCESS,
    TRAIN_TARGET,
)
from rmexp.config.task_inputs import task_function, task_inputs
from rmexp.config.validate import (
    check_config,
    check_task_keys,
    is_implicit,
    logs_metrics,
    reads_trained_rows,
)
from rmexp.core.errors import UserError
from rmexp.runner.executors import LAUNCHERS
from rmexp.runner.job_spec import JobSpec
from rmexp.tracking.run_state import read_state

INHERITED = ("loss", "head", "trainer", "template", "model", "data")
"""Groups that a checkpoint's run completes, see `inherit_config`."""


class JobChecker:
    """Checks the jobs of a command; parts that several jobs share are checked and built once.

    Args:
        launcher: the option of hydra/launcher.
    """

    def __init__(self, launcher: str) -> None:
        self.launcher = launcher
        self._valid: set[str] = set()
        self._built: dict[str, Any] = {}

    def check(
        self, composed: DictConfig, overrides: list[str], shared: Collection[str] = ()
    ) -> JobSpec:
        """Check a job's values, parts and files; loads neither models nor data.

        Args:
            composed: the configuration with Hydra's node.
            overrides: what it was composed from.
            shared: the overrides of all jobs of the sweep.

        Raises:
            UserError: the job cannot run.
        """
        choices, config = dict(composed.hydra.runtime.choices), without_hydra(composed)
        _refuse_lists(overrides)
        if not isinstance(config.checkpoint, (ListConfig, NoneType)):
            config.checkpoint = str(config.checkpoint)  # of digits alone, it is a name too
        job = JobSpec(
            config,
            overrides,
            choices,
            differing=[override for override in overrides if override not in shared],
            chdir=bool(composed.hydra.job.chdir),
            environment={k: str(v) for k, v in composed.hydra.job.env_set.items()},
        )
        if config.resume is not None:
            self._check_resume(config, overrides)
            return job
        own = config
        if config.checkpoint is not None:
            keys = [key for key in map(str, config) if key not in INHERITED]
            own = OmegaConf.masked_copy(config, keys)
        check_config(own, self._valid)
        check_task_keys(config, overrides)
        places = {key: config.trainer.get(key) for key in SINGLE_PROCESS}
        if config.task.name not in ("train", "plan") and places != SINGLE_PROCESS:
            values = ", ".join(f"trainer.{key}={value}" for key, value in places.items())
            raise UserError(f"task={config.task.name} runs on one device: leave out {values}.")
        if config.task.name in ("train", "plan"):
            _check_sharding(config)
        if check := task_function(config.task["_target_"], "check"):
            check(config)
        if config.checkpoint is not None:
            completed, facts = _with_checkpoint(config, overrides)
            check_config(completed, self._valid)
            job = dataclasses.replace(job, config=completed, inherited=facts)
        if complete := task_function(config.task["_target_"], "complete"):
            config, facts = complete(config, overrides)
            check_config(config, self._valid)
            job = dataclasses.replace(job, config=config, inherited=facts)
        if config.checkpoint is None:
            self._check_parts(config, choices)
        if logs_metrics(config):
            self._build("logger", config.logger).check()
        return job

    def _check_parts(self, config: DictConfig, choices: Mapping[str, str]) -> None:
        """Build the parts that the task needs and that are cheap; check that they fit together."""
        from rmexp.losses.compatibility import check_fits

        wanted = task_inputs(config.task["_target_"], with_checkpoint=False)
        if "implicit" in wanted and is_implicit(config):
            wanted["model"] = wanted["implicit"]

        def part(group: str) -> Any:
            return self._build(group, config[group]) if group in wanted else None

        # What imports least comes first: losses need torch, models and the trainer the rest too.
        data, loss, head = part("data"), part("loss"), part("head")
        if data is not None:
            data.check()
        kinds = None if data is None else data.label_kinds
        own = head is not None and head.own_labels
        if loss is not None and kinds is not None and not own:
            check_fits(loss, choices["loss"], kinds, choices["data"])
        template, model = part("template"), part("model")
        for one in (template, model):
            if one is not None:
                one.check()
        if head is not None:
            head.check(loss, choices["loss"], model, data)
        if "policy" in wanted:
            from rmexp.policy.policy_model import policy_model

            policy_model(config.policy, config.cache).check()
        trainer, tune = part("trainer"), part("tune")
        if config.task.name == "train":  # a plan may be for other machines
            self._check_devices(trainer)
            if tune.load_in_4bit and LAUNCHERS[self.launcher].on_this_host:
                from rmexp.models.frozen_weights import check_4bit

                check_4bit(trainer.resolved_accelerator() == "gpu")
        if tune is not None:
            tune.check(model)

    def _check_devices(self, trainer: Any) -> None:
        """Check that the devices of a training exist."""
        trainer.check_devices(here=LAUNCHERS[self.launcher].on_this_host)

    def _check_resume(self, config: DictConfig, overrides: list[str]) -> None:
        """A resumed run keeps its configuration, but for the devices."""
        from rmexp.inference.checkpoint import DEVICE_KEYS, TRUST_KEYS, resumed_config

        directory, kept = Path(config.resume), ("resume", *DEVICE_KEYS, *TRUST_KEYS)
        others = [o for o in overrides if o.split("=", 1)[0] not in kept]
        if others:
            raise UserError(
                f"resume continues with the run's own configuration: leave out {' '.join(others)}."
            )
        state = read_state(directory)
        if state.status == "done":
            raise UserError(f"resume={directory}: that run is finished.")
        if state.status == "running":
            raise UserError(
                f"resume={directory}: that run is already running "
                f"(process {state.result['pid']} on {state.result['host']})."
            )
        for name in ("config.yaml", "result.json", "checkpoints/last.ckpt"):
            if not (directory / name).is_file():
                raise UserError(f"resume={directory}: cannot be resumed, {name} is missing.")
        saved = resumed_config(config, overrides)
        if saved.task["_target_"] not in (TRAIN_TARGET, IMPROVE_TARGET):
            raise UserError(f"resume={directory}: only training resumes, and that is another task.")
        build(saved.logger).check()
        if check := task_function(saved.task["_target_"], "check"):
            check(saved)
        if saved.task["_target_"] != TRAIN_TARGET:
            return
        _check_sharding(saved)
        self._check_devices(build(saved.trainer))

    def _build(self, group: str, node: DictConfig) -> Any:
        """The object of a group, shared by all jobs with the same settings."""
        content = f"{group} {OmegaConf.to_container(node, resolve=True)}"
        if content not in self._built:
            self._built[content] = build(node)
        return self._built[content]


def _refuse_lists(overrides: Sequence[str]) -> None:
    """Refuse GROUP=[A,B], of which Hydra merges the keys."""
    for override in overrides:
        group, _, names = override.partition("=")
        if group in GROUPS and names.startswith("["):
            several = f", or logger=several logger.loggers={names}" if group == "logger" else ""
            raise UserError(f"{override}: choose one option of the group{several}.")


def _check_sharding(config: DictConfig) -> None:
    """Check that trainer=fsdp suits the other parts of a training."""
    if config.trainer.get("strategy") != "fsdp":
        return
    if config.tune["_target_"] in (HEAD_TARGET, LAST_LAYERS_TARGET):
        raise UserError(
            "trainer=fsdp shards what trains, and with tune=head or tune=last_layers most "
            "of the model does not: use trainer=ddp."
        )
    if config.tune.get("load_in_4bit"):
        raise UserError("trainer=fsdp does not shard weights in 4 bits: use trainer=ddp.")
    if config.model.get("compile"):
        raise UserError("trainer=fsdp and model.compile=true exclude each other.")


def _with_checkpoint(
    config: DictConfig, overrides: Sequence[str]
) -> tuple[DictConfig, dict[str, Any]]:
    """The configuration, completed by that of the checkpoint's run, and facts about that run."""
    if isinstance(config.checkpoint, str) and not Path(config.checkpoint).expanduser().is_dir():
        raise UserError(f"checkpoint={config.checkpoint}: there is no such directory.")
    from rmexp.inference.checkpoint import check_ensemble, inherit_config

    if not isinstance(config.checkpoint, str):
        check_ensemble(config.checkpoint)
        if any(word.split(".")[0].split("=")[0] == "template" for word in overrides):
            raise UserError("Each member of an ensemble has its own template: leave out template.")
    return inherit_config(config, overrides, own_rows=reads_trained_rows(config))
