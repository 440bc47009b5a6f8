"""Dialogues rendered by putting their contents into the text that a template writes around them.

For each sequence of roles, the template is run once on contents that record every question that it
asks of them: whether one begins with a tag, what is left of it without blanks, whether it is empty.
A dialogue whose contents give the same answers takes the same path through the template, so that
its text differs in the contents alone. A template that does anything else with a content, such as
count its characters, is not run this way, nor is a dialogue that gives other answers.
"""

import functools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import loopcontrols
from jinja2.runtime import Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from rmexp.comparison import Message
from rmexp.core.errors import UserError, note_fallback
from rmexp.templates.limits import MAX_TEXT, limited_time

MARK = "content-f3b9"
HOLDER = re.compile(rf'{MARK}"(\d+)"{MARK}')
"""Matches what stands for a content; its quotes differ once it is escaped."""

ANSWERED = (
    *("strip", "lstrip", "rstrip", "removeprefix", "removesuffix", "replace", "lower", "upper"),
    *("startswith", "endswith", "split", "rsplit", "partition", "rpartition", "find", "count"),
    *("__contains__", "__eq__", "__ne__"),
)
"""Methods of text whose result is compared."""

KEPT = ("__class__", "__new__", "__str__", "__init__", "__getattribute__", "__setattr__")

FILTERS = ("trim", "string", "default", "d", "tojson", "lower", "upper", "join")
"""Filters that use a content by its methods, or whose output shows that they did not."""

TESTS = (
    *("string", "defined", "undefined", "none", "mapping", "number", "boolean", "true", "false"),
    *("equalto", "eq", "==", "ne", "!="),
)

CHECKED = 4
"""Dialogues of each sequence of roles that are rendered in both ways."""

MOST_SEQUENCES = 1000

Test = Callable[[str], bool]
Render = Callable[[Sequence[Message]], str]


@dataclass
class _Filling:
    """The text of dialogues with certain roles.

    Attributes:
        text: what the template writes, and every second a place for a content.
        contents: the number of the message whose content belongs to each place.
        tests: for each message, tests that its content must pass.
        unchecked: dialogues that are still to be compared with the template's own text.
    """

    text: list[str]
    contents: list[int]
    tests: list[list[Test]]
    unchecked: int = CHECKED

    def __call__(self, dialogue: Sequence[Message]) -> str | None:
        said = [message["content"] for message in dialogue]
        for content, tests in zip(said, self.tests, strict=True):
            for test in tests:
                if not test(content):
                    return None
        text = self.text.copy()
        text[1::2] = [said[number] for number in self.contents]
        return "".join(text)


