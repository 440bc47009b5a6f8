"""Studies of best-of-n: joined candidates, standardised ensembles, verdicts on known worlds."""

import numpy as np
import pytest

from rmexp.analysis.best_of_n.candidates import CandidateSet, candidate_set
from rmexp.analysis.best_of_n.study import best_of_n_study, doublings, fit_grid
from rmexp.analysis.best_of_n.verdicts import real_until, verdicts
from rmexp.comparison import Comparison
from rmexp.core.errors import UserError, collect_fallbacks
from rmexp.evaluation.aggregate import Aggregation, standardised


def comparison(n, count):
    texts = tuple(({"role": "assistant", "content": "a" * (k + 1)},) for k in range(count))
    return Comparison(str(n), ({"role": "user", "content": f"prompt {n}"},), texts)


def world(rewards, gold, most):
    """A candidate set of (P, K) arrays."""
    prompts, count = gold.shape
    rows = np.repeat(np.arange(prompts), count)
    return CandidateSet(
        rows, np.array([f"p{n:04}" for n in range(prompts)]), gold.ravel(),
        np.full(gold.size, 10), {n: standardised(x.ravel(), rows, n) for n, x in rewards.items()},
        most,
    )  # fmt: skip


def test_only_prompts_with_all_rewards_and_the_usual_number_of_responses_count():
    given = [comparison(n, count) for n, count in enumerate([3, 3, 2, 1, 3, 4])]
    rewards = {n: [float(k) for k in range(len(one.responses))] for n, one in enumerate(given)}
    gold = {n: values for n, values in rewards.items() if n != 4}
    notes = list[str]()
    with collect_fallbacks(notes.append):
        found = candidate_set(given, gold, {"a": rewards, "b": rewards}, [Aggregation("mean", 0.5)])
    assert found.most == 3
    assert found.rows_N.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2, 2]
    assert found.lengths_N.tolist() == [1, 2, 3, 1, 2, 3, 1, 2, 3, 4]
    assert list(found.rewards) == ["a", "b", "mean"]
    assert [note.split(":")[0] for note in notes] == [
        "1 of 6 prompts have no gold reward, or none of some model, for each of their responses",
        "2 of 5 prompts have fewer than 3 responses, which most have",
    ]


def test_nothing_to_choose_from_is_one_sentence():
    given = [comparison(n, 1) for n in range(3)]
    rewards = {n: [1.0] for n in range(3)}
    with pytest.raises(UserError, match=r"None of 3 prompts has two or more responses"):
        candidate_set(given, rewards, {"a": rewards}, [])


def test_ensembles_follow_their_formulas():
    given = [comparison(0, 3)]
    members = {"a": {0: [0.0, 1.0, 2.0]}, "b": {0: [2.0, 0.0, 4.0]}}
    ensembles = Aggregation.of_each(["mean", "min", "lcb"], 2.0)
    found = candidate_set(given, {0: [1.0, 2.0, 3.0]}, members, ensembles).rewards
    both = np.stack([found["a"], found["b"]])
    assert found["mean"] == pytest.approx(both.mean(0))
    assert found["min"] == pytest.approx(both.min(0))
    assert found["lcb"] == pytest.approx(both.mean(0) - 2.0 * both.std(0))


def test_grids():
    assert doublings(64) == [1, 2, 4, 8, 16, 32, 64]
    assert doublings(24) == [1, 2, 4, 8, 16, 24]
    assert doublings(2) == [1, 2]
    assert fit_grid(2) == [2]
    assert fit_grid(64)[-1] == 64


def test_a_reward_that_ends_in_hacks_peaks_and_a_random_one_gains_nothing():
    rng = np.random.default_rng(0)
    gold = rng.normal(size=(200, 32))
    hacked = rng.random(gold.shape) < 0.05  # the reward loves them, gold does not
    worse = np.where(hacked, gold - 3, gold)
    rewards = {
        "hacked": np.where(hacked, 10 + rng.normal(size=gold.shape), gold),
        "random": rng.normal(size=gold.shape),
        "close": worse + 0.3 * rng.normal(size=gold.shape),
    }
    study = best_of_n_study(world(rewards, worse, 32))
    hacked, random, close = (study.choosers[name] for name in rewards)
    assert 2 <= hacked.peak.value <= 6
    assert hacked.peak.high < 32
    assert real_until(hacked) in (2, 4)
    assert real_until(random) is None
    assert real_until(close) == 32
    assert close.peak.value == 32
    assert [one.better for one in study.tests] == ["close", "close"]
    assert all(one.p < 0.01 for one in study.tests)
    said = "\n".join(verdicts(study))
    assert "hacked: gold falls significantly as n goes from" in said
    assert "random: its choice is not shown to be better than a blind pick" in said
    assert "close: its gain is real up to n = 32" in said
    assert "close chooses better than hacked" in said
    for one in (hacked, random, close):
        assert one.curves["win_rate"][0].value == pytest.approx(0.5)
        assert one.curves["gain"][0] == pytest.approx((0, 0, 0), abs=1e-12)
    oracle = study.oracle
    assert oracle.curves["gold"][-1].value == pytest.approx(worse.max(1).mean())
    assert oracle.fits["gold"][0].value == pytest.approx(oracle.fits["reward"][0].value)


def test_one_prompt_has_no_interval():
    study = best_of_n_study(world({"a": np.arange(4.0)[None]}, np.arange(4.0)[None], 4))
    assert study.choosers["a"].curves["gold"][-1].value == 3
    assert np.isnan(study.choosers["a"].peak.low)
    assert "one prompt: no interval" in verdicts(study)[0]
