"""What is written into a chat template, so that the template alone says how a dialogue looks.

System prompt, response prefix and suffix, and arguments become Jinja in front of the source. A
source may use four names that stand for nothing elsewhere:

- `bos`: BOS where the tokenizer puts one before every text by itself, else nothing;
- `text_of(message)`: its reasoning (in <think>) and its content, whether text or parts;
- `turns`, in a loop over them: the messages as plain `{role, content}`, with tools and tool calls
  as JSON in the text;
- `strftime_now`: a fixed date, as a reward must not depend on the day.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from rmexp.core.errors import note_fallback

BAKED = "{#- baked by rmexp -#}"
"""Opens a template that carries its system prompt and arguments."""


DATE = "01 Jan 2025"
"""What templates that ask for today's date are told."""


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
    """The source with everything in front of it that it needs; itself where it needs nothing."""
    uses_turns = re.search(r"\bfor \w+ in turns\b", source) is not None
    sets = dict(arguments)
    if re.search(r"\bbos\b", source):
        sets["bos"] = bos
    head = "".join(f"{{%- set {name} = {_literal(value)} -%}}" for name, value in sets.items())
    if "strftime_now" in source:
        note_fallback(f"The template writes the date of the day; it is pinned to {DATE}.")
        head += "{%- macro strftime_now(format) -%}" + DATE + "{%- endmacro -%}"
    if system is not None:
        head += _system(system)
    if prefix or suffix:
        head += _around(prefix or "", suffix or "")
    if uses_turns or re.search(r"\btext_of\(", source):
        head += TEXT_OF.strip()
    if uses_turns:
        head += TURNS.strip()
    return BAKED + head + source if head else source


def _system(text: str) -> str:
    message = '[{"role": "system", "content": ' + _literal(text) + "}]"
    return (
        "{%- if messages[0]['role'] not in ['system', 'developer'] -%}"
        "{%- set messages = " + message + " + messages -%}{%- endif -%}"
    )


def _around(prefix: str, suffix: str) -> str:
    """Text before and after the content of the last message, where the assistant wrote it."""
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
    """A value as a Jinja literal: JSON is one, but that null is called none."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
