"""Drawing responses: the policy's own probabilities, and random numbers of each response's own."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from rmexp.policy.sampling import Decoding, sample_responses
from rmexp.policy.sampling import _draw as draw
from tests.helpers.policies import tiny_policy

PROMPTS = [[5, 6, 7, 8, 9], [10, 11], [12, 13, 14]]
KEYS = ["a", "b", "c"]
END = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tiny_policy(tmp_path_factory.mktemp("policy"))
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def sampled(model, prompts=PROMPTS, keys=KEYS, k=4, temperature=1.0, top_p=1.0, tokens=12, seed=0):
    decoding = Decoding(temperature, top_p, tokens)
    return sample_responses(model, prompts, keys, range(k), decoding, [END], seed)


def test_a_response_depends_on_seed_prompt_and_number_alone(model):
    together = sampled(model)
    for n in range(3):
        (alone,) = sampled(model, PROMPTS[n : n + 1], KEYS[n : n + 1])
        (fewer,) = sampled(model, PROMPTS[n : n + 1], KEYS[n : n + 1], k=2)
        assert [one.tokens for one in alone] == [one.tokens for one in together[n]]
        assert [one.tokens for one in fewer] == [one.tokens for one in alone[:2]]
    assert sampled(model) == together
    everything = [one.tokens for row in together for one in row]
    assert len({tuple(one) for one in everything}) == len(everything)
    assert everything != [one.tokens for row in sampled(model, seed=1) for one in row]


@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_logprob_is_the_models_at_temperature_1(model, temperature):
    for prompt, row in zip(
        PROMPTS, sampled(model, temperature=temperature, top_p=0.9), strict=True
    ):
        for one in row:
            with torch.no_grad():
                logits = model(torch.tensor([prompt + one.tokens])).logits[0, len(prompt) - 1 : -1]
            expected = logits.log_softmax(-1)[range(len(one.tokens)), one.tokens].sum()
            assert one.logprob == pytest.approx(float(expected), abs=1e-4)


def test_a_response_ends_with_its_first_end_token_or_is_cut(model):
    found = [one for row in sampled(model, k=64, tokens=20) for one in row]
    assert {one.cut for one in found} == {True, False}
    for one in found:
        assert END not in one.tokens[:-1]
        assert (one.tokens[-1] == END) == (not one.cut)
        assert len(one.tokens) == 20 or not one.cut


def test_the_first_token_has_the_policys_distribution(model):
    count = 4000
    (found,) = sampled(model, PROMPTS[:1], KEYS[:1], k=count, tokens=1)
    with torch.no_grad():
        expected = model(torch.tensor(PROMPTS[:1])).logits[0, -1].softmax(-1).double().numpy()
    seen = np.bincount([one.tokens[0] for one in found], minlength=len(expected)) / count
    spread = np.sqrt(expected * (1 - expected) / count)
    assert (np.abs(seen - expected) <= 5 * spread + 1e-3).all()


@given(
    st.lists(st.floats(-8, 8), min_size=2, max_size=8), st.floats(0, 1, exclude_max=True),
    st.floats(0.05, 1.0),
)  # fmt: skip
def test_top_p_keeps_the_fewest_most_probable_tokens(logits, uniform, top_p):
    probabilities = torch.tensor(logits, dtype=torch.float32).softmax(-1).double()
    order = probabilities.argsort(descending=True, stable=True)
    kept = order[: 1 + int((probabilities[order].cumsum(0) < top_p - 1e-9).sum())]
    found = draw(
        torch.tensor([logits], dtype=torch.float32), Decoding(1.0, top_p, 1),
        torch.tensor([uniform], dtype=torch.float64),
    )  # fmt: skip
    assert probabilities[int(found[0])] >= probabilities[kept].min() - 1e-12
