"""Where conf/ is, what its root may hold, and what is said when somebody gets it wrong.

Composing imports neither torch nor anything else that is slow: `--help`, `--cfg` and unknown names
answer at once. Types and ranges come from the annotated signature of each `_target_`.
"""

import difflib
import importlib
import importlib.util
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rmexp.config.schema import CONF_DIR, EVALUATE, EVALUATE_REWARDS, register
from rmexp.core.errors import UserError


def compose_raw(overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own node in it; errors are Hydra's."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def compose_config(
    overrides: Sequence[str],
    config_dir: str | None = None,
    by: Callable[[Sequence[str]], DictConfig] = compose_raw,
) -> DictConfig:
    """Compose the configuration, with Hydra's own node in it.

    Args:
        overrides: the command's words.
        config_dir: a directory of the person's own options.
        by: what composes; of many cells `sweep.composing.Composer`.

    Raises:
        UserError: an unknown option or key, a wrong type, or an override that cannot be read.
    """
    extra = (
        [] if config_dir is None else [f"hydra.searchpath=[file://{Path(config_dir).absolute()}]"]
    )
    try:
        return by([*extra, *overrides])
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, overrides)) from error


def explain(error: Exception, overrides: Sequence[str]) -> str:
    """Hydra's complaint as one sentence with a suggestion."""
    text = f"{error} {error.__cause__ or ''}"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = list(error.options or [])
        if (group, option) == ("hydra/sweeper", "optuna"):
            return "Optuna's sweeper is not installed: pip install 'rmexp[optuna]'."
        return (
            f"There is no {group or 'config'}={option}{suggest(option, options)}; "
            f"options: {', '.join(options)}."
        )
    for pattern, write in _COMPLAINTS:
        if found := re.search(pattern, text, re.DOTALL):
            return write(found, overrides)
    return "The configuration does not compose: " + " ".join(text.split())


def _unknown_key(found: re.Match[str], overrides: Sequence[str]) -> str:
    key = found[1]
    if key.startswith("template.arguments."):
        return f"Write +{key}=VALUE: a template's arguments are added."
    if key in ("sweeps", "experiment"):
        return f"Write +{key}=NAME: {key} is added to the composition."
    keys = list(known_keys([o for o in overrides if not re.match(rf"\+*{re.escape(key)}\b", o)]))
    return f"There is no key {key}{suggest(key, keys)}."


def _bad_value(found: re.Match[str], overrides: Sequence[str]) -> str:
    kind = {
        "Integer": "a whole number",
        "Float": "a number",
        "String": "text",
        "Boolean": "true or false",
    }
    value, wanted = found[1], kind.get(found[2], found[2])
    given = next((o for o in overrides if o.endswith(f"={value}")), value)
    return f"{given}: should be {wanted}."


def _unreadable(found: re.Match[str], overrides: Sequence[str]) -> str:
    return (
        f"Cannot read the override {found[1]!r}; put quotes around values with special characters."
    )


_COMPLAINTS: tuple[tuple[str, Callable[[re.Match[str], Sequence[str]], str]], ...] = (
    (r"Could not override '([^']+)'", _unknown_key),
    (r"Key '([^']+)' is not in struct", _unknown_key),
    (r"raised while resolving interpolation: (.*?)\n", lambda found, _: found[1]),
    (r"Value '(.*?)'.* could not be converted to (\w+)", _bad_value),
    (r"Error parsing override '(.*?)'\n", _unreadable),
    (
        r"mismatched input|no viable alternative|extraneous input|token recognition error",
        lambda f, o: (
            f"Cannot read the overrides {' '.join(o)!r}; "
            "put quotes around values with special characters."
        ),
    ),
)


def known_keys(overrides: Sequence[str]) -> Iterator[str]:
    """Every key that an override may name under the given choices."""
    try:
        config = compose_config(overrides)
    except UserError:
        config = compose_config([])
    yield from _paths(OmegaConf.to_container(without_hydra(config), resolve=False), "")


def without_hydra(config: DictConfig) -> DictConfig:
    """A copy without Hydra's node and without its locks: what a run is made of."""
    content: Any = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create({key: value for key, value in content.items() if key != "hydra"})


def resolve_task(config: DictConfig) -> DictConfig:
    """`plain`, with the task that is meant: rewards in files are judged without any model."""
    config = without_hydra(config)
    if config.task["_target_"] == EVALUATE:
        sets = config.eval.get("sets") or {"": config.eval}
        if all(one.get("scores") for one in sets.values()):
            config.task = {"_target_": EVALUATE_REWARDS, "rows": config.task.rows}
    return config


def _paths(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items() if isinstance(node, Mapping) else ():
        yield prefix + str(key)
        yield from _paths(value, f"{prefix}{key}.")


def suggest(wrong: str, known: Sequence[str]) -> str:
    """ " (did you mean X?)" with the nearest name, or nothing. A right last part counts as near."""
    close = difflib.get_close_matches(wrong, known, n=1, cutoff=0.6)
    if not close:
        last = wrong.rsplit(".", 1)[-1]
        close = [name for name in known if name.rsplit(".", 1)[-1] == last][:1]
    return f" (did you mean {close[0]}?)" if close else ""


def option_values(name: str) -> dict[str, Any]:
    """The keys and values of the option GROUP/NAME of conf/, where its defaults stand."""
    register()
    group, _, choice = name.partition("/")
    values: Any = OmegaConf.to_container(compose_config([f"{group}={choice}"])[group], resolve=True)
    return values


def build(node: DictConfig) -> Any:
    """The object of a `_target_` node; a `UserError` of its constructor comes out as it is."""
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
        UserError: there is none; with the nearest name.
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
