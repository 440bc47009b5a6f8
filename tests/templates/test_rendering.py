"""Messages -> text: tools, unfinished responses, parts, what is left out, truncation."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.templates import rendering
from rmexp.templates.filled_template import FilledTemplate
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
TOOL = {"type": "function", "function": {"name": "weather"}}
EACH = "{% for m in messages %}[{{ m.content }}]{% endfor %}"


def with_source(source, **settings):
    tokenizer = from_conf("model/tiny").load_tokenizer()
    from_conf("template/tokenizer", source=source, **settings).install(tokenizer)
    return tokenizer


def long_talk(**fields):
    prompt = []
    for n in range(3):
        prompt += [
            {"role": "user", "content": f"question {n}"},
            {"role": "assistant", "content": f"answer {n}"},
        ]
    prompt = [{"role": "system", "content": "S"}, *prompt, {"role": "user", "content": "last"}]
    return Comparison(
        "",
        tuple(prompt),
        (({"role": "assistant", "content": "x" * 30},), (TALK[1],)),
        (PreferenceLabel(0, 1),),
        **fields,
    )


def test_oldest_turns_go_first_and_the_response_stays():
    tokenizer = tiny_tokenizer()
    texts = rendering.render_comparison(tokenizer, long_talk())
    whole = len(rendering.tokenize(tokenizer, texts)[0])
    texts, ids = rendering.fit(tokenizer, long_talk(), whole - 10)
    assert "question 0" not in texts[0]
    assert "answer 0" not in texts[0]
    assert "question 1" in texts[0]
    assert "system" in texts[0]
    assert "x" * 30 in texts[0]
    assert max(map(len, ids)) <= whole - 10


def test_what_cannot_fit_is_none():
    assert rendering.fit(tiny_tokenizer(), long_talk(), 40) is None


def test_tools_reach_the_template_also_where_turns_are_cut():
    tokenizer = with_source("{{ tools | tojson }}" + EACH)
    comparison = long_talk(tools=(TOOL,))
    texts = rendering.render_comparison(tokenizer, comparison)
    assert texts[1].startswith('[{"type": "function", "function": {"name": "weather"}}][S]')
    shorter, _ = rendering.fit(tokenizer, comparison, len(texts[0]) - 10)
    assert shorter[0].startswith('[{"type"')
    assert rendering.render(tokenizer, [TALK]) == ["null[Hi][Yo]"]


def test_an_unfinished_response_has_no_end_of_turn_also_where_turns_are_cut():
    tokenizer = tiny_tokenizer()
    comparison = long_talk(unfinished=True)
    texts = rendering.render_comparison(tokenizer, comparison)
    assert texts[0].endswith("<|im_start|>assistant\n" + "x" * 30)
    shorter, _ = rendering.fit(tokenizer, comparison, len(texts[0]) - 60)
    assert shorter[0].endswith("x" * 30)


@pytest.mark.parametrize(
    ("source", "content", "text"),
    [
        (EACH, "step 1\n\n", "[Hi][step 1\n\n"),
        (
            "{% for m in messages %}[{{ m.content | trim }}]{% endfor %}",
            "step 1\n\n",
            "[Hi][step 1",
        ),
        (EACH, [{"type": "text", "text": "step "}, {"type": "text", "text": "1"}], "[Hi][step 1"),
    ],
)
def test_an_unfinished_response_is_trimmed_where_the_template_trims(source, content, text):
    talk = [TALK[0], {"role": "assistant", "content": content}]
    assert rendering.render(with_source(source), [talk], unfinished=True) == [text]


@pytest.mark.parametrize(
    "shown",
    ["m.content | upper", "m.content if m.content | length < 20 else '...'", "m.content | reverse"],
)
def test_a_template_that_changes_what_it_shows_cannot_show_unfinished_responses(shown):
    tokenizer = with_source(EACH)
    tokenizer.chat_template = EACH.replace("m.content", shown)
    with pytest.raises(UserError, match="does not show an unfinished response as it is written"):
        rendering.render(tokenizer, [TALK], unfinished=True)


@pytest.mark.parametrize(
    "last",
    [TALK[0], {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}],
)
def test_unfinished_responses_end_in_text(last):
    with pytest.raises(UserError, match="ends in the assistant's text"):
        rendering.render(with_source(EACH), [[*TALK, last]], unfinished=True)


def test_parts_become_text_where_the_template_knows_only_text():
    parts = [{"type": "text", "text": "a "}, {"type": "text", "text": "b"}]
    talk = [TALK[0], {"role": "assistant", "content": parts}]
    assert rendering.render(with_source(EACH), [talk]) == ["[Hi][a b]"]


@pytest.mark.parametrize(
    "loop",
    ["p in m['content']", 'p in m["content"]', "p in m.content", "p in m.content | list"],
)
def test_a_template_that_reads_parts_gets_them(loop):
    source = (
        "{% for m in messages %}{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for " + loop + " %}({{ p.text }}){% endfor %}{% endif %}{% endfor %}"
    )
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    talk = [TALK[0], {"role": "assistant", "content": parts}]
    assert rendering.render(with_source(source), [talk]) == ["Hi(a)(b)"]


@pytest.mark.parametrize("loop", ["w in m.content.split(' ')", "w in m['content'].split(' ')"])
def test_a_loop_over_words_is_no_loop_over_parts(loop):
    source = "{% for m in messages %}{% for " + loop + " %}{{ w }} {% endfor %}{% endfor %}"
    parts = [{"type": "text", "text": "a b"}]
    talk = [TALK[0], {"role": "assistant", "content": parts}]
    assert rendering.render(with_source(source), [talk]) == ["Hi a b "]


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        ({"type": "image_url", "image_url": {"url": "x"}}, "image_url"),
        ({"image": "x"}, "text"),
        ("word", "str"),
    ],
)
def test_what_is_not_text_is_refused(part, kind):
    talk = [{"role": "user", "content": [part]}, TALK[1]]
    with pytest.raises(UserError, match=f"a part of type '{kind}'; only text can be scored"):
        rendering.render(with_source(EACH), [talk])


def test_arguments_that_are_json_text_are_not_written_twice():
    source = EACH + "{{ messages[-1] | tojson }}"
    calls = [
        {"id": "1", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"name": "g", "arguments": '{"y": 2}'},
        {"name": "h", "arguments": "no JSON"},
    ]
    talk = [TALK[0], {"role": "assistant", "content": "", "tool_calls": calls}]
    (text,) = rendering.render(with_source(source), [talk])
    assert '"arguments": {"x": 1}' in text
    assert '"arguments": {"y": 2}' in text
    assert '"arguments": "no JSON"' in text
    assert calls[0]["function"]["arguments"] == '{"x": 1}'


@pytest.mark.parametrize(
    ("more", "tools", "name"),
    [
        ({}, [TOOL], "tools"),
        ({"tool_calls": [{"function": {"name": "f"}}]}, (), "tool_calls"),
        ({"reasoning_content": "hm"}, (), "reasoning_content"),
        ({"thinking": "hm"}, (), "reasoning_content"),
    ],
)
def test_what_the_template_leaves_out_is_said_once(more, tools, name):
    tokenizer = with_source(EACH)
    talk = [TALK[0], TALK[1] | more]
    with pytest.warns(UserWarning, match=f"does not show {name}: no reward can depend on it"):
        rendering.render(tokenizer, [talk], tools)
    rendering.render(tokenizer, [talk, talk], tools)
    shows = with_source(EACH + "{{ tools }}{{ messages[-1] | tojson }}")
    rendering.render(shows, [talk], tools)


def test_reasoning_of_earlier_turns_is_the_familys_affair():
    rendering.render(with_source(EACH), [[TALK[0], TALK[1] | {"reasoning_content": "hm"}, *TALK]])


def test_a_refusal_over_tool_calls_names_a_template_that_shows_them():
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    source = "{% for m in messages %}{{ m.content + '!' }}{% endfor %}"
    with pytest.raises(UserError, match=r"refuses a dialogue: .*template=chatml shows tool calls"):
        rendering.render(with_source(source), [[TALK[0], call]])


@pytest.mark.parametrize(
    ("content", "omitted"),
    [("<think>hm, 2</think> Two", True), ("<think>\n</think>Two", False), ("Two", False)],
)
def test_thinking_that_the_template_removes_is_found(content, omitted):
    answer = ({"role": "assistant", "content": content},)
    one = Comparison("", (TALK[0],), (answer,))
    strips = EACH.replace("m.content", "m.content.split('</think>')[-1]")
    for source, expected in ((strips, omitted), (EACH, False)):
        texts = rendering.render_comparison(with_source(source), one)
        assert rendering.omits_thinking(one, texts) is expected


STRICT = (
    "{% for m in messages %}{% if loop.first and m.role == 'system' %}"
    "{{ raise_exception('no system') }}{% endif %}[{{ m.role }}: {{ m.content }}]{% endfor %}"
)
CALL = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
PARTS = {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}

prompts = st.sampled_from(
    [
        (TALK[0],),
        ({"role": "system", "content": "S"}, TALK[0]),
        (*TALK, PARTS),
        ({"role": "user", "content": [{"type": "image"}]},),
    ]
)
answers = st.sampled_from([(TALK[1],), (CALL,), ({**TALK[1], "reasoning_content": "hm"},)])
comparisons = st.builds(
    Comparison,
    id=st.just(""),
    prompt=prompts,
    responses=st.lists(answers, min_size=1, max_size=3).map(tuple),
    unfinished=st.booleans(),
    tools=st.sampled_from([(), (TOOL,)]),
)
TEMPLATES = [None, EACH, STRICT, "{{ messages | tojson }}{{ tools }}", "{{ messages[9].content }}"]


@pytest.mark.parametrize("source", TEMPLATES)
@settings(deadline=None, max_examples=40)
@given(st.lists(comparisons, max_size=5))
def test_rendering_together_is_rendering_one_by_one(source, ones):
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = source or tokenizer.chat_template

    def found(one):
        try:
            return rendering.render_comparison(tokenizer, one)
        except UserError as error:
            return str(error)

    with collect_fallbacks(lambda _: None):
        together = list(rendering.render_comparisons(tokenizer, ones, FilledTemplate(tokenizer)))
        shown = [str(one) if isinstance(one, UserError) else one for one in together]
        assert shown == [found(one) for one in ones]
