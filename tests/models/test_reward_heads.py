"""Heads with several outputs: rewards, one head for the export, draws of members."""

import numpy as np
import pytest
import torch

from rmexp.core.errors import UserError
from rmexp.models.heads.ensemble import member_seed, prompt_draws
from rmexp.models.reward_head import MultiOutputHead, find_head
from rmexp.models.reward_model import compute_outputs, compute_rewards, model_facts, update_facts
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer, toy_batch, toy_comparison


def tiny(seed=0):
    return from_conf("model/tiny").load_model(tiny_tokenizer(), seed)


def test_linear_leaves_the_model_as_it_is():
    model = tiny()
    head = find_head(model)[1]
    from_conf("head/linear").install(model, 0)
    assert find_head(model)[1] is head
    batch = toy_batch(toy_comparison(2))
    outputs_N_K = compute_outputs(model, batch)
    assert outputs_N_K.shape == (2, 1)
    assert torch.equal(outputs_N_K[:, 0], compute_rewards(model, batch))


def test_members_are_heads_of_their_own_seeds_and_the_reward_is_their_mean():
    model, batch = tiny(), toy_batch(toy_comparison(3))
    parameters = model_facts(model).size
    from_conf("head/ensemble", members=3).install(model, 5)
    outputs_N_K = compute_outputs(model, batch)
    for k in range(3):
        assert torch.allclose(outputs_N_K[:, k], compute_rewards(tiny(member_seed(5, k)), batch))
    assert torch.allclose(compute_rewards(model, batch), outputs_N_K.mean(1), atol=1e-6)
    assert member_seed(5, 0) == 5
    assert model_facts(model).size == parameters + 2 * model.config.hidden_size


def test_members_of_a_trained_head_start_from_it():
    model = tiny()
    weight = model.score.weight.clone()
    update_facts(model, fresh_head=False)
    with pytest.raises(UserError, match=r"take head\.bootstrap=true"):
        from_conf("head/ensemble", members=2, bootstrap=False).install(model, 0)
    from_conf("head/ensemble", members=2).install(model, 0)
    assert torch.equal(model.score.weight, weight.expand(2, -1))


@pytest.mark.parametrize("bias", [True, False])
def test_one_head_gives_the_same_rewards(bias):
    torch.manual_seed(0)
    head, hidden = MultiOutputHead(6, bias, "k", ["a", "b", "c"], [0.5, 2, -1]), torch.randn(4, 6)
    assert torch.allclose(head.rewards(head(hidden)), head.single()(hidden)[:, 0], atol=1e-6)


def test_draws_of_a_prompt_depend_on_seed_and_prompt_alone():
    draws = np.stack([prompt_draws(f"prompt {n}", 0, 4) for n in range(4000)])
    assert draws.mean() == pytest.approx(1, abs=0.03)
    assert draws.var() == pytest.approx(1, abs=0.05)
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.06
    assert np.array_equal(prompt_draws("prompt 7", 0, 2), draws[7, :2])
    assert not np.array_equal(draws[:20], [prompt_draws(f"prompt {n}", 1, 4) for n in range(20)])