class FilledTemplate:
    """A function of a dialogue to its text; None where only the template itself tells.

    Args:
        tokenizer: must not change from now on.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.source = tokenizer.chat_template or ""
        self.variables = dict(tokenizer.special_tokens_map)
        self._by_roles: dict[tuple[Any, ...], _Filling | None] = {}

    def __call__(self, dialogue: Sequence[Message], render: Render) -> str | None:
        """The text of a dialogue, if its messages have a role and a text and nothing else.

        Args:
            render: the template itself, which the first dialogues are compared with.
        """
        for message in dialogue:
            if len(message) != 2 or type(message.get("content")) is not str:
                return None
        roles = tuple([message.get("role") for message in dialogue])
        if roles not in self._by_roles:
            self._by_roles[roles] = self._filling(roles)
        if (filling := self._by_roles[roles]) is None or (text := filling(dialogue)) is None:
            return None
        if filling.unchecked:
            filling.unchecked -= 1
            try:
                same = render(dialogue) == text
            except UserError:
                same = False
            if not same:
                note_fallback("The chat template differs from time to time: rows are read slowly.")
                self._by_roles, self.source = dict.fromkeys(self._by_roles), ""
                return None
        return text if len(text) <= MAX_TEXT else None

    def _filling(self, roles: tuple[Any, ...]) -> _Filling | None:
        plain = all(type(role) is str and MARK not in role for role in roles)
        if not plain or not self.source or MARK in self.source or "__" in self.source:
            return None  # names with underscores are refused by `apply_chat_template` alone
        if len(self._by_roles) >= MOST_SEQUENCES:
            return None
        asked = _Questions([[] for _ in roles])
        messages = [
            {"role": role, "content": _Content.of(holder(k), asked)} for k, role in enumerate(roles)
        ]
        try:
            with limited_time():
                text = _Environment(asked).run(self.source, messages, self.variables)
        except Exception:  # of any type: a template refuses roles, or asks what has no answer
            return None
        parts = HOLDER.split(text)
        if asked.open or any(MARK in part for part in parts[::2]):
            return None
        return _Filling(parts, list(map(int, parts[1::2])), asked.tests)


def holder(number: int) -> str:
    """What stands for the content of a message."""
    return f'{MARK}"{number}"{MARK}'


class _Unanswered(Exception):
    """A question whose answer no other content is known to share."""


@dataclass
class _Questions:
    """The tests that a template made of each content; `open` if there was any other use."""

    tests: list[list[Test]]
    open: bool = False

    def fail(self, *_: Any, **__: Any) -> NoReturn:
        self.open = True
        raise _Unanswered

    def answer(self, content: "_Content", name: str, arguments: tuple[Any, ...]) -> Any:
        """What the method gives for the holder, with the content in its place."""
        number, constant = HOLDER.fullmatch(str(content)), all(map(_is_constant, arguments))
        if number is None or not constant:  # more than a content
            self.fail()
        expected = _shape(str(content), name, arguments)
        given = expected if isinstance(expected, list | tuple) else [expected]
        if any(isinstance(one, str) for one in given):
            self.fail()
        self.tests[int(number[1])].append(
            lambda text: bool(_shape(text, name, arguments) == expected)
        )
        found = [content if one is None else "" if one is _EMPTY else one for one in given]
        return type(expected)(found) if isinstance(expected, list | tuple) else found[0]


_EMPTY = object()


def _is_constant(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_constant, value))
    return value is None or type(value) in (str, int, bool)


def _shape(text: str, name: str, arguments: tuple[Any, ...]) -> Any:
    """The result of a method of text, with None for the text itself and `_EMPTY` for no text."""
    found = bool(text) if name == "__bool__" else getattr(text, name)(*arguments)

    def shape(one: Any) -> Any:
        return None if one == text else _EMPTY if one == "" else one

    return type(found)(map(shape, found)) if isinstance(found, list | tuple) else shape(found)


class _Content(str):
    """A text with contents in it, of which every use is recorded or fails."""

    asked: _Questions

    @classmethod
    def of(cls, text: str, asked: _Questions) -> "_Content":
        content = cls(text)
        content.asked = asked
        return content

    def __add__(self, other: str) -> "_Content":
        return self._joined(other, str(self) + str(other))

    def __radd__(self, other: str) -> "_Content":
        return self._joined(other, str(other) + str(self))

    def _joined(self, other: str, text: str) -> "_Content":
        if type(other) not in (str, _Content):  # others refuse or escape a text
            self.asked.fail()
        return _Content.of(text, self.asked)

    def __bool__(self) -> bool:
        return bool(HOLDER.sub("", str(self))) or self.asked.answer(self, "__bool__", ())


def _method(name: str) -> Any:
    if name in ANSWERED:
        return lambda self, *arguments: self.asked.answer(self, name, arguments)
    return lambda self, *_, **__: self.asked.fail()


for _name in set(dir(str)) - set(KEPT) - set(vars(_Content)):
    if callable(getattr(str, _name)) and _name not in ("__init_subclass__", "__subclasshook__"):
        setattr(_Content, _name, _method(_name))


class _Observable(NodeTransformer):
    """Rewrites what Jinja compiles to plain operators of text into filters and tests."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "join", [], [], None, None)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        names = [operand.op for operand in node.ops]
        if not {"in", "notin"} & set(names):
            return node
        if len(names) > 1:
            raise _Unanswered
        test = nodes.Test(node.expr, "in", [node.ops[0].expr], [], None, None)
        return test if names == ["in"] else nodes.Not(test)

    def visit_Mod(self, node: nodes.Mod) -> nodes.Node:
        if not isinstance(node.right, nodes.Const):
            raise _Unanswered  # it may format a text
        return self.generic_visit(node)

    def _captured(self, node: nodes.Node) -> nodes.Node:
        raise _Unanswered  # the text of a block is a plain text

    visit_AssignBlock = visit_FilterBlock = visit_CallBlock = visit_Block = _captured
    visit_ScopedEvalContextModifier = _captured


class _Environment(ImmutableSandboxedEnvironment):
    """As that of `apply_chat_template`; contents are used by their methods alone."""

    def __init__(self, asked: _Questions) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        self.asked = asked
        self.globals |= {"raise_exception": asked.fail, "dict": _dict, "namespace": Namespace}
        self.filters["tojson"] = _tojson
        for names, known in ((self.filters, FILTERS), (self.tests, TESTS)):
            for name, function in names.items():
                names[name] = self._watched(function, allowed=name in known)
        self.tests["in"] = self._contains

    def run(self, source: str, messages: list[dict[str, Any]], variables: Mapping[str, str]) -> str:
        tree = _Observable().visit(self.parse(source))
        code = self.compile(tree, "template", "template")
        template = jinja2.Template.from_code(self, code, self.make_globals(None))
        return template.render(
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=False,
            **variables,
        )

    def call(self, context: Any, function: Any, *arguments: Any, **named: Any) -> Any:  # type: ignore[override]
        """A macro, `dict` and `namespace` may take contents; the method of a text may not."""
        own = isinstance(function, Macro) or function is _dict or function is Namespace
        if not own and _has_content((*arguments, *named.values())):
            self.asked.fail()
        return self._content(super().call(context, function, *arguments, **named))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As Jinja's, which tries an attribute where there is no such item."""
        if isinstance(argument, _Content):
            self.asked.fail()
        return super().getitem(obj, argument)

    def _contains(self, value: Any, values: Any) -> bool:
        if isinstance(value, _Content):
            self.asked.fail()
        return value in values

    def _watched(self, function: Any, allowed: bool) -> Any:
        @functools.wraps(function)
        def watched(*arguments: Any, **named: Any) -> Any:
            if not allowed and _has_content((*arguments, *named.values())):
                self.asked.fail()
            return self._content(function(*arguments, **named))

        return watched

    def _content(self, value: Any) -> Any:
        """A text with contents in it as such."""
        is_plain = type(value) is str and MARK in value
        return _Content.of(value, self.asked) if is_plain else value


def _has_content(values: Sequence[Any]) -> bool:
    return any(isinstance(value, _Content) for value in values)


def _dict(*arguments: Any, **named: Any) -> dict[str, Any]:
    return dict(*arguments, **named)


def _tojson(value: Any, ensure_ascii: bool = False, **named: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **named)
