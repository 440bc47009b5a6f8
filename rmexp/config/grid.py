"""The cells of a grid: expanded from the overrides of a sweep, and composed."""

import dataclasses
import functools
import itertools
import pickle
from collections.abc import Iterable, Sequence
from typing import Any

from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import (
    Override,
    OverrideType,
    Transformer,
    TransformerType,
    ValueType,
)
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.config.compose import compose_config, explain
from rmexp.config.schema import CONF_DIR, GROUPS, Root
from rmexp.core.errors import UserError


@functools.cache
def parse_override(override: str) -> Override:
    """An override as Hydra parses it; the object is shared and must not be changed."""
    try:
        return OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(explain(error, [override])) from error


def is_sweep(override: str) -> bool:
    """Whether it names several values: `a,b`, `range(3)`, `glob(*)`, `interval(0, 1)`."""
    return parse_override(override).is_sweep_override()


def expand_grid(overrides: Iterable[str]) -> list[list[str]]:
    """The overrides of every cell, in Hydra's order: the last key varies fastest.

    Of several overrides of a key, the last counts.

    Raises:
        UserError: a sweep without a finite list of values.
    """
    values: dict[str, list[str]] = {}
    for text in overrides:
        override = parse_override(text)
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [text]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in sweep_values(override)]
        else:
            raise UserError(f"{text}: an interval needs a sweeper that searches (+sweeps=optuna).")
    return [list(cell) for cell in itertools.product(*values.values())]


def sweep_values(override: Override, transformer: TransformerType = Transformer.str) -> list[Any]:
    """The values of a sweep, by default as text."""
    if override.value_type is not ValueType.GLOB_CHOICE_SWEEP:
        return list(override.sweep_iterator(transformer))
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):  # knows the group's options
        loader = GlobalHydra.instance().config_loader()
        return list(dataclasses.replace(override, config_loader=loader).sweep_iterator())


def directory_label(overrides: Iterable[str]) -> str:
    """The overrides that name a job's directory; those of `name`, `cache` and Hydra do not."""
    parsed = [parse_override(text) for text in overrides]
    kept = (o for o in parsed if o.key_or_group not in ("name", "cache"))
    return ",".join(sorted(str(o.input_line) for o in kept if not o.is_hydra_override()))


class Composer:
    """Composes cells as `compose_config` does, but each choice of groups only once.

    A plain value (`loss.margin=1`, `seed=0`) is set in a copy of what the choices compose to.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        self.config_dir = config_dir
        self._composed: dict[tuple[str, ...], bytes] = {}

    def __call__(self, overrides: Sequence[str]) -> DictConfig:
        """Compose a cell; the caller may change the result."""
        parsed = [parse_override(text) for text in overrides]
        values = [override for override in parsed if _is_value(override)]
        others = [override for override in parsed if not _is_value(override)]
        # Adding and deleting keys depends on the order if a value touches the same key.
        if any(_touches(other, value) for other in others for value in values):
            return compose_config(overrides, self.config_dir)
        choices = tuple(str(override.input_line) for override in others)
        if choices not in self._composed:
            composed = compose_config(choices, self.config_dir)
            self._composed[choices] = pickle.dumps(composed)  # faster than a deepcopy
        config: DictConfig = pickle.loads(self._composed[choices])
        try:
            for override in values:
                OmegaConf.update(config, override.key_or_group, override.value(), merge=True)
        except OmegaConfBaseException:
            return compose_config(overrides, self.config_dir)  # raises in Hydra's words
        return config


def _is_value(override: Override) -> bool:
    """Whether it changes the value of an existing key, and nothing else."""
    key = override.key_or_group
    known = "." in key or (key in Root.__annotations__ and key not in GROUPS)
    plain = override.type is OverrideType.CHANGE and override.package is None and "/" not in key
    return plain and known and not override.is_sweep_override() and not override.is_hydra_override()


def _touches(other: Override, value: Override) -> bool:
    """Whether one key is the other or a part of it; choices of groups precede every value."""
    keys = [f"{override.key_or_group}." for override in (other, value)]
    if other.package is not None or "." not in keys[0][:-1]:
        return False
    return keys[0].startswith(keys[1]) or keys[1].startswith(keys[0])
