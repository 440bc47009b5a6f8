"""Messages -> text -> token ids with a tokenizer's chat template.

Training, evaluation, scoring and export all use this path. Contents that a template would print as
a Python list are joined first; contents that it leaves out are reported.
"""

import dataclasses
import itertools
import json
import re
import traceback
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

from rmexp.comparison import Comparison, Message
from rmexp.core.errors import UserError, note_fallback
from rmexp.templates.filled_template import FilledTemplate
from rmexp.templates.limits import MAX_TEXT, limited_time

REASONING = ("reasoning_content", "reasoning", "thinking")
"""Keys of the reasoning in a message."""

ITERATES_PARTS = re.compile(r"\bfor\s+\w+\s+in\s+[\w.\[\]'\"]*content['\"\]]*(?![\w.'\"\]])")
"""Matches a template that iterates over the parts of content."""

_checked_parts: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
"""Parts of dialogues that were checked against a tokenizer's template, see `_note_omissions`."""


def render(
    tokenizer: Any,
    dialogues: Sequence[Sequence[Message]],
    tools: Sequence[Mapping[str, Any]] = (),
    unfinished: bool = False,
) -> list[str]:
    """The text of each dialogue under the tokenizer's template, special tokens included.

    Args:
        tokenizer: with a template installed.
        dialogues: lists of messages.
        tools: JSON schemas of the tools that the assistant may call.
        unfinished: the text ends with the last message, without an end of turn.

    Raises:
        UserError: the template refuses a dialogue, a message has a part that is not text, or an
            unfinished response is not at the end of its text.
    """
    keeps_parts = ITERATES_PARTS.search(tokenizer.chat_template or "") is not None
    texts = []
    for dialogue in dialogues:
        messages = [_prepared(message, keeps_parts) for message in dialogue]
        texts.append(_render_one(tokenizer, messages, tools, unfinished))
        _note_omissions(tokenizer, messages, tools, unfinished, texts[-1])
    return texts


def render_comparison(tokenizer: Any, comparison: Comparison) -> list[str]:
    """The text of each response with its prompt.

    Raises:
        UserError: see `render`.
    """
    dialogues = [(*comparison.prompt, *response) for response in comparison.responses]
    return render(tokenizer, dialogues, comparison.tools, comparison.unfinished)


def render_comparisons(
    tokenizer: Any, comparisons: Sequence[Comparison], filled: FilledTemplate | None
) -> Iterator[list[str] | UserError]:
    """`render_comparison` of each comparison, or its error.

    Args:
        filled: of the tokenizer; renders comparisons without tools, which end as the template ends
            them, where it can; None: the template renders all.
    """

    def by_template(dialogue: Sequence[Message]) -> str:
        return render(tokenizer, [dialogue])[0]

    plain = [one for one in comparisons if not (one.tools or one.unfinished)]
    dialogues = [(*one.prompt, *response) for one in plain for response in one.responses]
    found = [filled(one, by_template) if filled else None for one in dialogues]
    left = [dialogue for dialogue, text in zip(dialogues, found, strict=True) if text is None]
    together: Iterator[str | None]
    together = iter(_render_together(tokenizer, left) or itertools.repeat(None))
    texts = iter([next(together) if text is None else text for text in found])
    for one in comparisons:
        if not (one.tools or one.unfinished):
            own = [text for _ in one.responses if (text := next(texts)) is not None]
            if len(own) == len(one.responses):
                yield own
                continue
        try:
            yield render_comparison(tokenizer, one)
        except UserError as error:  # the template refuses a role or an order of roles
            yield error


