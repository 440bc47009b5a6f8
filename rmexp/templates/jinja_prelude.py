"""Settings of a template as Jinja before its source, so that the chat template is complete.

System prompt, response prefix and suffix, and arguments become Jinja code. A source may use four
names that this code defines:

- `bos`: BOS if the tokenizer adds one to every text, else nothing;
- `text_of(message)`: its reasoning (in <think>) and its content, whether text or parts;
- `turns`, in a loop over them: the messages as plain `{role, content}`, with tools and tool calls
  as JSON in the text;
- `strftime_now`: a fixed date, because rewards must not depend on the clock.
"""

import datetime
import json
import re
from collections.abc import Mapping
from typing import Any

from rmexp.core.errors import note_fallback

BAKED = "{#- baked by rmexp -#}"
"""Marks a template that has its settings in its source."""

DATE = datetime.datetime(2025, 1, 1)
"""The time for templates that write the current one."""

TEXT_OF = r"""
{%- macro text_of(message) -%}
{%- if message.reasoning_content -%}
{{ '<think>\n' + message.reasoning_content + '\n</think>\n\n' }}
{%- endif -%}
{%- if message.content is string -%}
{{ message.content }}
{%- else -%}
{%- for part in message.content or [] -%}{{ part.text }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
"""

TURNS = r"""
{%- set made = namespace(turns=[], text='') -%}
{%- for message in messages -%}
{%- set made.text = text_of(message) -%}
{%- for tool_call in message.tool_calls or [] -%}
{%- set written = (tool_call.function or tool_call) | tojson -%}
{%- set made.text = made.text + ('\n' if made.text else '') + written -%}
{%- endfor -%}
{%- set role = 'system' if message.role == 'developer' else message.role -%}
{%- set made.turns = made.turns + [{'role': role, 'content': made.text}] -%}
{%- endfor -%}
{%- if tools -%}
{%- set made.text = 'Tools:' -%}
{%- for tool in tools -%}{%- set made.text = made.text + '\n' + tool | tojson -%}{%- endfor -%}
{%- if made.turns[0].role == 'system' -%}
{%- set made.text = made.turns[0].content + '\n\n' + made.text -%}
{%- set made.turns = made.turns[1:] -%}
{%- endif -%}
{%- set made.turns = [{'role': 'system', 'content': made.text}] + made.turns -%}
{%- endif -%}
{%- set turns = made.turns -%}
"""


def bake(
    source: str,
    bos: str,
    arguments: Mapping[str, Any],
    system: str | None,
    prefix: str | None,
    suffix: str | None,
) -> str:
    """The source after the code of its settings; unchanged if it needs none."""
    uses_turns = re.search(r"\bfor \w+ in turns\b", source) is not None
    sets = dict(arguments)
    if re.search(r"\bbos\b", source):
        sets["bos"] = bos
    head = "".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in sets.items())
    if "strftime_now" in source:
        note_fallback(f"The template writes the current date or time; it is fixed at {DATE}.")
        head += _fixed_time(source)
    if system is not None:
        head += _system(system)
    if prefix or suffix:
        head += _around(prefix or "", suffix or "")
    if uses_turns or re.search(r"\btext_of\(", source):
        head += TEXT_OF
    if uses_turns:
        head += TURNS
    # In one line, so that errors name the lines of the source.
    return BAKED + head.replace("\n", "") + source if head else source


def _fixed_time(source: str) -> str:
    formats = {found[1] for found in re.findall(r"strftime_now\(\s*(['\"])(.*?)\1", source)}
    texts = {format: DATE.strftime(format) for format in sorted(formats)}
    usual = _literal(DATE.strftime("%d %b %Y"))
    return (
        "{%- macro strftime_now(format) -%}{{ "
        f"({_literal(texts)})[format] | default({usual}) "
        "}}{%- endmacro -%}"
    )


def _system(text: str) -> str:
    message = '[{"role": "system", "content": ' + _literal(text) + "}]"
    return (
        "{%- if messages[0]['role'] not in ['system', 'developer'] -%}"
        "{%- set messages = " + message + " + messages -%}{%- endif -%}"
    )


def _around(prefix: str, suffix: str) -> str:
    """Text before and after the content of the last message, if it is the assistant's."""
    before, after = _literal(prefix), _literal(suffix)
    part = '[{"type": "text", "text": %s}]'
    return (
        "{%- set judged = messages[-1] -%}"
        "{%- if judged['role'] == 'assistant' and judged['content'] is defined -%}"
        "{%- if judged['content'] is string -%}"
        f"{{%- set around = {before} + judged['content'] + {after} -%}}"
        "{%- else -%}"
        f"{{%- set around = {part % before} + judged['content'] + {part % after} -%}}"
        "{%- endif -%}"
        "{%- set messages = messages[:-1] + [dict(judged, content=around)] -%}{%- endif -%}"
    )


def _literal(value: Any) -> str:
    """A value as a Jinja literal: JSON, except for none."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
