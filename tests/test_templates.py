"""Messages -> token ids: special tokens, pad, truncation, fingerprint."""

import pytest
import transformers
from omegaconf import OmegaConf
from tokenizers import processors

from rmexp import templates
from rmexp.comparisons import Comparison, Judgement
from rmexp.errors import UserError
from rmexp.loading import Tiny
from rmexp.templates import Template
from tests.conftest import ROOT
from tests.toys import tiny_tokenizer

TALK = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yo"}]
PLAIN = OmegaConf.load(ROOT / "conf/template/plain.yaml").source
CHATML = OmegaConf.load(ROOT / "conf/template/chatml.yaml").source


def render(template, tokenizer=None, talk=TALK):
    tokenizer = tokenizer or Tiny().load_tokenizer()
    template.install(tokenizer)
    return templates.render(tokenizer, [talk])[0]


def test_named_templates():
    assert (
        render(Template(source=CHATML))
        == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n"
    )
    assert render(Template(source=PLAIN)) == "User: Hi\n\nAssistant: Yo<|im_end|>"


def test_a_system_prompt_and_arguments_are_baked_into_the_source():
    source = "{{ mood }}|" + CHATML
    template = Template(
        source=source, system='Say "你好"\n', arguments={"mood": "calm", "on": True, "off": None}
    )
    tokenizer = Tiny().load_tokenizer()
    text = render(template, tokenizer)
    assert text.startswith('calm|<|im_start|>system\nSay "你好"\n<|im_end|>')
    own = [{"role": "system", "content": "Mine"}, *TALK]
    assert "Say" not in templates.render(tokenizer, [own])[0]


def test_a_template_file(tmp_path):
    (tmp_path / "t.jinja").write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    assert render(Template(path=str(tmp_path / "t.jinja"))) == "[Hi][Yo]"
    with pytest.raises(UserError, match="there is no such file"):
        render(Template(path=str(tmp_path / "no.jinja")))


def test_templates_that_teach_nothing_or_break_are_refused():
    with pytest.raises(UserError, match="does not render the assistant's answer"):
        render(Template(source="{{ messages[0].content }}"))
    with pytest.raises(UserError, match="refuses a dialogue"):
        render(Template(source="{{ raise_exception('no') }}"))
    tokenizer = Tiny().load_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="choose template=chatml"):
        Template().install(tokenizer)


def llama_like():
    """A tokenizer that puts BOS before every text by itself, has no pad token, and eos = </s>."""
    tokenizer = Tiny().load_tokenizer()
    inner = tokenizer.backend_tokenizer
    inner.add_special_tokens(["<s>", "</s>"])
    bos = inner.token_to_id("<s>")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>"
    )


@pytest.mark.parametrize("source", [PLAIN, "{{ bos_token }}" + CHATML])
def test_bos_comes_once_from_the_template_alone(source):
    tokenizer = llama_like()
    Template(source=source).install(tokenizer)
    ids = templates.tokenize(tokenizer, templates.render(tokenizer, [TALK]))[0]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert templates.audit(tokenizer, "", ids).bos_count == 1


def test_pad_is_never_eos():
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    assert "an existing token" in templates.choose_pad_token(tokenizer)
    assert tokenizer.pad_token == "<|endoftext|>"
    assert templates.choose_pad_token(tokenizer) is None


def test_a_pad_token_is_added_where_none_fits():
    tokenizer = llama_like()
    inner = tokenizer.backend_tokenizer.to_str().replace("<|endoftext|>", "<|nothing|>")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=type(tokenizer.backend_tokenizer).from_str(inner),
        bos_token="<s>",
        eos_token="</s>",
    )
    before = len(tokenizer)
    assert "was added" in templates.choose_pad_token(tokenizer)
    assert len(tokenizer) == before + 1
    assert tokenizer.pad_token_id not in (tokenizer.eos_token_id, tokenizer.bos_token_id)


def long_talk():
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
        (Judgement(0, 1),),
    )


def test_oldest_turns_go_first_and_the_response_stays():
    tokenizer = tiny_tokenizer()
    whole = len(
        templates.tokenize(
            tokenizer,
            templates.render(tokenizer, [(*long_talk().prompt, *long_talk().responses[0])]),
        )[0]
    )
    texts, ids = templates.fit(tokenizer, long_talk(), whole - 10)
    assert "question 0" not in texts[0]
    assert "answer 0" not in texts[0]
    assert "question 1" in texts[0]
    assert "system" in texts[0]
    assert "x" * 30 in texts[0]
    assert max(map(len, ids)) <= whole - 10


def test_what_cannot_fit_is_none():
    assert templates.fit(tiny_tokenizer(), long_talk(), 40) is None


def test_fingerprint_sees_what_changes_tokens_and_nothing_else():
    one = templates.fingerprint(tiny_tokenizer())
    assert templates.fingerprint(tiny_tokenizer()) == one
    other = Tiny().load_tokenizer()
    Template(system="Be kind.").install(other)
    assert templates.fingerprint(other) != one


def test_audit():
    tokenizer = tiny_tokenizer()
    text = templates.render(tokenizer, [TALK])[0]
    audit = templates.audit(tokenizer, text, templates.tokenize(tokenizer, [text])[0])
    assert (audit.bos_count, audit.eos_present, audit.pooled_token, audit.pad_token) == (
        0,
        True,
        "Ċ",
        "<|endoftext|>",
    )
    assert audit.example == text


def test_an_exported_template_is_not_baked_twice(tmp_path):
    tokenizer = Tiny().load_tokenizer()
    Template(source=PLAIN, system="Be kind.").install(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = transformers.AutoTokenizer.from_pretrained(tmp_path)
    Template().install(again)
    assert again.chat_template == tokenizer.chat_template
    assert templates.fingerprint(again) == templates.fingerprint(tokenizer)


def test_the_date_of_the_day_is_pinned():
    tokenizer = Tiny().load_tokenizer()
    template = Template(source="{{ strftime_now('%d %b %Y') }}|" + CHATML)
    with pytest.warns(UserWarning, match="pinned to 01 Jan 2025"):
        template.install(tokenizer)
    assert templates.render(tokenizer, [TALK])[0].startswith("01 Jan 2025|")
