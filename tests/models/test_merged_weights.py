"""The mean of models: exact, with one member in memory at a time."""

import weakref

import pytest
import torch
from torch import nn

from rmexp.core.errors import UserError
from rmexp.models.merged_weights import MergedWeights


class Source:
    """Loads a linear layer of one value; one at a time."""

    def __init__(self, alive, value, width=2):
        self.alive, self.value, self.width = alive, value, width

    def load_model(self, tokenizer, seed):
        assert not self.alive, "two members are in memory"
        model = nn.Linear(self.width, 1)
        model.register_buffer("positions", torch.arange(3))
        nn.init.constant_(model.weight, self.value)
        nn.init.constant_(model.bias, -self.value)
        self.alive.add(model)
        return model


def merged(*members):
    """Members as (value, share, ...)."""
    alive = weakref.WeakSet()
    sources = [(Source(alive, value, *width), share) for value, share, *width in members]
    return MergedWeights(base=None, members={f"m{n}": source for n, source in enumerate(sources)})


def test_the_mean_has_the_shares_and_one_member_is_loaded_at_a_time():
    model = merged((1.0, 0.5), (3.0, 0.25), (7.0, 0.25)).load_model(None, 0)
    assert model.weight.tolist() == [[3.0, 3.0]]
    assert model.bias.tolist() == [-3.0]
    assert model.positions.tolist() == [0, 1, 2]


def test_other_weights_are_refused():
    with pytest.raises(UserError, match=r"m1 has other weights than the first of the runs"):
        merged((1.0, 0.5), (1.0, 0.5, 3)).load_model(None, 0)
