"""Messages -> token ids: special tokens, pad, truncation, fingerprint."""

import re

import pytest
import transformers
from omegaconf import OmegaConf

from rmexp.core.errors import UserError
from rmexp.templates import rendering
from rmexp.templates.template import (
    audit_template,
    choose_pad_token,
    template_fingerprint,
)
from tests.conftest import ROOT
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer
from tests.templates.test_template_options import tokenizer_of

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
PLAIN = OmegaConf.load(ROOT / "conf/template/plain.yaml").source
CHATML = OmegaConf.load(ROOT / "conf/template/chatml.yaml").source


def render(template, tokenizer=None, talk=TALK):
    tokenizer = tokenizer or from_conf("model/tiny").load_tokenizer()
    template.install(tokenizer)
    return rendering.render(tokenizer, [talk])[0]


def test_named_templates():
    assert (
        render(from_conf("template/tokenizer", source=CHATML))
        == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert (
        render(from_conf("template/tokenizer", source=PLAIN))
        == "User: Hi\n\nAssistant: Yo<|im_end|>"
    )


def test_a_system_prompt_and_arguments_are_baked_into_the_source():
    source = "{{ mood }}|" + CHATML
    template = from_conf(
        "template/tokenizer",
        source=source,
        system='Say "你好"\n',
        arguments={"mood": "calm", "on": True, "off": None},
    )
    tokenizer = from_conf("model/tiny").load_tokenizer()
    text = render(template, tokenizer)
    assert text.startswith('calm|<|im_start|>system\nSay "你好"\n<|im_end|>')
    own = [{"role": "system", "content": "Mine"}, *TALK]
    assert "Say" not in rendering.render(tokenizer, [own])[0]


SPIN = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
DEEP = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"


@pytest.mark.parametrize(
    ("source", "limits", "why"),
    [
        (SPIN, {"MAX_SECONDS": 0.1}, r"it takes more than 0\.1 s for one dialogue"),
        ("{{ 'ab' * 2 ** 29 }}", {"MAX_MEMORY": 1 << 26}, "MemoryError"),
        ("{{ 'ab' * 2 ** 24 }}", {}, r"into 335544\d\d characters"),
        (DEEP, {}, "recursion"),
        ("{{ 1 / 0 }}", {}, "division by zero"),
        ("{{ messages[9].content.x }}", {}, "no element 9|has no attribute"),
        ("{{ ''.__class__.__mro__[1].__subclasses__() }}", {}, "unsafe"),
        ("{# #}" * 300_000, {}, r"has 15\d+ characters"),
    ],
)
def test_a_template_cannot_run_for_ever(source, limits, why, monkeypatch):
    for name, value in limits.items():
        monkeypatch.setattr(f"rmexp.templates.limits.{name}", value)
    with pytest.raises(UserError, match=why):
        render(from_conf("template/tokenizer", source=source + PLAIN))
    assert render(from_conf("template/tokenizer", source=PLAIN)).startswith("User: Hi")


def test_a_template_file(tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert render(from_conf("template/tokenizer", path=str(tmp_path / "t.jinja"))) == "[Hi][Yo]"
    with pytest.raises(UserError, match="there is no such file"):
        render(from_conf("template/tokenizer", path=str(tmp_path / "no.jinja")))


def test_templates_that_teach_nothing_or_break_are_refused():
    with pytest.raises(UserError, match="does not render the assistant's answer"):
        render(from_conf("template/tokenizer", source="{{ messages[0].content }}"))
    with pytest.raises(UserError, match="refuses a dialogue"):
        render(from_conf("template/tokenizer", source="{{ raise_exception('no') }}"))
    tokenizer = from_conf("model/tiny").load_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="choose template=chatml"):
        from_conf("template/tokenizer").install(tokenizer)


@pytest.mark.parametrize("source", [PLAIN, "{{ bos_token }}" + CHATML])
def test_bos_comes_once_from_the_template_alone(source):
    tokenizer = tokenizer_of()
    from_conf("template/tokenizer", source=source).install(tokenizer)
    ids = rendering.tokenize(tokenizer, rendering.render(tokenizer, [TALK]))[0]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert audit_template(tokenizer, "", ids).bos_count == 1


def test_pad_is_never_eos():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert "an existing token" in choose_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert choose_pad_token(tokenizer) is None


def test_a_pad_token_is_added_where_none_fits():
    tokenizer = tokenizer_of()
    inner = tokenizer.backend_tokenizer.to_str().replace("<|endoftext|>", "<|nothing|>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(inner),
        bos_token="<s>",
        eos_token="</s>",
    )
    before = len(tokenizer)
    assert "was added" in choose_pad_token(tokenizer)
    assert len(tokenizer) == before + 1
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def test_fingerprint_sees_what_changes_tokens_and_nothing_else():
    one = template_fingerprint(tiny_tokenizer())
    assert template_fingerprint(tiny_tokenizer()) == one
    other = from_conf("model/tiny").load_tokenizer()
    from_conf("template/tokenizer", system="Be kind.").install(other)
    assert template_fingerprint(other) != one


def test_audit():
    tokenizer = tiny_tokenizer()
    text = rendering.render(tokenizer, [TALK])[0]
    audit = audit_template(tokenizer, text, rendering.tokenize(tokenizer, [text])[0])
    assert (audit.bos_count, audit.eos_present, audit.pooled_token, audit.pad_token) == (
        0,
        True,
        "Ċ",
        "<|endoftext|>",
    )
    assert audit.example == text


def test_an_exported_template_is_not_baked_twice(tmp_path):
    tokenizer = from_conf("model/tiny").load_tokenizer()
    from_conf("template/tokenizer", source=PLAIN, system="Be kind.").install(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    from_conf("template/tokenizer").install(again)
    assert again.chat_template == tokenizer.chat_template
    assert template_fingerprint(again) == template_fingerprint(tokenizer)


def test_the_clock_is_fixed_in_the_format_that_the_template_asks_for():
    tokenizer = from_conf("model/tiny").load_tokenizer()
    source = "{% set now = '%Y' %}{{ strftime_now('%d %b %Y %H:%M') }}|{{ strftime_now(now) }}|"
    template = from_conf("template/tokenizer", source=source + CHATML)
    with pytest.warns(UserWarning, match="fixed at 2025-01-01 00:00:00"):
        template.install(tokenizer)
    assert rendering.render(tokenizer, [TALK])[0].startswith("01 Jan 2025 00:00|01 Jan 2025|")


def test_a_template_that_renders_at_random_is_named():
    source = "{{ range(1000) | random }}" + CHATML
    with pytest.warns(UserWarning, match="renders the same dialogue in several ways"):
        render(from_conf("template/tokenizer", source=source))


def test_an_error_names_the_file_and_the_line_of_the_source(tmp_path):
    file = tmp_path / "t.jinja"
    for source, sentence in (
        ("a\n{% for %}", "Expected an expression.*line 2"),
        ("a\n\n{{ messages[9].content.x }}", "has no element 9.*line 3"),
        ("a\n{{ 1 / 0 }}", "division by zero.*line 2"),
        (
            "{{ bos }}{% for turn in turns %}{% endfor %}\n{{ raise_exception('No.') }}",
            "No.*line 2",
        ),
    ):
        file.write_text(source)
        with pytest.raises(UserError, match=f"^template.path={file}: .*{sentence} of the template"):
            render(from_conf("template/tokenizer", path=str(file)))


def test_text_around_the_judged_answer_is_baked(tmp_path):
    template = from_conf(
        "template/tokenizer", source=CHATML, response_prefix='Answer: "', response_suffix='"\n'
    )
    tokenizer = from_conf("model/tiny").load_tokenizer()
    again = [*TALK, *TALK]
    assert render(template, tokenizer, again) == (
        "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
        '<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nAnswer: "Yo"\n<|im_end|>\n'
    )
    tokenizer.save_pretrained(tmp_path)
    exported = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert exported.apply_chat_template(again, tokenize=False) == render(
        from_conf("template/tokenizer"), exported, again
    )
    assert 'Answer: "Yo"' in rendering.render(exported, [again])[0]
    prompt = tokenizer.apply_chat_template(again[:-1], tokenize=False, add_generation_prompt=True)
    assert "Answer" not in prompt


def test_text_goes_around_parts_and_not_around_what_has_no_content():
    tokenizer = from_conf("model/tiny").load_tokenizer()
    from_conf(
        "template/tokenizer", source=CHATML, response_prefix="<", response_suffix=">"
    ).install(tokenizer)
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert "<ab>" in rendering.render(tokenizer, [[TALK[0], TALK[1] | {"content": parts}]])[0]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": {}}}]}
    assert rendering.render(tokenizer, [[TALK[0], call]])[0].endswith(
        '<|im_start|>assistant\n{"name": "f", "arguments": {}}<|im_end|>\n'
    )


def test_the_fingerprint_sees_text_around_the_answer():
    other = from_conf("model/tiny").load_tokenizer()
    from_conf("template/tokenizer", response_suffix=" ").install(other)
    assert template_fingerprint(other) != template_fingerprint(tiny_tokenizer())


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("llama3", "<|end_header_id|>, <|eot_id|>, <|start_header_id|>"),
        ("gemma", "<end_of_turn>, <start_of_turn>"),
        ("mistral", "[/INST], [INST]"),
        ("phi", "<|assistant|>, <|end|>, <|system|>, <|user|>"),
    ],
)
def test_tags_that_are_no_tokens_are_named(option, names):
    template = from_conf(
        "template/tokenizer", source=OmegaConf.load(ROOT / f"conf/template/{option}.yaml").source
    )
    with pytest.warns(UserWarning, match=re.escape(f"The template writes {names}: the tokenizer")):
        template.install(tokenizer_of())
    template.install(tokenizer_of(*names.split(", ")))  # and no warning


def test_of_the_tokenizers_own_template_only_special_tags_are_checked():
    tokenizer = from_conf("model/tiny").load_tokenizer()
    tokenizer.chat_template = "[INST]" + CHATML
    from_conf("template/tokenizer").install(tokenizer)
    tokenizer.chat_template = CHATML.replace("im_end", "im_over")
    with pytest.warns(UserWarning, match=re.escape("writes <|im_over|>: the tokenizer")):
        from_conf("template/tokenizer").install(tokenizer)


def test_the_rubric_of_a_judge():
    judge = OmegaConf.load(ROOT / "conf/template/judge.yaml")
    text = render(
        from_conf("template/tokenizer", source=judge.source, arguments={"rubric": "Short."})
    )
    assert text == (
        "# What makes an answer good\nShort.\n\n# Dialogue\nUser: Hi\n\n# Answer\nYo<|im_end|>"
    )
