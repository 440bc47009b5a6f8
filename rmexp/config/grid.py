"""Cells of a grid, composed: those that differ in plain values alone share the work."""

import functools
import pickle
from collections.abc import Callable, Sequence

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, OverrideType
from omegaconf import DictConfig

from rmexp.config.schema import GROUPS, Root

Compose = Callable[[Sequence[str]], DictConfig]


class Composer:
    """Composes override lists as `compose` does, each choice of groups once.

    A value (`loss.margin=1`, `seed=0`) is set in a copy, by Hydra's own hand: Hydra, too, sets
    values once all groups are in place.

    Args:
        compose: overrides -> the configuration with Hydra's node, errors as Hydra raises them.
    """

    def __init__(self, compose: Compose) -> None:
        self._compose = compose
        self._known: dict[tuple[str, ...], bytes] = {}

    def __call__(self, words: Sequence[str]) -> DictConfig:
        """The configuration of one cell; the caller may change it."""
        parsed = [parse(word) for word in words]
        values = [override for override in parsed if _is_value(override)]
        others = [override for override in parsed if not _is_value(override)]
        # What is added or taken away may stand before or behind a value of the same key.
        if any(_touches(other, value) for other in others for value in values):
            return self._compose(words)
        shared = tuple(str(override.input_line) for override in others)
        if shared not in self._known:
            self._known[shared] = pickle.dumps(self._compose(shared))  # quicker than a deepcopy
        config: DictConfig = pickle.loads(self._known[shared])
        ConfigLoaderImpl._apply_overrides_to_config(values, config)
        tasks = [override for override in parsed if not override.is_hydra_override()]
        config.hydra.overrides.task = [override.input_line for override in tasks]
        job = config.hydra.job
        job.override_dirname = get_overrides_dirname(tasks, **job.config.override_dirname)
        return config


@functools.cache
def parse(word: str) -> Override:
    """An override, parsed; it is not to be changed."""
    return OverridesParser.create().parse_override(word)


def _is_value(override: Override) -> bool:
    """Does it set a value of a key that is there, and nothing else?"""
    key = str(override.key_or_group)
    known = "." in key or (key in Root.__annotations__ and key not in GROUPS)
    plain = override.type is OverrideType.CHANGE and override.package is None and "/" not in key
    return plain and known and not override.is_hydra_override()


def _touches(other: Override, value: Override) -> bool:
    """Is the one's key the other's, or a part of it? Groups are in place before any value."""
    keys = [f"{override.key_or_group}." for override in (other, value)]
    if other.package is not None or "." not in keys[0][:-1]:
        return False
    return keys[0].startswith(keys[1]) or keys[1].startswith(keys[0])