def _render_together(tokenizer: Any, dialogues: Sequence[Sequence[Message]]) -> list[str] | None:
    """The text of each dialogue; None where one of them, which is not known, has an error."""
    keeps_parts = ITERATES_PARTS.search(tokenizer.chat_template or "") is not None
    try:
        prepared = [[_prepared(message, keeps_parts) for message in one] for one in dialogues]
        with limited_time():
            texts = tokenizer.apply_chat_template(prepared, tokenize=False)
    except Exception:  # of any type, as in `_render_one`
        return None
    if max(map(len, texts), default=0) > MAX_TEXT:
        return None
    for messages, text in zip(prepared, texts, strict=True):
        if any(len(message) > 2 for message in messages):  # more than role and content
            _note_omissions(tokenizer, messages, (), False, text)
    return texts


def render_prompt(
    tokenizer: Any, prompt: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()
) -> str:
    """The text of a prompt up to where its response begins (the generation prompt).

    Raises:
        UserError: the template refuses the prompt, or a message has a part that is not text.
    """
    keeps_parts = ITERATES_PARTS.search(tokenizer.chat_template or "") is not None
    messages = [_prepared(message, keeps_parts) for message in prompt]
    return _render_one(tokenizer, messages, tools, unfinished=False, to_be_answered=True)


