"""The policy: what is opened as a language model, and what is refused before it loads."""

import json
import shutil
import warnings

import peft
import pytest
import torch
import transformers

from rmexp.core.errors import UserError
from rmexp.policy.policy_model import context_length, end_tokens, policy_model
from rmexp.templates.rendering import render_prompt, tokenize
from tests.helpers.options import from_conf
from tests.helpers.policies import tiny_policy
from tests.helpers.toys import tiny_tokenizer
from tests.models.test_families import TOKENIZER

HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    """A directory with a tiny language model."""
    return tiny_policy(tmp_path_factory.mktemp("policy"))


def opened(folder, cache):
    source = policy_model(str(folder), str(cache))
    source.check()
    tokenizer = source.load_tokenizer()
    return source.load_language_model(tokenizer, torch.float32), tokenizer


def test_a_directory_is_opened_as_a_language_model(policy, cache):
    model, tokenizer = opened(policy, cache)
    assert isinstance(model, transformers.LlamaForCausalLM)
    assert not model.training
    assert end_tokens(model, tokenizer) == [tokenizer.convert_tokens_to_ids("<|im_end|>")]
    assert context_length(model) == 512
    text = render_prompt(tokenizer, HELLO)
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(tokenize(tokenizer, [text])[0]) == text


def test_an_adapter_is_merged_into_its_base(policy, cache, tmp_path):
    base, _ = opened(policy, cache)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft's own use of transformers
        adapted = peft.get_peft_model(
            transformers.AutoModelForCausalLM.from_pretrained(policy),
            peft.LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"),
        )
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_" in name:
                weight.normal_()
    adapted.save_pretrained(tmp_path)
    merged, _ = opened(tmp_path, cache)
    ids = torch.tensor([[5, 6, 7]])
    assert torch.allclose(merged(ids).logits, adapted(ids).logits, atol=1e-4)
    assert not torch.allclose(merged(ids).logits, base(ids).logits, atol=1e-2)


def reward_model(folder):
    from_conf("model/tiny").load_model(tiny_tokenizer(), 0).save_pretrained(folder)


def encoder(folder):
    config = transformers.BertConfig(
        vocab_size=len(TOKENIZER), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16,
    )  # fmt: skip
    transformers.BertForMaskedLM(config).save_pretrained(folder)


def encoder_decoder(folder):
    config = transformers.T5Config(vocab_size=32, d_model=8, d_ff=8, num_layers=1, num_heads=1)
    config.architectures = ["T5ForConditionalGeneration"]
    config.save_pretrained(folder)


def run(folder):
    (folder / "config.yaml").touch()
    (folder / "result.json").touch()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (reward_model, "a reward model or classifier (LlamaForSequenceClassification)"),
        (encoder, "an encoder (BertForMaskedLM)"),
        (encoder_decoder, "an encoder-decoder (t5)"),
        (run, "a run directory of a reward model"),
    ],
)
def test_what_is_no_decoder_is_refused_by_its_files(make, words, cache, tmp_path):
    make(tmp_path)
    with pytest.raises(UserError) as error:
        policy_model(str(tmp_path), str(cache)).check()
    assert words in str(error.value)
    assert f"policy={tmp_path}" in str(error.value)


def test_a_backbone_without_a_language_model_head_is_refused(policy, cache, tmp_path):
    model, _ = opened(policy, cache)
    shutil.copytree(policy, tmp_path / "copy")
    model.model.save_pretrained(tmp_path / "copy")
    with pytest.raises(UserError, match=r"lacks weights of a model that generates text \(lm_head"):
        opened(tmp_path / "copy", cache)


def test_a_tokenizer_without_a_chat_template_is_refused(policy, cache, tmp_path):
    shutil.copytree(policy, tmp_path / "copy")
    (tmp_path / "copy" / "chat_template.jinja").unlink()
    settings = json.loads((tmp_path / "copy" / "tokenizer_config.json").read_text())
    assert "chat_template" not in settings
    with pytest.raises(UserError, match=r"has no chat template.*take an instruct model"):
        policy_model(str(tmp_path / "copy"), str(cache)).load_tokenizer()


def test_no_such_directory(cache):
    with pytest.raises(UserError, match=r"policy=/nowhere/x: there is no such directory"):
        policy_model("/nowhere/x", str(cache)).check()
