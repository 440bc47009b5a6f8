"""Texts filled in between what a template writes are those of the template itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.core.errors import collect_fallbacks
from rmexp.templates.filled_template import FilledTemplate
from rmexp.templates.rendering import render
from tests.helpers.toys import tiny_tokenizer

EACH = "{%% for m in messages %%}[{{ m.role }} {{ %s }}]{%% endfor %%}"
QWEN = (
    "{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' %}{%- if '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1].lstrip('\\n') %}{%- endif %}"
    "{%- elif content.startswith('<tool>') and content.endswith('</tool>') %}"
    "{%- set content = 'called' %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\\n' + content.strip() + '<|im_end|>\\n' }}{%- endfor %}"
)
MACRO = (
    "{%- macro said(content) %}{% if content is string %}{{ content }}{% endif %}{% endmacro %}"
    "{% for m in messages %}<{{ said(m.content) | trim }}>{% endfor %}"
)
BY_TURN = (
    "{% if messages[0].role == 'system' %}{% set first = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set first = '' %}{% set turns = messages %}"
    "{% endif %}{% for m in turns %}{% if loop.last and first %}{{ first ~ '\\n' }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('order') }}{% endif %}"
    "{{ m.role ~ ': ' ~ m.content }}{% endfor %}"
)
FILLED = [
    *(EACH % use for use in ("m.content", "m['content'] | trim", "m.content or 'none'")),
    *(QWEN, MACRO, BY_TURN),
]
NOT_FILLED = [
    EACH % use
    for use in (
        *("m.content | length", "m.content[:3]", "m.content | upper", "m.content | tojson"),
        *("'yes' if m.content in 'a</think>b' else 'no'", "'b a b'.replace(m.content, 'x')"),
        *("'%5s' % m.content", "'%5s' % (m.content,)", "'{:5}'.format(m.content)"),
        *("m | tojson", "m | string", "m.content | wordcount", "m.content | urlencode"),
        *("(m.content ~ ' ') | trim", "[m.content, ' '] | join | length", "m.content | list"),
        *("messages[0].content == m.content", "{m.content: 1}[m.content]", "m.content * 2"),
        *("'a' < m.content", "m.content is in 'abc'", "[1, 2][m.content]", "m.content | int"),
        *("loop.changed(m.content)", "m.content + ('<' | escape)", "('<' | escape) + m.content"),
    )
] + [
    "{% for m in messages %}{% set x %}{{ m.content }}{% endset %}{{ x | trim }}{% endfor %}",
    "{% for m in messages %}{% filter upper %}{{ m.content }}{% endfilter %}{% endfor %}",
    "{% for m in messages %}{% for c in m.content %}{{ c }},{% endfor %}{% endfor %}",
    "{% macro f() %}{{ caller() }}{% endmacro %}"
    "{% for m in messages %}{% call f() %}{{ m.content }}{% endcall %}{% endfor %}",
]
contents = st.one_of(
    st.sampled_from(
        [
            "",
            " ",
            "Hi",
            " Hi\n",
            "a</think>b",
            "<tool>",
            "<tool>1</tool>",
            '"',
            "content-f3b9",
            "%s",
        ]
    ),
    st.text(max_size=6),
)
dialogues = st.lists(
    st.lists(contents, min_size=2, max_size=4).map(
        lambda said: [
            {"role": ("system", "user", "assistant")[(n + len(said)) % 3], "content": one}
            for n, one in enumerate(said)
        ]
    ),
    min_size=1,
    max_size=9,
)


HI = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho!"}]


class Anything:
    def __eq__(self, other):
        return True


def tokenizer_of(source):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source
    return tokenizer


def filled(source):
    """A function of dialogues, whose first texts are not compared with the template's."""
    fill = FilledTemplate(tokenizer_of(source))
    return lambda dialogue: fill(dialogue, lambda _: Anything())


@settings(deadline=None, max_examples=15)
@given(dialogues)
def test_a_filled_text_is_that_of_the_template(given_dialogues):
    for source in FILLED:
        tokenizer, fill = tokenizer_of(source), filled(source)
        for dialogue in given_dialogues:
            if (text := fill(dialogue)) is not None:
                assert [text] == render(tokenizer, [dialogue])


@pytest.mark.parametrize("source", FILLED)
def test_templates_that_only_put_contents_in_are_filled(source):
    assert [filled(source)(HI)] == render(tokenizer_of(source), [HI])


@pytest.mark.parametrize("source", NOT_FILLED)
def test_a_template_that_looks_into_contents_is_not_filled(source):
    assert filled(source)(HI) is None


def test_contents_that_take_another_path_are_not_filled():
    fill = filled(QWEN)
    for content in (" Hi", "a</think>b"):
        assert fill([HI[0], {"role": "assistant", "content": content}]) is None
    assert fill([{"role": "user", "content": "<tool>1</tool>"}, HI[1]]) is None
    assert fill([{"role": "user", "content": "a</think>b"}, HI[1]]) is not None


def test_messages_with_more_than_a_text_are_not_filled():
    fill = filled(EACH % "m.content")
    for more in ({"name": "A"}, {"content": None}, {"content": [{"type": "text", "text": "Ho"}]}):
        assert fill([HI[0], HI[1] | more]) is None
    assert fill([{"role": "content-f3b9", "content": "Hi"}]) is None


def test_a_template_that_differs_from_time_to_time_is_not_filled():
    fill = FilledTemplate(tokenizer_of(EACH % "m.content"))
    notes = []
    with collect_fallbacks(notes.append):
        assert fill(HI, lambda _: "other") is None
        assert fill(HI, lambda _: "[user Hi][assistant Ho!]") is None
    assert len(notes) == 1
