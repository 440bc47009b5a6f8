"""Objects built from the options in conf/, where every default stands."""

import functools
from typing import Any

from omegaconf import OmegaConf

from rmexp.config.compose import build, option_values


@functools.cache
def _values(name: str) -> dict[str, Any]:
    return option_values(name)


def from_conf(name: str, **values: Any) -> Any:
    """Build GROUP/NAME with some values changed: `from_conf("loss/contrastive", margin=0.5)`."""
    return build(OmegaConf.create(_values(name) | values))
