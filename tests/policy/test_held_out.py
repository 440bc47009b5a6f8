"""Prompts that a policy can answer, its answers, and its divergence from the initial policy."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
import transformers

from rmexp.policy.held_out import Answers, kl_divergence, read_answers, sample_answers
from rmexp.policy.prompts import PolicyPrompt, answerable, overlap_note
from rmexp.policy.sampling import Decoding
from tests.helpers.policies import tiny_policy


def prompt(key, text, **more):
    return PolicyPrompt(key, ({"role": "user", "content": text, **more},))


PROMPTS = [prompt("a", "What is rain?"), prompt("b", "And snow, on a hill?")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    home = tiny_policy(tmp_path_factory.mktemp("policy"))
    model = transformers.AutoModelForCausalLM.from_pretrained(home).eval()
    return model, transformers.AutoTokenizer.from_pretrained(home)


@pytest.fixture(scope="module")
def answers(policy):
    found = sample_answers(*policy, PROMPTS, 3, Decoding(0.8, 1.0, 5), 0, lambda *_: None)
    texts, tokens, finished_N = found
    return Answers(PROMPTS, texts, tokens, finished_N, {"proxy": np.arange(6.0)})


def test_answers_survive_their_file(answers, tmp_path):
    answers.save(tmp_path / "answers" / "a.parquet")
    again = read_answers(tmp_path / "answers" / "a.parquet", PROMPTS)
    assert (again.texts, again.tokens) == (answers.texts, answers.tokens)
    assert again.finished_N.tolist() == answers.finished_N.tolist()
    assert again.values["proxy"].tolist() == answers.values["proxy"].tolist()
    assert again.prompts_N.tolist() == [0, 0, 0, 1, 1, 1]


def test_measured_has_lengths_and_what_was_cut(answers):
    values = answers.measured().values
    assert values["tokens"].tolist() == [len(ids) for ids in answers.tokens]
    assert values["cut"].tolist() == [float(not done) for done in answers.finished_N]
    assert len(set(values["distinct_2"][:3])) == 1


def test_gold_that_repeats_the_proxy_is_found(answers):
    both = {"proxy": np.array([1.0, np.nan]), "gold": np.array([1.0, np.nan])}
    assert Answers(PROMPTS, [], [], np.zeros(0), both).gold_repeats_proxy()
    both["gold"] = np.array([1.1, np.nan])
    assert not Answers(PROMPTS, [], [], np.zeros(0), both).gold_repeats_proxy()
    assert not answers.gold_repeats_proxy()


def test_the_divergence_is_the_sum_over_tokens_of_an_answer(policy, answers):
    model, tokenizer = policy
    initial = copy.deepcopy(model)
    with torch.no_grad():
        initial.lm_head.weight.mul_(1.5)
    found = kl_divergence(model, initial, tokenizer, answers, 0.8)
    ids = tokenizer.apply_chat_template(
        list(PROMPTS[0].messages), add_generation_prompt=True, return_dict=False
    )
    text = torch.tensor([ids + answers.tokens[0]])
    with torch.no_grad():
        p, q = (
            (m(text).logits[0, len(ids) - 1 : -1] / 0.8).log_softmax(-1) for m in (model, initial)
        )
    assert found[0] == pytest.approx((p.exp() * (p - q)).sum().item(), rel=1e-4)
    assert (found > 0).all()
    assert kl_divergence(model, model, tokenizer, answers, 0.8) == pytest.approx(0, abs=1e-6)


def test_prompts_that_cannot_be_answered_are_left_out_and_counted(policy):
    _, tokenizer = policy
    given = [
        PROMPTS[0],
        prompt("long", "word " * 40),
        dataclasses.replace(PROMPTS[1], tools=True),
        prompt("call", "Hi", tool_calls=[]),
        prompt("parts", [{"type": "text", "text": "Hi"}]),
    ]
    kept, notes = answerable(given, tokenizer, 60)
    assert kept == [PROMPTS[0]]
    assert notes[0].startswith("3 prompts with tools")
    assert notes[1].startswith("1 prompts of more than 60 tokens")
    assert answerable(given[:2], tokenizer, None) == (given[:2], [])


def test_what_a_reward_model_has_seen_is_said():
    assert overlap_note("gold", frozenset("b"), PROMPTS) == (
        "The gold was trained on 1 of the 2 held-out prompts."
    )
    assert overlap_note("gold", frozenset("c"), PROMPTS) is None
    assert "is not known" in overlap_note("gold", None, PROMPTS)
