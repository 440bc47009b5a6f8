"""The YAML of a configuration of TRL or Axolotl -> the YAML of an experiment file."""

import math
from collections.abc import Iterable
from functools import reduce
from pathlib import Path
from typing import Any

import yaml

from rmexp.config.schema import GROUPS
from rmexp.core.errors import UserError
from rmexp.tasks.convert.rules import convert_axolotl, convert_trl
from rmexp.tasks.convert.settings import KEYS, TABLES, PeerSettings

FOREIGN = {"stage": "LLaMA-Factory", "rlhf_type": "ms-swift", "process_reward_model": "a PRM"}
KNOWN = "known are settings of Axolotl (with reward_model) and of `trl reward`"
TRL_ONLY = ("dataset_name", "center_rewards_coefficient")


def convert_settings(text: str, file: str) -> PeerSettings:
    """Convert the text of a YAML file of TRL or Axolotl; `file` is its name in messages.

    Raises:
        UserError: not YAML, of neither framework, or a value is not valid.
    """
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"source={file}{line}: cannot be read as YAML ({problem}).") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"source={file}: expected a mapping of settings, one KEY: VALUE a line.")
    for key in (key for key in FOREIGN if values.get(key)):
        raise UserError(f"source={file}: {key} is a key of {FOREIGN[key]}; {KNOWN}.")
    if loss := values.get("reward_model"):
        if isinstance(loss, dict):
            if "loss" not in loss:
                wanted = "reward_model.loss should be contrastive or bradley_terry"
                raise UserError(f"source={file}, {wanted}: it is missing.")
            del values["reward_model"]
            values |= {f"reward_model.{key}": value for key, value in loss.items()}
        settings = PeerSettings("Axolotl", file, values, whole="base_model" in values)
    elif any(key in TRL_ONLY or "called" in KEYS.get(key, {}) for key in values):
        settings = PeerSettings("TRL", file, values)
    elif "base_model" in values:
        raise UserError(f"source={file}: Axolotl without reward_model trains no reward model.")
    else:
        raise UserError(f"source={file}: settings of an unknown framework; {KNOWN}.")
    settings.convert(*TABLES["single"])
    (convert_trl if settings.peer == "TRL" else convert_axolotl)(settings)
    if "model.path" in settings.lines:
        settings.put("model", "hf", "model_name_or_path")
    settings.leave_rest()
    if settings.whole:
        settings.notes += TABLES["notes"][settings.peer] + TABLES["notes"]["both"]
    return settings


def experiment_text(settings: PeerSettings, command: str) -> str:
    """The experiment file: the defaults list, the keys of each group, what was not converted."""
    origin = f"Written by task=convert from {Path(settings.file).name} ({settings.peer})"
    head = ["@package _global_", command, "", f"{origin}; comments name its keys."]
    sources = [key for key in settings.lines if "@" in key]
    chosen = [key for key in GROUPS if key in settings.lines]
    defaults = ""
    for key in (*sources, *chosen):  # Hydra wants overrides last
        override = "override " if key in chosen else ""
        option, comment = settings.lines[key]
        defaults += f"  - {override}/{key}: {option}  {_comments([comment])}"
    body: dict[str, Any] = {group: {} for group in GROUPS}
    for key in (key for key in settings.lines if key not in (*sources, *chosen)):
        *parents, leaf = key.split(".")
        node = reduce(lambda node, parent: node.setdefault(parent, {}), parents, body)
        node[leaf] = settings.lines[key]
    blocks = [_block({key: node}) for key, node in body.items() if node]
    parts = [f"{_comments(head)}defaults:\n{defaults}", *blocks, _comments(report(settings))]
    return "\n".join(part for part in parts if part)


def report(settings: PeerSettings) -> list[str]:
    """What was not converted, by reason, and the notes, as lines of text."""
    keys: dict[str, list[str]] = {}
    for key, reason in settings.left.items():
        keys.setdefault(reason, []).append(key)
    lines = []
    for title, unneeded in (("Not converted:", False), ("Not needed in rmexp:", True)):
        reasons = [reason for reason in keys if (reason in TABLES["not_needed"]) == unneeded]
        lines += [title] if reasons else []
        lines += [f"  {', '.join(keys[reason])}: {reason}" for reason in reasons]
    return lines + settings.notes


def _block(body: dict[str, Any], indent: str = "") -> str:
    text = ""
    for key, node in body.items():
        if isinstance(node, dict):
            text += f"{indent}{key}:\n{_block(node, indent + '  ')}"
        else:
            text += f"{indent}{key}: {_yaml(node[0])}  {_comments([node[1]])}"
    return text


def _comments(lines: Iterable[str]) -> str:
    """A comment line each; a line break in a value of the source does not end it."""
    return "".join(f"# {' '.join(line.splitlines())}".rstrip() + "\n" for line in lines)


def _yaml(value: Any) -> str:
    """A value on one line; "${" is text, as the source has no interpolations."""
    value = value.replace("${", "\\${") if isinstance(value, str) else value
    quotes = '"' if isinstance(value, str) and "\n" in value else None
    line = {"default_style": quotes, "default_flow_style": True, "width": math.inf}
    return yaml.safe_dump(value, **line, allow_unicode=True).removesuffix("...\n").rstrip("\n")
