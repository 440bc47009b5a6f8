"""Validation of a composed configuration: targets, keys, types and ranges."""

import functools
import inspect
from collections.abc import Iterator, Mapping, Sequence
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from omegaconf import DictConfig, ListConfig, OmegaConf

from rmexp.config.compose import suggest
from rmexp.config.declarations import declaration
from rmexp.config.schema import GROUPS, IMPLICIT_TARGET, Root
from rmexp.config.task_inputs import task_inputs
from rmexp.core.errors import UserError


def check_config(config: DictConfig, valid: set[str] | None = None) -> None:
    """Check that every `_target_` exists and accepts its keys, and every value's type and range.

    The source of the targets is read, and imported only if it is not rmexp's. `valid` are nodes
    known to be valid, as text; those of this configuration are added.

    Raises:
        UserError: the first mistake.
    """
    for key in config:
        name = str(key)
        if name not in Root.__annotations__:
            raise UserError(f"There is no key {name}{suggest(name, list(Root.__annotations__))}.")
    if not 0 <= config.seed < 2**32:  # numpy's limit
        raise UserError(f"seed={config.seed}: should be 0 to {2**32 - 1}.")
    if config.sweep.export not in ("best", "all", "none"):
        raise UserError(f"sweep.export={config.sweep.export}: should be best, all or none.")
    valid = set() if valid is None else valid
    for path, node in find_targets(config):
        text = f"{path} {OmegaConf.to_container(node, resolve=True)}"
        if text not in valid:
            _check_target(path, node)
            valid.add(text)


