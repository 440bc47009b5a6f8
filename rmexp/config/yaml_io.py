"""Fast reading and writing of YAML files."""

from pathlib import Path
from typing import Any

import yaml
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader


class _YamlLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """Types of scalars as OmegaConf reads them, with the parser in C."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


class _YamlDumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """Quotes strings that look like numbers, as OmegaConf does, with the printer in C."""


_YamlDumper.add_representer(str, get_omega_conf_dumper().str_representer)


def read_yaml(file: Path) -> Any:
    """Read a YAML file as plain containers."""
    with open(file, encoding="utf-8") as stream:
        return yaml.load(stream, _YamlLoader)


def write_yaml(content: Any, file: Path) -> None:
    """Write plain containers, many times faster than OmegaConf."""
    with open(file, "w", encoding="utf-8") as stream:
        yaml.dump(content, stream, _YamlDumper, sort_keys=False, allow_unicode=True)
