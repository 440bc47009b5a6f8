"""What a task's signature asks for: config groups, facts of the job, keys of its own YAML."""

import inspect
from collections.abc import Callable
from typing import Any, get_args

from rmexp.config.compose import locate
from rmexp.config.declarations import declaration, declares


class InputGroup:
    """Base of dataclasses that group inputs of a task, so that it takes few arguments.

    Their fields are resolved like parameters of the task. A parameter `GROUP | None` is None
    without `checkpoint`.
    """


def task_inputs(target: str, with_checkpoint: bool) -> dict[str, Any]:
    """The inputs of a task (name -> annotation), those in input groups included."""
    return _inputs(declaration("task", target), with_checkpoint)


def task_function(target: str, prefix: str) -> Callable[..., Any] | None:
    """A function that stands beside a task under its name with a prefix, for the job's check.

    - `check_TASK(config)` refuses what the task cannot do, before a model or data is loaded. The
      configuration is that of the command line, which a checkpoint or `complete_TASK` completes.
    - `complete_TASK(config, overrides)` returns the configuration, completed by what the task's
      inputs bring, and facts about them for the job, see `inherit_config`.
    """
    module, _, name = target.rpartition(".")
    beside = f"{module}.{prefix}_{name}"
    return locate("task", beside) if declares(beside) else None


def _inputs(function: Any, with_checkpoint: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, (annotation, group, optional) in _parameters(function).items():
        if group is None:
            found[name] = annotation
        elif with_checkpoint or not optional:
            found |= _inputs(group, with_checkpoint)
    return found


def build_inputs(
    function: Any, with_checkpoint: bool, resolve: Callable[[str], Any]
) -> dict[str, Any]:
    """The arguments of a task; `resolve` maps the name of an input to its value."""
    return {
        name: resolve(name)
        if group is None
        else group(**build_inputs(group, with_checkpoint, resolve))
        if with_checkpoint or not optional
        else None
        for name, (_, group, optional) in _parameters(function).items()
    }


def _parameters(function: Any) -> dict[str, tuple[Any, type[InputGroup] | None, bool]]:
    """Parameter -> its annotation, the input group that it is (if any), whether it is optional."""
    found = {}
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kinds = get_args(parameter.annotation) or (parameter.annotation,)
        groups = [k for k in kinds if inspect.isclass(k) and issubclass(k, InputGroup)]
        group = groups[0] if groups else None
        found[name] = (parameter.annotation, group, type(None) in kinds)
    return found
