"""Losses against values worked out by hand, and their gradients against finite differences."""

import math

import pytest
import torch

from rmexp.losses import BradleyTerry, Contrastive
from rmexp.module import normalised
from tests.toys import toy_batch

REWARDS = torch.tensor([2.0, 0.5, 1.0])
BATCH = {"pairs": [(0, 1), (2, 0)], "weights": [1.0, 3.0]}  # gaps 1.5 and -1


def test_bradley_terry_by_hand():
    values, weights = BradleyTerry()(REWARDS, toy_batch(3, **BATCH))["pairs"]
    assert values.tolist() == pytest.approx([math.log1p(math.exp(-1.5)), math.log1p(math.exp(1.0))])
    assert weights.tolist() == [1.0, 3.0]


def test_bradley_terry_with_a_margin_by_hand():
    values, _ = BradleyTerry(margin=0.5)(REWARDS, toy_batch(3, **BATCH))["pairs"]
    assert values.tolist() == pytest.approx([math.log1p(math.exp(-1.0)), math.log1p(math.exp(1.5))])


def test_contrastive_by_hand():
    values, _ = Contrastive(margin=1.0)(REWARDS, toy_batch(3, **BATCH))["pairs"]
    assert values.tolist() == [0.0, 2.0]


def test_margins_from_the_data():
    batch = toy_batch(3, **BATCH, margins=[2.0, 0.0])
    assert Contrastive(margin="data")(REWARDS, batch)["pairs"][0].tolist() == [0.5, 1.0]
    assert BradleyTerry(margin="data").needs_margins
    assert not BradleyTerry(margin=0.5).needs_margins


def test_a_margin_of_zero_warns():
    with pytest.warns(UserWarning, match="constant rewards minimise it"):
        Contrastive(margin=0.0)


@pytest.mark.parametrize("loss", [BradleyTerry(), BradleyTerry(0.7), Contrastive(1.3)], ids=str)
def test_gradients(loss):
    batch = toy_batch(3, **BATCH)
    totals = loss.total_weights([batch])
    rewards = REWARDS.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda r: normalised(loss(r, batch), totals), rewards)


@pytest.mark.parametrize("loss", [BradleyTerry(), Contrastive()], ids=str)
@pytest.mark.parametrize("scale", [1e4, 1e30])
def test_extreme_rewards_stay_finite(loss, scale):
    rewards = (REWARDS * scale).requires_grad_()
    value = normalised(loss(rewards, toy_batch(3, **BATCH)), {"pairs": 4.0})
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(rewards.grad).all()


def test_a_term_without_units_adds_nothing():
    batch = toy_batch(2, pairs=[])
    assert BradleyTerry().total_weights([batch]) == {"pairs": 0.0}