def find_targets(node: Any, path: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node with a `_target_`, and its path."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield path, node
        for key in map(str, node):
            if not OmegaConf.is_missing(node, key):
                yield from find_targets(node._get_node(key), f"{path}.{key}" if path else key)
    elif isinstance(node, ListConfig):
        for index in range(len(node)):
            yield from find_targets(node._get_node(index), f"{path}[{index}]")


def makes_run(config: DictConfig) -> bool:
    """Whether the task has a run directory; tasks that only read or convert have none."""
    return "run" in task_inputs(config.task["_target_"], with_checkpoint=True)


def reads_trained_rows(config: DictConfig) -> bool:
    """Whether the task reads the rows that its checkpoint's run was trained on, unless others are
    given; task=score always has its own."""
    inputs = task_inputs(config.task["_target_"], with_checkpoint=True)
    return config.task.name != "score" and "data" in inputs


def logs_metrics(config: DictConfig) -> bool:
    """Whether the task has loggers; one that measures nothing has none."""
    return "loggers" in task_inputs(config.task["_target_"], with_checkpoint=True)


def _check_target(path: str, node: DictConfig) -> None:
    parameters, hints = arguments_of(declaration(path, node["_target_"]))
    names = list(parameters)
    if path == "task":  # its keys may be fields of its input groups
        hints = task_inputs(node["_target_"], with_checkpoint=True)
        names = list(hints)
    own = ("name",) if path == "task" else ()  # the task's name is rmexp's
    for key in (k for k in map(str, node) if not k.startswith("_") and k not in own):
        if key not in names:
            raise UserError(f"There is no key {path}.{key}{suggest(key, names)}.")
        if OmegaConf.is_missing(node, key):
            raise UserError(f"{path}.{key} is needed: give {path}.{key}=VALUE.")
        value = node[key]
        if not any(find_targets(value)):
            _check_value(f"{path}.{key}", value, hints.get(key, Any))
    if path != "task":  # its other arguments are built by the job
        for key, parameter in parameters.items():
            if key not in node and parameter.default is parameter.empty and parameter.kind in NAMED:
                raise UserError(f"{path}.{key} is needed: give +{path}.{key}=VALUE.")


@functools.cache
def arguments_of(target: Any) -> tuple[dict[str, inspect.Parameter], dict[str, Any]]:
    """The parameters and annotations of a class or function.

    Of a class that takes **keywords, the parameters of its base count too, as optional ones: the
    class may give them itself.
    """
    parameters = dict(inspect.signature(target, eval_str=True).parameters)
    hints = {n: p.annotation for n, p in parameters.items() if p.annotation is not p.empty}
    rest = [n for n, p in parameters.items() if p.kind is inspect.Parameter.VAR_KEYWORD]
    if rest and inspect.isclass(target):
        base, more = arguments_of(target.__base__)
        del parameters[rest[0]]
        optional = {n: p.replace(default=None) for n, p in base.items() if p.kind in NAMED}
        return optional | parameters, more | hints
    return parameters, hints


NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def _check_value(name: str, value: Any, annotation: Any) -> None:
    from pydantic import ValidationError

    given = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    try:
        try:
            adapter = _adapter(annotation)
        except TypeError:  # metadata that cannot be hashed
            adapter = _adapter.__wrapped__(annotation)
        adapter.validate_python(given, strict=True)  # 8.0 is not an int, true not a number
    except ValidationError:
        shown = "null" if given is None else given
        raise UserError(f"{name}={shown}: should be {describe_type(annotation)}.") from None


@functools.cache
def _adapter(annotation: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(annotation, config={"arbitrary_types_allowed": True})


FILES = (("score", "out"), ("convert", "source"), ("convert", "out"))
"""Keys of tasks that name a file; the others name a directory."""

ENSEMBLE_KEYS = ("aggregate", "lcb_lambda")
"""Root keys of tasks that take several runs as one model."""

BROUGHT = ("model", "template", "loss", "head", "tune", "optim")
"""Groups that task=merge takes from the runs."""

IMPLICIT_KEYS = ("policy", "reference")
"""Root keys that model=implicit reads."""

MODEL_PROBES = ("probes", "probe_rows")
"""Keys of task=evaluate that need a model."""


def is_implicit(config: DictConfig) -> bool:
    """Whether the model is a policy that is judged by its implicit reward."""
    return bool(config.model.get("_target_") == IMPLICIT_TARGET)


def rewards_from_files(config: DictConfig) -> bool:
    """Whether `eval.scores` brings the rewards of all evaluation sets, so that none is scored."""
    sets = config.eval.get("sets") or {"": config.eval}
    return all(one.get("scores") for one in sets.values())


def check_task_keys(config: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse keys that the task does not use, and missing keys that it needs.

    Raises:
        UserError: names the key.
    """
    name = config.task.name
    from_files, implicit = name == "evaluate" and rewards_from_files(config), is_implicit(config)
    no_checkpoint = from_files or implicit
    inputs = task_inputs(config.task["_target_"], with_checkpoint=not no_checkpoint)
    if no_checkpoint:
        inputs = {key: kind for key, kind in inputs.items() if key not in MODEL_PROBES}
    if from_files:
        del inputs["implicit"]
    who = "eval.scores" if from_files else f"task={name}"
    if implicit and name != "score" and "implicit" not in inputs:
        raise UserError(
            f"model=implicit scores rows and does nothing else, so {who} cannot use it: "
            "task=score, task=evaluate and task=best_of_n take it, and task=compare the run of "
            "task=evaluate."
        )
    for key in ("checkpoint", "source", "out", "runs"):
        brought = key in ("checkpoint", "runs") and implicit
        needed = key in inputs and inputs[key] in (str, str | list[str]) and not brought
        if needed and config[key] is None:
            what = "FILE" if (name, key) in FILES else "DIRECTORY"
            other = " (or eval.scores=FILE_OR_RUN)" if name == "evaluate" else ""
            raise UserError(f"task={name} needs {key}={what}{other}.")
    for key in (key for key in ENSEMBLE_KEYS if key in inputs):
        _check_value(key, config[key], inputs[key])
    if isinstance(config.checkpoint, ListConfig):
        _check_checkpoints(config, inputs)
    if name == "export" and config.out is None and config.hub is None:
        raise UserError("task=export needs out=DIRECTORY or hub=OWNER/NAME.")
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~")
        part = key.split(".")[0]
        used = {"task", "logger", *inputs, *(("model", *IMPLICIT_KEYS) if implicit else ())}
        own = {
            "checkpoint",
            "source",
            "out",
            "hub",
            "runs",
            *IMPLICIT_KEYS,
            *ENSEMBLE_KEYS,
            *GROUPS,
        }
        if name == "merge" and part in BROUGHT and key != "model.trust_remote_code":
            raise UserError(f"The runs bring their own {part}: leave out {key}.")
        trusts = key == "model.trust_remote_code" and config.checkpoint is not None
        if part in own - used and not trusts:
            raise UserError(f"{who} does not use {part}: leave out {key}.")
        if part == "task" and "." in key and key.split(".")[1] not in inputs:
            raise UserError(f"{who} does not use {key}: leave it out.")
        kept = ("model.layout", "model.trust_remote_code")
        if part == "model" and config.checkpoint is not None and key not in kept:
            raise UserError(f"The checkpoint brings its own model: leave out {key}.")


def _check_checkpoints(config: DictConfig, inputs: Mapping[str, Any]) -> None:
    """Check a list of checkpoints, which is an ensemble."""
    if not all(isinstance(one, str) for one in config.checkpoint):
        raise UserError(f"checkpoint={config.checkpoint}: should be a directory or a list of them.")
    if inputs.get("checkpoint") != str | list[str]:
        raise UserError(
            f"task={config.task.name} takes one checkpoint. An ensemble is evaluated by "
            "task=evaluate eval.scores=[A,B], compared by task=compare runs=[A,B] aggregate=mean, "
            "and its rewards are written by task=score checkpoint=[A,B]; task=merge runs=[A,B] "
            "makes one model of it."
        )


def describe_type(annotation: Any) -> str:
    """An annotation in words.

    `Annotated[float, Ge(0)] | Literal["data"]` is "a number of 0 or more, or data".
    """
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return ", or ".join(map(describe_type, arguments))
    if origin is Annotated:
        return describe_type(arguments[0]) + "".join(map(_describe_bound, arguments[1:]))
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is Mapping:
        return "a mapping"
    return _TYPE_NAMES.get(annotation) or _TYPE_NAMES.get(origin) or "a list"


_TYPE_NAMES = {
    float: "a number",
    int: "a whole number",
    str: "text",
    bool: "true or false",
    NoneType: "null",
}

_BOUNDS = {
    "ge": "of {} or more",
    "gt": "above {}",
    "le": "and at most {}",
    "lt": "and below {}",
    "multiple_of": "and a multiple of {}",
}


def _describe_bound(bound: Any) -> str:
    name = next((name for name in _BOUNDS if hasattr(bound, name)), None)
    return f" {_BOUNDS[name].format(getattr(bound, name))}" if name else ""
