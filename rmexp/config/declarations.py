"""The classes and functions of rmexp as their source declares them, without importing them.

A loss or a part of a model imports torch, which takes seconds; that `loss.margin=abc` is no number,
the annotation of `margin` tells.
"""

import ast
import functools
import importlib
import inspect
import sys
from collections.abc import Iterator
from inspect import Parameter, Signature
from pathlib import Path
from typing import Any, ClassVar, get_origin

from rmexp.config.compose import locate
from rmexp.config.schema import PACKAGE

LIGHT = (*sys.stdlib_module_names, "annotated_types", "omegaconf")
"""Packages that are imported for what annotations name; so is `rmexp.config`."""


def declaration(path: str, target: str) -> Any:
    """A stand-in for what a `_target_` of rmexp names: its signature, and of a class the bases
    that are rmexp's own. Of other packages, what the target names.

    Raises:
        UserError: there is none, see `locate`.
    """
    module, _, name = target.rpartition(".")
    try:
        return _source(module)[name]
    except KeyError:
        return locate(path, target)


def declares(target: str) -> bool:
    """Whether the module of a `_target_` has this function or class."""
    module, _, name = target.rpartition(".")
    if (source := _source(module)).file is None:
        return hasattr(importlib.import_module(module), name)
    return name in source.statements


class _Source:
    """What a module of rmexp defines at its top level, evaluated name by name; a mapping for
    `eval`.

    Args:
        file: its source; None: the module is not rmexp's, and has no names here.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        body = [] if file is None else ast.parse(file.read_bytes()).body
        self.statements = {name: one for one in body for name in _defined(one)}
        self._known: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._known:
            self._known[name] = self._evaluate(name)
        return self._known[name]

    def _evaluate(self, name: str) -> Any:
        match self.statements[name]:
            case ast.ImportFrom(module=str(module), names=names):
                original = next(one.name for one in names if name in (one.asname, one.name))
                if module.startswith("rmexp.config.") or module.split(".")[0] in LIGHT:
                    return getattr(importlib.import_module(module), original)
                return _source(module)[original]
            case ast.FunctionDef() as function:
                return self._function(function)
            case ast.ClassDef() as definition:
                return self._class(definition)
            case ast.Assign(value=value) | ast.AnnAssign(value=ast.expr() as value):
                return self._value(value)
        raise KeyError(name)

    def _value(self, expression: ast.expr) -> Any:
        names: Any = self
        return eval(compile(ast.Expression(expression), str(self.file), "eval"), {}, names)

    def _annotation(self, expression: ast.expr | None) -> Any:
        """The annotation; Any for one that names what is not light, such as a tensor."""
        try:
            return Any if expression is None else self._value(expression)
        except (NameError, TypeError, AttributeError):
            return Any

    def _function(self, function: ast.FunctionDef) -> Any:
        def stand_in() -> None: ...

        stand_in.__signature__ = self._signature(function.args)  # type: ignore[attr-defined]
        return stand_in

    def _class(self, definition: ast.ClassDef) -> Any:
        bases = tuple(
            base
            for base in map(self._annotation, definition.bases)
            if inspect.isclass(base) and base.__module__.startswith(f"{PACKAGE.name}.")
        )
        members: dict[str, Any] = {"__module__": __name__}
        methods = {one.name: one for one in definition.body if isinstance(one, ast.FunctionDef)}
        if "__init__" in methods:
            members["__signature__"] = self._signature(methods["__init__"].args, own_first=1)
        elif any("dataclass" in ast.unparse(one) for one in definition.decorator_list):
            inherited = (inspect.signature(base).parameters for base in reversed(bases))
            known = {name: one for parameters in inherited for name, one in parameters.items()}
            fields = known | {one.name: one for one in self._fields(definition.body)}
            members["__signature__"] = Signature(list(fields.values()))
        return type(definition.name, bases, members)

    def _signature(self, given: ast.arguments, own_first: int = 0) -> Signature:
        """Without the first `own_first` arguments, such as `self`."""
        arguments = [*given.posonlyargs, *given.args]
        required = len(arguments) - len(given.defaults)
        found = [
            self._parameter(one, optional)
            for one, optional in [
                *((one, number >= required) for number, one in enumerate(arguments)),
                *zip(given.kwonlyargs, given.kw_defaults, strict=True),
            ]
        ][own_first:]
        rest = [] if given.kwarg is None else [Parameter(given.kwarg.arg, Parameter.VAR_KEYWORD)]
        return Signature([*found, *rest])

    def _fields(self, body: list[ast.stmt]) -> Iterator[Parameter]:
        """The fields of a dataclass that are arguments."""
        for one in body:
            if isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name):
                kind, value = self._annotation(one.annotation), one.value
                if get_origin(kind) is ClassVar or kind is ClassVar:
                    continue
                if value is None or "init=False" not in ast.unparse(value):
                    yield _parameter(one.target.id, kind, _is_default(value))

    def _parameter(self, argument: ast.arg, optional: Any) -> Parameter:
        return _parameter(argument.arg, self._annotation(argument.annotation), bool(optional))


def _parameter(name: str, annotation: Any, optional: bool) -> Parameter:
    """By keyword, as Hydra gives it; of a default only that there is one."""
    default = None if optional else Parameter.empty
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _is_default(value: ast.expr | None) -> bool:
    """Whether the value of a field is a default: `field()` may have none."""
    match value:
        case ast.Call(func=ast.Name(id="field"), keywords=options):
            return any(option.arg in ("default", "default_factory") for option in options)
    return value is not None


def _defined(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement at the top level of a module defines."""
    match statement:
        case ast.ImportFrom(names=names):
            yield from (one.asname or one.name for one in names)
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            yield name


@functools.cache
def _source(module: str) -> _Source:
    """The source of a module of rmexp; an empty one of others."""
    place = PACKAGE.parent.joinpath(*module.split("."))
    own = module.startswith(f"{PACKAGE.name}.")
    files = [place / "__init__.py", place.with_suffix(".py")] if own else []
    return _Source(next((file for file in files if file.is_file()), None))
