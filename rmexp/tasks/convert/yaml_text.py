"""Another framework's settings -> an experiment file of rmexp, and what has no place in it."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml

from rmexp.core.errors import UserError
from rmexp.tasks.convert import axolotl, trl
from rmexp.tasks.convert.reasons import NO_NEED, REASONS
from rmexp.tasks.convert.settings import Settings

GROUP_ORDER = ("model", "template", "data", "loss", "tune", "optim", "trainer", "logger")


FOREIGN = {"stage": "LLaMA-Factory", "rlhf_type": "ms-swift", "process_reward_model": "Axolotl PRM"}
"""Keys that say whose a file is that looks like one of TRL's or Axolotl's, and is another thing."""


@dataclass(frozen=True)
class Converted:
    """An experiment file, and what its reader should know.

    Attributes:
        text: the file.
        command: runs it.
        left: source key -> why it has no counterpart.
        notes: what is different although no key says so.
    """

    text: str
    command: str
    left: Mapping[str, str]
    notes: tuple[str, ...]


def convert_text(source: str, file: str, command: str) -> Converted:
    """Convert the text of a YAML of TRL or Axolotl.

    Args:
        source: the text.
        file: its name, for messages and the head of the result.
        command: what will run the result, without what the source leaves open.

    Raises:
        UserError: not YAML, of neither framework, or a value that cannot be.
    """
    values = _parse(source, file)
    settings = _convert(values, file)
    off = settings.leave_rest(REASONS)
    if off:
        settings.notes.append(f"Off in the source, and here: {', '.join(off)}.")
    if "data" not in settings.options:
        command += " data=jsonl data.path=FILE"
    text = _head(settings, command) + _body(settings) + _foot(settings)
    return Converted(text, command, settings.left, tuple(settings.notes))


def _parse(source: str, file: str) -> dict[str, Any]:
    try:
        values = yaml.safe_load(source)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise UserError(f"source={file}{line}: cannot be read as YAML ({problem}).") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise UserError(f"source={file}: expected a mapping of settings, one KEY: VALUE a line.")
    return values


def _convert(values: dict[str, Any], file: str) -> Settings:
    for key, peer in FOREIGN.items():
        if values.get(key):
            raise UserError(f"source={file}: {key} says {peer}; known are {_KNOWN}.")
    if values.get("reward_model"):
        whole = values.get("base_model") is not None
        settings = Settings("Axolotl", file, values, whole)
        axolotl.convert_axolotl(settings)
    elif any(key in values for key in trl.SIGNS):
        settings = Settings("TRL", file, values)
        trl.convert_trl(settings)
    elif "base_model" in values:
        raise UserError(f"source={file}: Axolotl without reward_model trains no reward model.")
    else:
        raise UserError(f"source={file}: whose settings are these? Known are {_KNOWN}.")
    if "model.path" in settings.lines:
        _, comment = settings.lines["model.path"]
        settings.choose("model", "hf", comment)
    return settings


_KNOWN = "Axolotl's (with reward_model) and those of `trl reward`"


def _head(settings: Settings, command: str) -> str:
    origin = f"Written by task=convert from {Path(settings.file).name} ({settings.peer})"
    setting = settings.values.get("reward_model")
    quoted = [] if setting is None else [f"  reward_model: {_yaml(setting)}"]
    comments = ["@package _global_", command, "", f"{origin}; comments name its keys.", *quoted]
    more = [place for place in settings.options if "@" in place]  # Hydra wants overrides last
    lines = [
        f"  - {'' if place in more else 'override '}/{place}: {option}  # {comment}\n"
        for place in (*more, *(group for group in GROUP_ORDER if group in settings.options))
        for option, comment in [settings.options[place]]
    ]
    return _comments(comments) + "defaults:\n" + "".join(lines)


def _body(settings: Settings) -> str:
    """The groups in the order of the root, then the root's own keys."""
    parts = [
        _block({k: v for k, v in settings.lines.items() if _head_of(k) == g}) for g in GROUP_ORDER
    ]
    root = _block({k: v for k, v in settings.lines.items() if _head_of(k) not in GROUP_ORDER})
    return "".join(f"\n{part}" for part in (*parts, root) if part)


def _block(lines: Mapping[str, tuple[Any, str]], indent: str = "") -> str:
    """Dotted keys as nested YAML, each value with its comment."""
    text = ""
    for head in dict.fromkeys(map(_head_of, lines)):
        if head in lines:
            value, comment = lines[head]
            text += f"{indent}{head}: {_yaml(value)}  {_comments([comment])}"
        else:
            start = f"{head}."
            inside = {k.removeprefix(start): v for k, v in lines.items() if k.startswith(start)}
            text += f"{indent}{head}:\n{_block(inside, indent + '  ')}"
    return text


def _head_of(key: str) -> str:
    return key.split(".", 1)[0]


def _foot(settings: Settings) -> str:
    lines = [*listed(settings.left), *settings.notes]
    return "\n" + _comments(lines) if lines else ""


def listed(left: Mapping[str, str]) -> list[str]:
    """What has no counterpart, and what needs none, by reason, under a heading each."""
    keys: dict[str, list[str]] = {}
    for key, reason in left.items():
        keys.setdefault(reason, []).append(key)
    lost = [f"  {', '.join(k)}: {r}" for r, k in keys.items() if not r.startswith(NO_NEED)]
    idle = [
        f"  {', '.join(k)}: {r[len(NO_NEED) :]}" for r, k in keys.items() if r.startswith(NO_NEED)
    ]
    return [
        *(["Without a counterpart:", *lost] if lost else []),
        *(["Without a counterpart, and in no need of one:", *idle] if idle else []),
    ]


def _comments(lines: Iterable[str]) -> str:
    """Each on a line of its own, whatever the source had in it."""
    return "".join(f"# {line.replace(chr(10), ' ')}".rstrip() + "\n" for line in lines)


def _yaml(value: Any) -> str:
    """A value on one line, in the notation of conf/."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_yaml(k)}: {_yaml(v)}" for k, v in value.items()) + "}"
    if isinstance(value, float):
        if value == 0 or value >= 0.001:
            return repr(value)
        mantissa, exponent = f"{Decimal(repr(value)):E}".split("E")
        return f"{mantissa}{'' if '.' in mantissa else '.0'}e{exponent}"
    if isinstance(value, str) and not _is_plain(value):
        value = value.replace("${", "\\${")  # no interpolation: the peers have none
        return json.dumps(value, ensure_ascii=False)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_plain(text: str) -> bool:
    return bool(re.fullmatch(r"[A-Za-z_./~][\w./~-]*", text)) and yaml.safe_load(text) == text
