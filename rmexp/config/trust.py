"""What the config.yaml of a run directory may name: run directories come from strangers too.

Hydra instantiates any `_target_`, so that a downloaded run could run any function.
"""

import inspect
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from rmexp.config.yaml_io import read_yaml
from rmexp.core.errors import UserError

_DATA = ("rmexp.data.formats", "rmexp.data.options", "rmexp.templates.template")

HOMES: Mapping[str, tuple[str, ...]] = {
    "task": ("rmexp.tasks",),
    "model": (
        "rmexp.models.pretrained",
        "rmexp.models.tiny",
        "rmexp.models.tuning",
        "rmexp.models.heads",
        "rmexp.policy.implicit_model",
    ),
    "template": ("rmexp.templates.template",),
    "data": _DATA,
    "loss": ("rmexp.losses",),
    "head": ("rmexp.models.heads",),
    "tune": ("rmexp.models.tuning",),
    "optim": ("rmexp.training.optim",),
    "trainer": ("rmexp.training.trainer",),
    "logger": tuple(
        f"rmexp.tracking.{module}"
        for module in (
            "mirror",
            "several_loggers",
            "tensorboard_logger",
            "trackio_logger",
            "wandb_logger",
        )
    ),
    "eval": ("rmexp.evaluation.eval_sets", "rmexp.evaluation.benchmarks", *_DATA),
}
"""Group -> the modules that define what it may hold, at any depth."""

WITH_FUNCTIONS = ("rmexp.tasks", "rmexp.data.options")
"""Modules whose functions count too; elsewhere only classes, which do nothing but hold settings."""


MAX_DEPTH = 50
"""Levels of a configuration."""


@dataclass(frozen=True)
class Trust:
    """What a command lets run directories name besides rmexp's own classes.

    Attributes:
        targets: names of classes and functions.
        remote_code: code in the directory of a model (`model.trust_remote_code=true`).
    """

    targets: frozenset[str] = frozenset()
    remote_code: bool = False

    @classmethod
    def of(cls, *configs: DictConfig) -> "Trust":
        """What configurations composed from a command line name: their targets, and `trust`."""
        targets, remote_code = set[str](), False
        for config in configs:
            content: Any = OmegaConf.to_container(config, resolve=False)
            targets |= {value for _, key, value in _entries(content) if key == "_target_"}
            listed = content.get("trust") or []
            targets |= {listed} if isinstance(listed, str) else set(listed)
            remote_code |= bool((content.get("model") or {}).get("trust_remote_code"))
        return cls(frozenset(targets), remote_code)

    def words(self) -> list[str]:
        """What to type with a command that reads a run of this configuration."""
        others = sorted(target for target in self.targets if not target.startswith("rmexp."))
        words = [f"trust=[{','.join(others)}]"] if others else []
        return [*words, *(["model.trust_remote_code=true"] if self.remote_code else [])]

    def own_targets(self, content: Any, where: str) -> list[tuple[str, str]]:
        """The path and target of every node that names a part of rmexp; nothing is imported.

        Args:
            content: of a config.yaml, as plain containers.
            where: begins the message.

        Raises:
            UserError: a node names something else that this command does not name; the message has
                the key, the value and what to add to the command.
        """
        own, others = list[tuple[str, str]](), dict[str, Any]()
        for path, key, value in _entries(content):
            if key == "trust_remote_code" and value and not self.remote_code:
                raise UserError(
                    f"{where}: {path}.{key}={value} runs code that comes with the model: add "
                    "model.trust_remote_code=true to the command if you trust it."
                )
            if key != "_target_":
                continue
            if re.fullmatch(r"rmexp(\.[A-Za-z]\w*)+", str(value), re.ASCII):
                own.append((path, str(value)))
            elif not isinstance(value, str) or value not in self.targets:
                others[path] = value
        for path, value in others.items():
            names = ",".join(dict.fromkeys(map(str, others.values())))
            raise UserError(
                f"{where}: {path}._target_={value} is no part of rmexp, and a run directory "
                f"runs no other code unasked: add 'trust=[{names}]' if you trust it."
            )
        return own


def check_part(path: str, target: str, thing: Any, where: str) -> None:
    """Refuse what rmexp does not define, or not as a part that the config group may hold.

    Raises:
        UserError: names the key and the value.
    """
    group, defined = re.split(r"[.\[]", path)[0], f"{getattr(thing, '__module__', '')}."
    homes = [home for home in HOMES.get(group, ()) if defined.startswith(f"{home}.")]
    functions = any(home in WITH_FUNCTIONS for home in homes)
    if not homes or not (inspect.isclass(thing) or (functions and inspect.isfunction(thing))):
        raise UserError(f"{where}: {path}._target_={target} is nothing that {group} may hold.")


def check_links(run: Path) -> None:
    """Refuse a run directory whose files are links to files outside of it.

    Raises:
        UserError: names the link.
    """
    home = run.resolve()
    # A snapshot in the cache of the hub consists of links to its blobs.
    hub = [parent.parent / "blobs" for parent in home.parents if parent.name == "snapshots"]
    parts = (path for path in run.iterdir() if path.name != "wandb")  # W&B links its logs
    for path in chain.from_iterable((part, *part.rglob("*")) for part in parts):
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not any(map(target.is_relative_to, (home, *hub))):
            raise UserError(
                f"{path} is a link to {target}, outside of the run: put the file there."
            )


def _entries(node: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Every entry of every mapping, with the path of the mapping."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield path, key, value
            yield from _entries(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for index, value in enumerate(node):
            yield from _entries(value, f"{path}[{index}]")


def read_untrusted(file: Path) -> dict[str, Any]:
    """A YAML file as plain containers.

    Raises:
        UserError: it is no mapping, or has aliases, which can stand for any amount of content.
    """
    try:
        content = read_yaml(file)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: cannot be read ({str(error).splitlines()[0]}).") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: is not the configuration of a run.")
    seen = set[int]()
    left: list[tuple[Any, int]] = [(content, 0)]
    while left:
        node, depth = left.pop()
        if id(node) in seen or depth > MAX_DEPTH:
            raise UserError(f"{file}: has YAML aliases or deep nesting, and rmexp writes none.")
        seen.add(id(node))
        parts = node.values() if isinstance(node, dict) else node
        left += [(part, depth + 1) for part in parts if isinstance(part, dict | list)]
    return content


def literal(node: Any) -> Any:
    """Plain containers whose texts OmegaConf reads as they are, without interpolations."""
    if isinstance(node, dict):
        return {key: literal(value) for key, value in node.items()}
    if isinstance(node, list):
        return [literal(value) for value in node]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", node) if isinstance(node, str) else node