def tokenize(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of rendered texts, without added special tokens."""
    return tokenizer(list(texts), add_special_tokens=False)["input_ids"] if texts else []


def response_starts(
    tokenizer: Any, comparison: Comparison, texts: Sequence[str], tokens: Sequence[Sequence[int]]
) -> list[int]:
    """Number of tokens before each response: those of the prompt, as it asks for a response.

    Args:
        texts, tokens: the rendered responses with their prompt, which may have lost its oldest
            turns (see `fit`): the prompt that shares most with the texts counts. A token across
            the boundary belongs to the response.
    """
    longest = ""
    prompt: tuple[Message, ...] | None = comparison.prompt
    while prompt is not None:
        asked = render_prompt(tokenizer, prompt, comparison.tools)
        shared = min(_shared_length(asked, text) for text in texts)
        longest = max(longest, asked[:shared], key=len)
        prompt = _without_oldest_turn(prompt) if shared < len(asked) else None
    (before,) = tokenize(tokenizer, [longest])
    return [_shared_length(before, ids) for ids in tokens]


def _shared_length(one: Sequence[Any], other: Sequence[Any]) -> int:
    """Length of the longest common prefix."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((n for n, (a, b) in pairs if a != b), min(len(one), len(other)))


def fit(
    tokenizer: Any, comparison: Comparison, max_length: int
) -> tuple[list[str], list[list[int]]] | None:
    """Texts and token ids of a comparison without its oldest prompt turns, so that it fits.

    System messages, the last user turn and responses are kept whole: None if the longest response
    has more than `max_length` tokens even so.
    """
    shorter = _without_oldest_turn(comparison.prompt)
    while shorter is not None:
        texts = render_comparison(tokenizer, dataclasses.replace(comparison, prompt=shorter))
        ids = tokenize(tokenizer, texts)
        if max(map(len, ids)) <= max_length:
            return texts, ids
        shorter = _without_oldest_turn(shorter)
    return None


def _without_oldest_turn(prompt: tuple[Message, ...]) -> tuple[Message, ...] | None:
    """The prompt without its first user turn and the answers to it; None if one turn is left."""
    users = [n for n, message in enumerate(prompt) if message["role"] == "user"]
    if len(users) < 2:
        return None
    return prompt[: users[0]] + prompt[users[1] :]


def _render_one(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    unfinished: bool,
    to_be_answered: bool = False,
) -> str:
    last = messages[-1] if messages else {}
    if unfinished and (last.get("role") != "assistant" or last.get("tool_calls")):
        raise UserError("An unfinished response ends in the assistant's text, and in nothing else.")
    try:
        with limited_time():
            text = tokenizer.apply_chat_template(
                messages,
                tools=[dict(tool) for tool in tools] or None,
                tokenize=False,
                continue_final_message=unfinished,
                add_generation_prompt=to_be_answered,
            )
    except Exception as error:  # a template may do anything that Jinja's sandbox lets it
        if unfinished and isinstance(error, ValueError):
            raise UserError(_NOT_AT_ITS_END) from error
        called = any(message.get("tool_calls") for message in messages)
        hints = [*_lines(error), *(["template=chatml shows tool calls"] if called else [])]
        why = str(error).rstrip(".") or type(error).__name__
        why += f" ({'; '.join(hints)})" if hints else ""
        raise UserError(f"The chat template refuses a dialogue: {why}.") from error
    if len(text) > MAX_TEXT:
        raise UserError(f"The chat template turns a dialogue into {len(text)} characters.")
    # A template may strip whitespace, but the text must end with the step.
    if unfinished and not text.rstrip().endswith(_plain_text(last["content"]).rstrip()):
        raise UserError(_NOT_AT_ITS_END)
    return text


def _lines(error: Exception) -> list[str]:
    """The line of the template that raised the error, if it is known."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if frame.filename in ("<template>", "<unknown>")]
    number = getattr(error, "lineno", lines[-1] if lines else None)
    return [f"line {number} of the template"] if number else []


def omits_thinking(comparison: Comparison, texts: Sequence[str]) -> bool:
    """Whether the template removes the text before </think> in an answer."""
    for response, text in zip(comparison.responses, texts, strict=True):
        content = response[-1].get("content") if response else None
        thinking, _, _ = (content if isinstance(content, str) else "").rpartition("</think>")
        if thinking.replace("<think>", "").strip() not in text:
            return True
    return False


_NOT_AT_ITS_END = (
    "The chat template does not show an unfinished response as it is written, so there is no token "
    "to read its reward at: choose template=chatml or template=plain."
)


def _prepared(message: Message, keeps_parts: bool) -> dict[str, Any]:
    """A message as templates expect it: parts joined, arguments of tool calls as objects.

    Templates convert arguments to JSON; arguments that are JSON text would be escaped twice.
    """
    prepared = dict(message)
    if isinstance(content := message.get("content"), list):
        text = _plain_text(content)
        prepared["content"] = content if keeps_parts else text
    if message.get("tool_calls"):
        prepared["tool_calls"] = [_with_objects(call) for call in message["tool_calls"]]
    return prepared


def _plain_text(content: Any) -> str:
    """The text of a message's content; parts are joined as in Hugging Face's templates.

    Raises:
        UserError: a part is not text.
    """
    if isinstance(content, str):
        return content
    for part in content:
        kind = part.get("type", "text") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise UserError(f"A message holds a part of type {kind!r}; only text can be scored.")
    return "".join(part["text"] for part in content)


def _with_objects(call: Any) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return dict(call) | {"function": _with_objects(call["function"])}
    try:
        arguments = json.loads(call["arguments"])
    except (KeyError, TypeError, ValueError):
        return call
    return dict(call) | {"arguments": arguments} if isinstance(arguments, dict) else call


def _note_omissions(
    tokenizer: Any,
    messages: list[dict[str, Any]],
    tools: Sequence[Mapping[str, Any]],
    unfinished: bool,
    text: str,
) -> None:
    """Note once that a template omits tools, tool calls or the last reasoning.

    Some model families are trained without the reasoning of earlier turns.
    """
    parts = {
        "tools": bool(tools),
        "tool_calls": any(message.get("tool_calls") for message in messages),
        "reasoning_content": any(messages[-1].get(name) for name in REASONING),
    }
    looked_at = _checked_parts.setdefault(tokenizer, set())
    for name in (name for name, there in parts.items() if there and name not in looked_at):
        keys = REASONING if name == "reasoning_content" else (name,)
        without = [{k: v for k, v in message.items() if k not in keys} for message in messages]
        try:
            bare = _render_one(tokenizer, without, () if name == "tools" else tools, unfinished)
        except UserError:
            bare = ""
        looked_at.add(name)
        if bare == text:
            note_fallback(
                f"The chat template does not show {name}: no reward can depend on it "
                "(template=chatml shows all)."
            )
