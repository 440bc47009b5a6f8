"""Losses against values worked out by hand, and their gradients against finite differences."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rmexp.core.errors import UserError
from rmexp.losses import (
    Binary,
    Centring,
    Contrastive,
    Exponential,
    Focal,
    Mix,
    Ordinal,
    Pinball,
    Regression,
    RewardL2,
    SoftBradleyTerry,
    SquaredMargin,
    Ties,
)
from rmexp.training.step_terms import normalise_terms
from tests.helpers.options import from_conf
from tests.helpers.toys import toy_batch, toy_comparison

NAN = math.nan
REWARDS = torch.tensor([2.0, 0.5, 1.0])
PAIRS = {"pairs": [(0, 1, 1), (2, 0, 1)], "weights": [1.0, 3.0]}  # gaps 1.5 and -1


def pairs(**more):
    return toy_batch(toy_comparison(3, **(PAIRS | more)))


def values(loss, batch, term="pairs", rewards=REWARDS):
    return loss(rewards, batch)[term][0].tolist()


def log_sigmoid(x):
    return -math.log1p(math.exp(-x))


# ---------------------------------------------------------------------- pairs
@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (from_conf("loss/bradley_terry"), [-log_sigmoid(1.5), -log_sigmoid(-1.0)]),
        (from_conf("loss/bradley_terry", margin=0.5), [-log_sigmoid(1.0), -log_sigmoid(-1.5)]),
        (
            from_conf("loss/bradley_terry", label_smoothing=0.1),
            [-0.9 * log_sigmoid(g) - 0.1 * log_sigmoid(-g) for g in (1.5, -1.0)],
        ),
        (  # the flipped pair asks for the same lead of the other response
            from_conf("loss/bradley_terry", margin=0.5, label_smoothing=0.1),
            [-0.9 * log_sigmoid(g - 0.5) - 0.1 * log_sigmoid(-g - 0.5) for g in (1.5, -1.0)],
        ),
        (
            from_conf("loss/bradley_terry", margin="data"),
            [-log_sigmoid(-0.5), -log_sigmoid(-1.0)],
        ),
        (from_conf("loss/bradley_terry", scale="data"), [-2 * log_sigmoid(1.5), 0.0]),
        (
            from_conf("loss/bradley_terry", margin="ratings"),
            [-log_sigmoid(1.5 - 3), -log_sigmoid(-1.0 - 1)],
        ),
        (
            from_conf("loss/bradley_terry", scale="ratings"),
            [-3 * log_sigmoid(1.5), -1 * log_sigmoid(-1.0)],
        ),
        (from_conf("loss/contrastive", margin=1.0), [0.0, 2.0]),
        (Contrastive(margin=1.0, squared=True), [0.0, 4.0]),
        (from_conf("loss/contrastive", margin="data"), [0.5, 1.0]),
        (Focal(gamma=0.0), [-log_sigmoid(1.5), -log_sigmoid(-1.0)]),
        (
            Focal(gamma=2.0),
            # sigmoid(1.5) = 0.8176: weight (1 - 2 (0.8176 - 0.5))^2; sigmoid(-1) is under a half
            [(2 / (1 + math.exp(1.5))) ** 2 * -log_sigmoid(1.5), -log_sigmoid(-1.0)],
        ),
        (SquaredMargin(margin=1.0), [0.25, 4.0]),
        (SquaredMargin(margin="data"), [0.25, 1.0]),
        (Exponential(), [math.exp(-1.5), math.e]),
        (Centring(), [6.25, 9.0]),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, list) else "",
)
def test_pairs_by_hand(loss, expected):
    # Response 0 is rated 4, 1 is rated 1, 2 is rated 5: the gaps are 3 and 1.
    batch = pairs(margins=[2.0, 0.0], ratings=[4.0, 1.0, 5.0])
    assert values(loss, batch) == pytest.approx(expected, rel=1e-6)
    assert loss(REWARDS, batch)["pairs"][1].tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "loss",
    [
        from_conf("loss/bradley_terry", margin="data", scale="ratings", centring=0.1),
        from_conf("loss/contrastive", margin="ratings"),
        from_conf("loss/squared_margin", margin="ratings"),
    ],
    ids=lambda loss: type(loss).__name__,
)
@pytest.mark.parametrize("unrated", [NAN, 4.0])
def test_a_pair_without_the_margin_that_is_read_has_no_weight(loss, unrated):
    batch = pairs(margins=[2.0, 1.0], ratings=[4.0, unrated, 5.0])
    rewards = REWARDS.clone().requires_grad_()
    for values, weights in loss(rewards, batch).values():
        assert weights.tolist() == [0.0, 3.0]
        (values * weights).sum().backward(retain_graph=True)
    assert rewards.grad[1] == 0  # of response 1, which only the first pair has
    assert rewards.grad.isfinite().all()


def test_centring_is_a_term_of_its_own():
    terms = from_conf("loss/bradley_terry", centring=0.1)(REWARDS, pairs())
    assert terms["centring"][0].tolist() == pytest.approx([0.1 * 2.5**2, 0.1 * 3.0**2])
    assert set(terms) == {"pairs", "centring"}


def test_k_wise_weighs_every_list_the_same():
    three = toy_comparison(3, pairs=[(0, 1, 1), (0, 2, 1), (1, 2, 1)])
    two = toy_comparison(2, row=1, weight=2.0)
    weights = from_conf("loss/bradley_terry", average="lists")(
        torch.zeros(5), toy_batch(three, two)
    )["pairs"][1]
    assert sorted(weights.tolist()) == pytest.approx([1 / 3, 1 / 3, 1 / 3, 2.0])


def test_soft_targets_are_the_shares_of_the_votes():
    batch = toy_batch(
        toy_comparison(2, pairs=[(0, 1, 1), (0, 1, 0)], votes=[(0.6, 0.2, 0.2), (0.2, 0.4, 0.4)])
    )
    rewards = torch.tensor([1.0, 0.0])
    expected = [-p * log_sigmoid(1) - (1 - p) * log_sigmoid(-1) for p in (0.7, 0.4)]
    assert values(SoftBradleyTerry(), batch, rewards=rewards) == pytest.approx(expected)


@pytest.mark.parametrize("model", ["rao_kupper", "davidson"])
def test_ties_by_hand(model):
    loss, d = Ties(model=model, tie_width=0.7), 1.3
    better, worse = math.exp(d), 1.0
    if model == "rao_kupper":
        theta = math.exp(0.7)
        chances = [better / (better + theta * worse), worse / (worse + theta * better)]
        tie = (theta**2 - 1) * better * worse
        tie /= (better + theta * worse) * (worse + theta * better)
    else:
        tie = 0.7 * math.sqrt(better * worse)
        whole = better + worse + tie
        chances, tie = [better / whole, worse / whole], tie / whole
    assert sum(chances) + tie == pytest.approx(1.0)
    batch = toy_batch(
        toy_comparison(
            2,
            pairs=[(0, 1, 1), (1, 0, 1), (0, 1, 0), (0, 1, 1)],
            votes=[(1, 0, 0), (1, 0, 0), (0, 0, 1), (0.5, 0.25, 0.25)],
        )
    )
    found = values(loss, batch, rewards=torch.tensor([d, 0.0]))
    logs = [-math.log(p) for p in (*chances, tie)]
    mixed = 0.5 * logs[0] + 0.25 * logs[1] + 0.25 * logs[2]
    assert found == pytest.approx([logs[0], logs[1], mixed, logs[2]], rel=1e-5)


def test_without_ties_a_narrow_tie_is_bradley_terry():
    loss = from_conf("loss/ties", tie_width=1e-6)
    assert values(loss, pairs()) == pytest.approx(
        values(from_conf("loss/bradley_terry"), pairs()), rel=1e-4
    )


# ---------------------------------------------------------------------- lists
def likelihood(rewards, order):
    """P(order) by drawing one after another."""
    chance, left = 1.0, list(order)
    for winner in order:
        chance *= math.exp(rewards[winner]) / sum(math.exp(rewards[k]) for k in left)
        left.remove(winner)
    return chance


def listed(levels, **more):
    return toy_batch(toy_comparison(len(levels), pairs=[], rank_levels=levels, **more))


def test_plackett_luce_by_hand():
    rewards = [0.3, -1.0, 2.0, 0.5]
    (value,) = values(
        from_conf("loss/plackett_luce"), listed([2, 0, 3, 1]), "lists", torch.tensor(rewards)
    )
    assert value == pytest.approx(-math.log(likelihood(rewards, [2, 0, 3, 1])))


def test_a_partial_ranking_is_the_sum_over_all_that_agree_with_it():
    rewards = [0.3, -1.0, 2.0, 0.5]
    (value,) = values(
        from_conf("loss/plackett_luce"), listed([1, 0, 2, 0]), "lists", torch.tensor(rewards)
    )
    agreeing = [[2, 0, *rest] for rest in itertools.permutations([1, 3])]
    assert value == pytest.approx(-math.log(sum(likelihood(rewards, o) for o in agreeing)))


def test_ties_at_the_top_by_efron():
    r = [0.3, -1.0, 2.0]
    (value,) = values(from_conf("loss/plackett_luce"), listed([1, 0, 1]), "lists", torch.tensor(r))
    tied, rest = math.exp(r[0]) + math.exp(r[2]), math.exp(r[1])
    assert value == pytest.approx(math.log(tied + rest) + math.log(tied / 2 + rest) - r[0] - r[2])


def test_what_stands_outside_of_the_order_is_not_seen():
    rewards = torch.tensor([0.3, -1.0, 2.0])
    for loss in (from_conf("loss/plackett_luce"), from_conf("loss/infonce")):
        whole = values(loss, listed([1, 0]), "lists", rewards[:2])
        assert values(loss, listed([1, 0, -1]), "lists", rewards) == pytest.approx(whole)


def test_a_list_of_two_is_bradley_terry():
    rewards = torch.tensor([0.3, -1.0])
    for loss in (from_conf("loss/plackett_luce"), from_conf("loss/infonce")):
        assert values(loss, listed([1, 0]), "lists", rewards) == pytest.approx([-log_sigmoid(1.3)])


def test_short_lists_can_be_left_to_another_loss():
    pair, three = (
        toy_comparison(2, pairs=[], rank_levels=[1, 0]),
        toy_comparison(3, row=1, pairs=[], rank_levels=[2, 1, 0]),
    )
    rewards = torch.tensor([0.3, -1.0, 2.0, 0.5, 0.1])
    for name in ("loss/plackett_luce", "loss/infonce"):
        found = values(from_conf(name, at_least=3), toy_batch(pair, three), "lists", rewards)
        assert len(found) == 1
        assert len(values(from_conf(name), toy_batch(pair, three), "lists", rewards)) == 2


def test_infonce_by_hand():
    r, tau = [0.3, -1.0, 2.0, 1.0], 0.5
    e = [math.exp(x / tau) for x in r]
    (value,) = values(
        from_conf("loss/infonce", temperature=tau),
        listed([2, 0, 2, 1]),
        "lists",
        torch.tensor(r),
    )
    each = [-math.log(e[k] / (e[k] + e[1] + e[3])) for k in (0, 2)]
    assert value == pytest.approx(sum(each) / 2)


def test_lists_of_a_micro_batch_do_not_mix():
    one, two = (
        toy_comparison(3, pairs=[], rank_levels=[2, 1, 0], weight=0.5),
        toy_comparison(2, row=1, pairs=[], rank_levels=[0, 1]),
    )
    none = toy_comparison(2, row=2, pairs=[], rank_levels=[-1, -1])
    rewards = torch.tensor([0.1, 0.7, -0.4, 2.0, 1.0, 5.0, 6.0])
    for loss in (from_conf("loss/plackett_luce"), from_conf("loss/infonce")):
        found, weights = loss(rewards, toy_batch(one, none | {"row": 2}, two))["lists"]
        alone = [
            *values(loss, toy_batch(one), "lists", rewards[:3]),
            *values(loss, toy_batch(two), "lists", rewards[5:]),
        ]
        assert found.tolist() == pytest.approx(alone)
        assert weights.tolist() == [0.5, 1.0]


# -------------------------------------------------------------------- ratings
def rated(ratings, **more):
    return toy_batch(toy_comparison(len(ratings), pairs=[], ratings=ratings, **more))


def test_regression_on_the_scale_of_the_training_rows():
    loss, batch = from_conf("loss/regression"), rated([1.0, NAN, 5.0], weight=2.0)
    learn(loss, [1.0, 5.0])  # mean 3, standard deviation 2: targets -1 and 1
    found, weights = loss(torch.tensor([0.5, 9.0, 0.0]), batch)["ratings"]
    assert found.tolist() == [2.25, 1.0]
    assert weights.tolist() == [2.0, 2.0]
    huber = Regression(distance="huber", delta=0.5)
    learn(huber, [1.0, 5.0])
    found, _ = huber(torch.tensor([0.5, 9.0, 0.75]), batch)["ratings"]
    assert found.tolist() == pytest.approx([2 * 0.5 * 1.5 - 0.25, 0.0625])


def test_ordinal_by_hand_and_starts_at_the_frequencies():
    loss = Ordinal()
    learn(loss, [1, 1, 2, 3, 3, 3, 3, 3.0])  # 2, 1 and 5 of 8
    start = loss(torch.zeros(3), rated([1.0, 2.0, 3.0]))["ratings"][0]
    assert (-start).exp().tolist() == pytest.approx([2 / 8, 1 / 8, 5 / 8], rel=1e-5)
    low, high = loss.cuts().tolist()
    r = 0.4
    found = values(loss, rated([1.0, 2.0, 3.0]), "ratings", torch.full((3,), r))
    cumulated = [1 / (1 + math.exp(r - cut)) for cut in (low, high)]
    expected = [cumulated[0], cumulated[1] - cumulated[0], 1 - cumulated[1]]
    assert found == pytest.approx([-math.log(p) for p in expected], rel=1e-5)


def test_binary_weighs_both_classes_the_same():
    loss = from_conf("loss/binary")
    learn(loss, [1.0, 0.0, 0.0, 0.0])
    found, weights = loss(torch.tensor([2.0, 2.0]), rated([1.0, 0.0], weight=3.0))["ratings"]
    expected = [2 * -log_sigmoid(2.0), 2 / 3 * -log_sigmoid(-2.0)]
    assert found.tolist() == pytest.approx(expected)
    assert weights.tolist() == [3.0, 3.0]  # not here: a step divides by its weights


def test_what_is_drawn_more_often_counts_more_in_what_is_learnt():
    loss = from_conf("loss/binary")
    learn(loss, [1.0, 0.0, 0.0, 0.0], weights=[3.0, 1.0, 1.0, 1.0])  # balanced by the draws
    assert loss.class_weights.tolist() == [1.0, 1.0]
    loss = from_conf("loss/regression")
    learn(loss, [0.0, 4.0], weights=[3.0, 1.0])
    assert (float(loss.mean), float(loss.std)) == pytest.approx((1.0, 3**0.5))


def learn(loss, ratings, weights=None):
    loss.fit_to_ratings(
        np.asarray(ratings), np.ones(len(ratings)) if weights is None else np.array(weights)
    )


def test_pinball_by_hand():
    """Ratings 1 and 3 are -1 and 1 standardised; a reward below the rating costs q a unit."""
    loss = from_conf("loss/pinball", quantile=0.9)
    learn(loss, [1.0, 3.0])
    batch = toy_batch(toy_comparison(3, pairs=[], ratings=[1.0, 3.0, math.nan]))
    values, _ = loss(torch.tensor([0.5, 0.5, 9.0]), batch)["ratings"]
    assert values.tolist() == pytest.approx([0.1 * 1.5, 0.9 * 0.5])


@pytest.mark.parametrize(
    ("loss", "ratings", "sentence"),
    [
        (from_conf("loss/regression"), [4.2] * 10, "All training rows have the rating 4.2"),
        (Ordinal(), np.arange(30.0), "needs 2 to 20 different ratings, and the training rows have"),
        (Ordinal(), [2.0], "have 1"),
        (
            from_conf("loss/binary"),
            [1.0, 1.0],
            "all training rows are rated above loss.threshold=0.5",
        ),
        (from_conf("loss/binary", threshold=3), [1.0, 2.0], "rated at most loss.threshold=3"),
    ],
)
def test_ratings_that_teach_nothing_are_refused(loss, ratings, sentence):
    with pytest.raises(UserError, match=sentence):
        learn(loss, ratings)


# ------------------------------------------------------------------------ all
def mixture():
    loss = Mix(
        {
            "pairs": from_conf("loss/bradley_terry"),
            "ratings": from_conf("loss/regression"),
            "lists": from_conf("loss/plackett_luce"),
            "none": None,
        },
        {"ratings": 0.5},
    )
    learn(loss, [1.0, 2.0, 4.0])
    return loss


def learnt(loss):
    learn(loss, [1.0, 2.0, 4.0])
    return loss


LOSSES = [
    from_conf("loss/bradley_terry", margin=0.7, label_smoothing=0.1, centring=0.1, average="lists"),
    from_conf("loss/bradley_terry", margin="data", scale="ratings"),
    from_conf("loss/contrastive", margin=1.3),
    Contrastive(1.3, squared=True),
    from_conf("loss/focal"),
    Focal(0.5),
    SoftBradleyTerry(),
    from_conf("loss/ties"),
    from_conf("loss/ties", model="davidson"),
    from_conf("loss/squared_margin"),
    Exponential(),
    from_conf("loss/plackett_luce"),
    from_conf("loss/infonce", temperature=0.5),
    learnt(from_conf("loss/regression")),
    learnt(Regression("huber", 0.3)),
    learnt(from_conf("loss/pinball", quantile=0.3)),
    learnt(Ordinal()),
    from_conf("loss/binary", threshold=1.5),
    mixture(),
    Centring(),
    RewardL2(),
]


def everything():
    """Pairs, ties, margins, votes, ratings and orders in one micro-batch."""
    first = toy_comparison(
        3,
        pairs=[(0, 1, 1), (2, 0, 1), (1, 2, 0)],
        margins=[0.5, 1.5, NAN],
        votes=[(0.8, 0.2, 0.0), (0.5, 0.2, 0.3), (0.3, 0.3, 0.4)],
        weights=[1.0, 3.0, 2.0],
        ratings=[2.0, 1.0, 4.0],
        rank_levels=[1, 0, 2],
    )
    return toy_batch(
        first,
        toy_comparison(2, row=1, ratings=[1.0, NAN], rank_levels=[1, 0], margins=[0.2])
        | {"pairs": [], "margins": [], "votes": [], "weights": []},
    )


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_gradients(loss):
    batch, loss = everything(), loss.double()
    rewards = torch.tensor([2.0, 0.5, 1.0, -0.3, 0.4], dtype=torch.float64, requires_grad=True)
    totals = loss.total_weights([batch])
    own = tuple(loss.parameters())
    assert torch.autograd.gradcheck(
        lambda r, *_: normalise_terms(loss(r, batch), totals), (rewards, *own), atol=1e-4, rtol=1e-3
    )
    loss.float()


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("scale", [0.0, 1e4, 1e15])
def test_extreme_rewards_stay_finite(loss, scale):
    rewards = (torch.tensor([2.0, 0.5, -1.0, -0.3, 0.4]) * scale).requires_grad_()
    batch = everything()
    value = normalise_terms(loss(rewards, batch), loss.total_weights([batch]))
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(rewards.grad).all()
    for parameter in loss.parameters():
        assert torch.isfinite(parameter.grad).all()
        parameter.grad = None


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: type(loss).__name__)
def test_a_better_reward_never_costs_more_than_it_did(loss):
    """A step down the gradient raises the chosen and lowers the rejected, wherever that matters."""
    if type(loss) in (Centring, RewardL2, Regression, Pinball, Ordinal, Binary, Mix):
        return
    batch = toy_batch(toy_comparison(2, rank_levels=[1, 0], margins=[0.5], ratings=[2.0, 1.0]))
    rewards = torch.tensor([0.0, 0.2], requires_grad=True)
    normalise_terms(loss(rewards, batch), loss.total_weights([batch])).backward()
    assert rewards.grad[0] < 0 < rewards.grad[1]


@pytest.mark.slow
@given(st.lists(st.floats(-30, 30, width=32), min_size=2, max_size=6), st.floats(-5, 5, width=32))
def test_losses_over_differences_do_not_see_a_shift(rewards, shift):
    rewards = torch.tensor(rewards)
    count = len(rewards)
    batch = toy_batch(
        toy_comparison(
            count,
            pairs=[(k, k + 1, k % 2) for k in range(count - 1)],
            rank_levels=list(range(count)),
        )
    )
    for loss in (
        from_conf("loss/bradley_terry"),
        from_conf("loss/contrastive"),
        from_conf("loss/focal"),
        from_conf("loss/ties"),
        from_conf("loss/plackett_luce"),
        from_conf("loss/infonce"),
    ):
        for one, other in zip(
            loss(rewards, batch).values(), loss(rewards + shift, batch).values(), strict=True
        ):
            assert torch.allclose(one[0], other[0], atol=1e-3, rtol=1e-3)


def test_a_term_without_units_adds_nothing():
    batch = toy_batch(toy_comparison(2, pairs=[]))
    for loss in LOSSES:
        totals = loss.total_weights([batch])
        assert all(total == 0 for term, total in totals.items() if "responses" not in term)


def test_a_mix_normalises_each_loss_by_its_own_units():
    loss, batch = mixture(), everything()
    rewards = torch.tensor([2.0, 0.5, 1.0, -0.3, 0.4])
    totals = loss.total_weights([batch])
    parts = {
        "pairs": (from_conf("loss/bradley_terry"), 1.0),
        "ratings": (learnt(from_conf("loss/regression")), 0.5),
    }
    parts["lists"] = (from_conf("loss/plackett_luce"), 1.0)
    alone = sum(
        weight * normalise_terms(part(rewards, batch), part.total_weights([batch]))
        for part, weight in parts.values()
    )
    assert float(normalise_terms(loss(rewards, batch), totals)) == pytest.approx(float(alone))
    assert set(totals) == {"pairs.pairs", "ratings.ratings", "lists.lists"}


def test_a_mix_checks_its_names():
    with pytest.raises(UserError, match=r"loss.weights names pears; loss.losses has pairs"):
        Mix({"pairs": from_conf("loss/bradley_terry")}, {"pears": 1.0})
    with pytest.raises(UserError, match="one of them is above 0"):
        Mix({"pairs": from_conf("loss/bradley_terry")}, {"pairs": 0.0})
    with pytest.raises(UserError, match="has no loss"):
        Mix({"pairs": None})


def test_needs():
    assert from_conf("loss/bradley_terry", margin="data").required() == ("pairs", "margins")
    assert from_conf("loss/bradley_terry", scale="ratings").required() == ("pairs", "ratings")
    assert from_conf("loss/bradley_terry", margin=0.5).unmet({"pairs"}) == ()
    assert from_conf("loss/ties").unmet({"pairs", "lists"}) == ("ties",)
    assert mixture().unmet({"ratings"}) == ()
    greedy = Mix(
        {
            "pairs": from_conf("loss/bradley_terry", margin="ratings"),
            "lists": from_conf("loss/plackett_luce"),
        }
    )
    assert greedy.unmet({"pairs", "lists"}) == ("ratings",)
    assert set(mixture().unmet({"ties"})) == {"pairs", "ratings", "lists"}


def test_a_margin_of_zero_warns():
    with pytest.warns(UserWarning, match="constant rewards minimise it"):
        from_conf("loss/contrastive", margin=0.0)


@pytest.mark.parametrize(
    "loss", [from_conf("loss/ties", tie_width=0.3), learnt(Ordinal()), mixture()], ids=str
)
def test_what_a_loss_learnt_is_kept_as_numbers(loss):
    fresh = {Ties: lambda: from_conf("loss/ties"), Ordinal: Ordinal, Mix: mixture}[type(loss)]()
    fresh.take_state(loss.state())
    batch, rewards = everything(), torch.tensor([2.0, 0.5, 1.0, -0.3, 0.4])
    for term, (values_U, _) in loss(rewards, batch).items():
        assert torch.equal(fresh(rewards, batch)[term][0], values_U)
