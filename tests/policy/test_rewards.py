"""Rewards of answers: the scorer's numbers, whatever was cut, too long or shuffled."""

import math
from types import SimpleNamespace

import pytest

from rmexp.core.errors import UserError
from rmexp.inference.scorer import Scorer
from rmexp.policy.rewards import AnswerGroup, AnswerRewards, RewardFunction, ShuffledRewards
from tests.helpers.options import from_conf
from tests.helpers.toys import tiny_tokenizer

PROMPTS = [({"role": "user", "content": text},) for text in ("What is rain?", "And snow?")]


@pytest.fixture(scope="module")
def scorer():
    tokenizer = tiny_tokenizer()
    model = from_conf("model/tiny").load_model(tokenizer, 0)
    return Scorer(model, tokenizer, "tree", max_length=120)


def test_a_group_is_one_tree_with_the_scorers_rewards(scorer):
    groups = [
        AnswerGroup(PROMPTS[0], ["water", "w", "x"], [True, False, True]),
        AnswerGroup(PROMPTS[1], ["white"], [False]),
    ]
    found = AnswerRewards(scorer, "closed")(groups)
    alone = [scorer.score(g.prompt, [t])[0] for g in groups for t in g.texts]
    assert found == pytest.approx(alone, abs=1e-5)


def test_open_reads_a_cut_answer_at_its_last_token(scorer):
    group = AnswerGroup(PROMPTS[0], ["water", "wat"], [True, False])
    whole, cut = AnswerRewards(scorer, "open")([group])
    assert whole == pytest.approx(scorer.score(PROMPTS[0], ["water"])[0], abs=1e-5)
    assert cut == pytest.approx(scorer.score(PROMPTS[0], ["wat"], unfinished=True)[0], abs=1e-5)
    assert cut != pytest.approx(scorer.score(PROMPTS[0], ["wat"])[0], abs=1e-5)


def test_an_answer_that_is_too_long_costs_only_its_own_reward(scorer):
    rewards = AnswerRewards(scorer, "closed")
    short, long = rewards([AnswerGroup(PROMPTS[0], ["water", "long " * 40], [True, True])])
    assert short == pytest.approx(scorer.score(PROMPTS[0], ["water"])[0], abs=1e-5)
    assert math.isnan(long)


def call(function, texts, number, step=0):
    metrics = {}
    found = function(
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        completion_ids=[[5, 2]] * len(texts),
        number=number,
        log_metric=metrics.__setitem__,
        trainer_state=SimpleNamespace(global_step=step),
    )
    return found, metrics


def test_the_reward_function_speaks_as_trl_does(scorer):
    function = RewardFunction("proxy", AnswerRewards(scorer, "closed"), PROMPTS, [2])
    found, metrics = call(function, ["a", "b", "long " * 40, "c"], [0, 0, 1, 1])
    assert found[:2] == pytest.approx(scorer.score(PROMPTS[0], ["a", "b"]), abs=1e-5)
    assert found[2] is None
    assert found[3] is not None
    assert metrics == {"rewards/proxy/unscored": 0.25}
    with pytest.raises(UserError, match="The proxy can score no answer of a step: 3 dropped"):
        call(function, ["long " * 40] * 2, [0, 1])


def test_shuffled_rewards_are_a_permutation_that_depends_on_the_step(scorer):
    function = RewardFunction("proxy", AnswerRewards(scorer, "closed"), PROMPTS, [2])
    shuffled = ShuffledRewards(function, seed=3)
    texts, number = ["a", "b", "c", "d", "e", "f"], [0, 0, 0, 1, 1, 1]
    found, _ = call(function, texts, number)
    drawn = [call(shuffled, texts, number, step)[0] for step in (0, 0, 1)]
    assert sorted(drawn[0]) == pytest.approx(sorted(found))
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] != found
