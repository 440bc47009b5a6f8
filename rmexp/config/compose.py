"""Compose a configuration with Hydra's Compose API, and explain what is wrong with it.

Composing imports neither torch nor anything else that is slow: `--help`, `--cfg` and unknown names
are answered at once.
"""

import difflib
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.config.quoting import parses, quoted_command
from rmexp.config.schema import CONF_DIR, register
from rmexp.core.errors import UserError

_ADDED = re.compile(r"^\+(?=[^+@/=]+\.[^@/=]+=)")
"""The + of `+a.b=VALUE`, which Hydra refuses where the key exists: ++ sets it either way."""


def compose_config(overrides: Sequence[str], config_dir: str | None = None) -> DictConfig:
    """Compose the configuration, with Hydra's own node in it; `config_dir` has further options.

    Raises:
        UserError: an unknown option or key, a wrong type, or an override that cannot be parsed.
    """
    extra = [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"] if config_dir else []
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
            given = [_ADDED.sub("++", override) for override in overrides]
            return compose("config", overrides=[*extra, *given], return_hydra_config=True)
    except (HydraException, OmegaConfBaseException) as error:
        if (whole := _with_own_node(error, overrides)) is not None:
            return compose_config(whole, config_dir)
        raise UserError(explain(error, overrides)) from error


def _with_own_node(error: Exception, overrides: Sequence[str]) -> list[str] | None:
    """`a.b._target_=X a.b.key=Y` as `a.b={_target_: X, key: Y}`, where a.b is a plain value.

    Hydra sets keys only within nodes; None: the error has another cause.
    """
    found = re.search(r"Could not override '([^']+)\.[^'.]+'", str(error))
    inner = [o for o in overrides if found and o.lstrip("+").startswith(f"{found[1]}.")]
    if found is None or not any(o.lstrip("+").startswith(f"{found[1]}._target_=") for o in inner):
        return None
    pairs = (o.lstrip("+").removeprefix(f"{found[1]}.").split("=", 1) for o in inner)
    content = ", ".join(f"{key}: {value}" for key, value in pairs)
    return [*(o for o in overrides if o not in inner), f"{found[1]}={{{content}}}"]


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's error as one sentence with a suggestion."""
    text = f"{error} {error.__cause__ or ''}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        return (
            f"There is no {group or 'config'}={option}{suggest(option, options)}; "
            f"options: {', '.join(options)}."
        )
    for pattern, write in _EXPLANATIONS:
        if found := re.search(pattern, text, re.DOTALL):
            return write(found, overrides)
    return "The configuration does not compose: " + " ".join(text.split())


_NAMED = r"(?:(?:data|eval)@)?(data\.sources|eval\.sets)\.([^.]+)"
"""A source of a mixture, or one of several evaluation sets; each is added under its own name."""


def _unknown_key(found: re.Match[str], overrides: Sequence[str]) -> str:
    key = found[1]
    if key.startswith("template.arguments."):
        return f"Write +{key}=VALUE: a template's arguments are added."
    if key in ("sweeps", "experiment"):
        return f"Write +{key}=NAME: {key} is added to the composition."
    if (named := re.match(_NAMED, key)) and (place := f"{named[1]}.{named[2]}"):
        add = f"{place.split('.')[0]}@{place}="
        if not any(override.startswith(f"+{add}") for override in overrides):
            option = "data=mix" if place.startswith("data") else "eval=several"
            return f"There is no {place}: add it as +{add}OPTION, with {option}."
    keys = list(known_keys([o for o in overrides if not re.match(rf"\+*{re.escape(key)}\b", o)]))
    return f"There is no key {key}{suggest(key, keys)}."


def _unknown_reference(found: re.Match[str], overrides: Sequence[str]) -> str:
    name, key = found[1], found[2]
    others = [o for o in overrides if not o.lstrip("+").startswith(f"{key}=")]
    near = suggest(name, list(known_keys(others)))
    return (
        f"{key}: ${{{name}}} is no key{near}; for these characters themselves write \\${{{name}}}."
    )


def _bad_value(found: re.Match[str], overrides: Sequence[str]) -> str:
    kinds = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}
    value, wanted = found[1], (kinds | {"String": "text"}).get(found[2], found[2])
    override = next((o for o in overrides if o.endswith(f"={value}")), value)
    return f"{override}: should be {wanted}."


def _unreadable(_: re.Match[str], overrides: Sequence[str]) -> str:
    override = next((o for o in overrides if not parses(o)), " ".join(overrides))
    if "=" not in override:
        return f"Cannot read the override {override!r}; write KEY=VALUE."
    return f"Cannot read the override {override!r}; quote its value: {quoted_command(override)}."


_EXPLANATIONS: tuple[tuple[str, Callable[[re.Match[str], Sequence[str]], str]], ...] = (
    (r"Could not override '([^']+)'", _unknown_key),
    (r"Key '([^']+)' is not in struct", _unknown_key),
    (
        r"Environment variable '([^']+)' not found.*?full_key: (\S+)",
        lambda found, _: f"{found[2]}: the environment variable {found[1]} is not set.",
    ),
    (r"Interpolation key '([^']+)' not found\s+full_key: (\S+)", _unknown_reference),
    (r"raised while resolving interpolation: (.*?)\n", lambda found, _: found[1]),
    (r"Value '(.*?)'.* could not be converted to (\w+)", _bad_value),
    (
        r"Error parsing override|mismatched input|NoViableAlt|no viable alternative"
        r"|extraneous input|token recognition error",
        _unreadable,
    ),
)


def known_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Every key that an override may name under the given choices."""
    try:
        config = compose_config(overrides)
    except UserError:
        config = compose_config([])
    yield from _paths(OmegaConf.to_container(without_hydra(config), resolve=False), "")


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield prefix + str(key)
        yield from _paths(value, f"{prefix}{key}.")


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's node, to which keys may be added: the configuration of a run."""
    content: dict[str, Any] = {}
    for key in map(str, config):
        if key != "hydra":  # which is the largest part by far
            node: Any = config._get_node(key)
            is_group = OmegaConf.is_config(node)
            content[key] = OmegaConf.to_container(node) if is_group else node._value()
    return OmegaConf.create(content)


def suggest(wrong: str, known: Sequence[str]) -> str:
    """ " (did you mean X?)" with the closest name, or nothing; the same last part is close too."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if not close:
        last = wrong.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == last][:1]
    return f" (did you mean {close[0]}?)" if close else ""


def option_values(name: str) -> dict[str, Any]:
    """The keys and values of the option GROUP/NAME of conf/, which has its defaults."""
    register()
    group, _, choice = name.partition("/")
    values: Any = OmegaConf.to_container(compose_config([f"{group}={choice}"])[group], resolve=True)
    return values


def build(node: DictConfig) -> Any:
    """Instantiate a `_target_` node; a `UserError` of its constructor is raised as it is."""
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def locate(path: str, target: str) -> Any:
    """The class or function that a `_target_` names.

    Raises:
        UserError: there is none; suggests the closest name.
    """
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}._target_={target} cannot be imported ({error}).") from error
    if not hasattr(module, name):
        raise UserError(
            f"{path}._target_={target}: {module_name} has no {name}{suggest(name, dir(module))}."
        )
    return getattr(module, name)
