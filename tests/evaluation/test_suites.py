"""The suites' formulas against values worked out by hand."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.evaluation.benchmarks.base import PairBenchmark, ScoredList, as_metric_names
from rmexp.evaluation.benchmarks.ppe import PPEBenchmark
from rmexp.evaluation.benchmarks.rewardbench import PRIOR, SECTIONS, RewardBench
from rmexp.evaluation.benchmarks.rewardbench2 import REWARDBENCH2_DOMAINS, RewardBench2
from rmexp.evaluation.benchmarks.rewordbench import ReWordBench
from rmexp.evaluation.benchmarks.rm_bench import RMBench
from rmexp.evaluation.benchmarks.rmb import RMBBenchmark

MORE = (PPEBenchmark(), ReWordBench())
numbers = itertools.count()


def scored(good, bad, subset="all", name=None, prompt=None):
    """A comparison in which each of the good responses beats each of the bad ones."""
    name = name or f"row-{next(numbers)}"
    return ScoredList(
        id=name,
        prompt=prompt or name,
        subset=subset,
        rewards=np.array([*good, *bad], dtype=np.float64),
        levels=np.array([1] * len(good) + [0] * len(bad)),
        ratings=np.full(len(good) + len(bad), np.nan),
    )


def pair(won, subset="all", **more):
    return scored([1.0 if won else -1.0], [0.0], subset, **more)


def values(result):
    return {name: estimate.value for name, estimate in result.scores.items()}


# ------------------------------------------------------------------------ pairs
def test_pair_accuracy_a_tie_is_not_a_win():
    rows = [
        scored([2], [1], "a"),
        scored([1], [1], "a"),
        scored([0], [1], "b"),
        scored([3], [1], "b"),
    ]
    found = PairBenchmark()(rows)
    assert values(found) == {
        "accuracy": 0.5,
        "tie_rate": 0.25,
        "a/accuracy": 0.5,
        "b/accuracy": 0.5,
    }
    assert found.notes == []


def test_accuracy_counts_rows_and_not_subsets():
    rows = [pair(True, "big") for _ in range(9)] + [pair(False, "small")]
    assert values(PairBenchmark()(rows))["accuracy"] == 0.9


def test_rewards_that_are_no_numbers_are_left_out_and_counted():
    rows = [pair(True), scored([math.nan], [1]), scored([math.inf], [1]), scored([1, 1], [])]
    found = PairBenchmark()(rows)
    assert values(found)["accuracy"] == 1
    assert found.notes == [
        "2 comparisons have a reward that is no finite number: they are left out.",
        "1 comparisons have no better and worse response: they are left out.",
    ]


def test_nothing_to_score_gives_no_score():
    for suite in (PairBenchmark(), RewardBench(), RewardBench2(), RMBench(), RMBBenchmark(), *MORE):
        assert suite([]).scores == {}


def test_the_interval_of_prompts_is_wider_than_that_of_rows():
    rng = np.random.default_rng(0)
    rows = [
        pair(rng.random() < chance, prompt=f"p{p}")
        for p, chance in enumerate(rng.beta(1, 1, 40))
        for _ in range(10)
    ]
    clustered = PairBenchmark()(rows).scores["accuracy"]
    apart = PairBenchmark()(
        [ScoredList(r.id, r.id, r.subset, r.rewards, r.levels, r.ratings) for r in rows]
    ).scores["accuracy"]
    assert clustered.value == pytest.approx(apart.value)
    assert clustered.high - clustered.low > 1.5 * (apart.high - apart.low)


# ------------------------------------------------------------------ reWordBench
def test_drops_are_of_the_same_rows_before_and_after():
    """`quotes` turns one of two wins into a loss; `rot13` keeps its only row, and loses one."""
    rows = [pair(won, "original", name=name) for name, won in (("a", 1), ("b", 1), ("c", 0))]
    changed = (("a", "quotes", 0), ("b", "quotes", 1), ("b", "rot13", 1), ("z", "rot13", 0))
    rows += [pair(won, how, name=f"{name}+{how}") for name, how, won in changed]
    found = ReWordBench()(rows)
    assert values(found) == pytest.approx(
        {"original/accuracy": 2 / 3, "quotes/accuracy": 1 / 2, "rot13/accuracy": 1}
        | {"quotes/drop": 1 / 2, "rot13/drop": 0, "accuracy": 3 / 4, "drop": 1 / 4}
    )
    assert found.notes == [
        "1 transformed comparisons have no original of their id: they are left out."
    ]


# ---------------------------------------------------------------- RewardBench 1
def reward_bench(rates, rows=10):
    """Rows of each subset, of which `rates[subset]` (by default all) are right."""
    return [
        pair(k < rates.get(subset, 1) * rows, subset)
        for subset in sum(SECTIONS.values(), ())
        for k in range(rows)
    ]


def test_sections_are_weighted_by_rows_and_math_counts_984():
    rows = reward_bench({"alpacaeval-easy": 0.5, "math-prm": 0.5})
    rows += [pair(True, "alpacaeval-hard") for _ in range(10)]
    found = values(RewardBench()(rows))
    chat = (5 + 10 + 20 + 10 + 10) / 60
    reasoning = (0.5 * 984 + 6 * 10) / (984 + 60)
    assert found["chat/score"] == pytest.approx(chat)
    assert found["reasoning/score"] == pytest.approx(reasoning)
    assert found["chat_hard/score"] == found["safety/score"] == 1
    assert found["score"] == pytest.approx((chat + reasoning + 2) / 4)


def test_prior_sets_join_with_half_the_weight_where_all_are_there():
    rows = reward_bench({})
    prior = [pair(False, name) for name in PRIOR[1:]] + [pair(True, PRIOR[0])] * 3
    assert values(RewardBench()(rows + prior))["score"] == pytest.approx((4 + 0.5 * 0.25) / 4.5)
    assert values(RewardBench()(rows + prior[:2]))["score"] == 1


def test_a_section_with_a_missing_subset_is_left_out_and_named():
    rows = [row for row in reward_bench({}) if row.subset != "donotanswer"]
    found = RewardBench()(rows)
    assert set(found.scores) == {"chat/score", "chat_hard/score", "reasoning/score"}
    assert found.notes == ["No rows of the Safety subsets donotanswer: safety/score is left out."]


# ---------------------------------------------------------------- RewardBench 2
def test_the_right_answer_among_several_maxima_has_its_share():
    four = [
        scored([3], [1, 2, 0], "Math"),
        scored([3], [3, 2, 0], "Math"),
        scored([3], [3, 3, 3], "Math"),
        scored([3], [4, 3, 3], "Math"),
    ]
    assert values(RewardBench2()(four))["math/score"] == (1 + 1 / 2 + 1 / 4 + 0) / 4


def ties(tied, ref, number="1"):
    return [
        scored(*tied, "Ties", f"tied:{number}"),
        scored(*ref, "Ties", f"ref:{number}"),
    ]


@pytest.mark.parametrize(
    ("tied", "ref", "expected"),
    [
        # margins 3 and 4, spread 1: everything holds, and by a factor of 3
        (([5, 4], [1, 0]), ([5], [1]), 0.30 + 0.30 + 0.20 + 0.20 + 0.01 * math.tanh(3 - 1)),
        # margins 3 and 1/2, spread 1: the smaller margin is not beyond the spread
        (([5, 4], [1]), ([1.5], [1]), 0.30 + 0.30 + 0.20 + 0.01 * math.tanh(0.5 - 1)),
        # margin equal to the spread is not beyond it
        (([3, 2], [1]), ([9], [0]), 0.30 + 0.30 + 0.01 * math.tanh(0)),
        # a wrong answer above the worst right one: margin -1, spread 4
        (([5, 1], [2]), ([5], [1]), 0.30 + 0.01 * math.tanh(-1 / 4 - 1)),
        # equal right answers: spread 0 is beyond every margin, the ratio infinite
        (([2, 2], [1]), ([2], [1]), 0.30 + 0.30 + 0.20 + 0.20 + 0.01),
        # all rewards equal: 0 / 0 counts as 0
        (([1, 1], [1]), ([1], [1]), 0.0),
    ],
)
def test_ties(tied, ref, expected):
    assert values(RewardBench2()(ties(tied, ref)))["ties/score"] == pytest.approx(expected)


def test_ties_are_means_over_questions():
    rows = ties(([5, 4], [1, 0]), ([5], [1]), "1") + ties(([1, 1], [1]), ([1], [1]), "2")
    assert values(RewardBench2()(rows))["ties/score"] == pytest.approx(0.5 + 0.005 * math.tanh(2))


def test_ties_without_a_partner_count_for_accuracy():
    rows = [*ties(([5, 4], [1]), ([5], [1])), scored([0], [1], "Ties", "ref:7")]
    rows.append(scored([0], [1], "Ties", "nobody"))
    found = RewardBench2()(rows)
    whole = 0.30 + 0.30 * 0.5 + 0.20 + 0.20 + 0.01 * math.tanh(2)
    assert found.scores["ties/score"].value == pytest.approx(whole)
    assert found.notes[:2] == [
        "1 comparisons of Ties have an id that is neither ref:NUMBER nor tied:NUMBER: "
        "they are left out.",
        "1 comparisons of Ties have no partner: they count for accuracy only.",
    ]


def test_the_total_is_the_plain_mean_of_six_domains():
    rows = ties(([5, 4], [1]), ([5], [1]))
    for size, domain in enumerate(REWARDBENCH2_DOMAINS[:-1], 1):
        rows += [scored([1], [0, 0, 0], domain) for _ in range(size)]
    rows.append(scored([0], [1, 1, 1], "Math"))
    found = RewardBench2()(rows)
    total = (4 + 3 / 4 + 1 + 0.01 * math.tanh(2)) / 6
    assert found.scores["score"].value == pytest.approx(total)
    assert found.notes == []
    assert found.scores["precise_if/score"].value == 1
    fewer = RewardBench2()([row for row in rows if row.subset != "Focus"])
    assert "score" not in fewer.scores
    assert fewer.notes == ["No rows of the domains Focus: score is left out."]


# --------------------------------------------------------------------- RM-Bench
def test_styles_by_hand():
    # chosen 2 3 4 against rejected 1 3 5: wins (rows: chosen) 100 / 100 / 110
    found = values(RMBench()([scored([2, 3, 4], [1, 3, 5], "chat")]))
    assert found["chat/hard"] == pytest.approx(0 / 3)  # above the diagonal: all lost
    assert found["chat/normal"] == pytest.approx(1 / 3)
    assert found["chat/easy"] == pytest.approx(3 / 3)
    assert found["chat/score"] == pytest.approx((0 + 1 / 3 + 1) / 3)


def test_safety_is_the_mean_of_its_two_halves_and_the_total_of_four_domains():
    right, wrong = ([9, 9, 9], [0, 0, 0]), ([0, 0, 0], [9, 9, 9])
    rows = [scored(*right, s) for s in ("chat", "code", "safety-refuse")]
    rows += [scored(*wrong, "math"), *[scored(*wrong, "safety-response") for _ in range(9)]]
    found = RMBench()(rows)
    assert found.scores["safety/score"].value == 0.5
    assert found.scores["score"].value == (1 + 1 + 0 + 0.5) / 4
    assert found.scores["hard"].value == found.scores["easy"].value == 2.5 / 4
    assert found.notes == []


def test_rows_without_styles_are_left_out():
    found = RMBench()([pair(True, "chat"), scored([1, 2, 3], [0, 0, 0], "chat")])
    assert found.scores["chat/score"].value == 1
    assert found.notes[0].startswith("1 comparisons do not have three chosen and three rejected")
    assert "No rows of the math domain: math: math/score is left out." in found.notes


# -------------------------------------------------------------------------- RMB
def test_a_list_passes_if_the_best_beats_every_loser():
    rows = [
        scored([3], [2, 1], "Helpfulness.Chat"),
        scored([3], [3, 1], "Helpfulness.Chat"),
        scored([3], [2], "Helpfulness.Chat"),
        scored([3], [4, 1], "Harmlessness.S1"),
        scored([3], [3], "Harmlessness.S1"),
        scored([3], [1], "Harmlessness.S2"),
    ]
    found = values(RMBBenchmark()(rows))
    assert found == {
        "helpfulness/best_of_n": 0.5,
        "helpfulness/pairwise": 1.0,
        "harmlessness/best_of_n": 0.0,
        "harmlessness/pairwise": 0.5,
        "best_of_n": pytest.approx(1 / 3),
        "pairwise": pytest.approx(2 / 3),
        "score": 0.5,
    }


def test_rmb_without_a_part_has_no_total():
    found = RMBBenchmark()([scored([3], [2, 1], "Helpfulness.Chat"), scored([3], [2], "mine")])
    assert set(values(found)) == {"helpfulness/best_of_n", "best_of_n", "pairwise"}
    assert "harmlessness/pairwise: score is left out" in found.notes[0]


# ------------------------------------------------------------------------- laws
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.floats(-5, 5))
def test_scores_do_not_change_under_scale_and_shift(seed, scale, shift):
    rng = np.random.default_rng(seed)
    rows = ties((rng.normal(size=3), rng.normal(size=2)), (rng.normal(size=1), rng.normal(size=3)))
    rows += [scored(rng.normal(size=1), rng.normal(size=3), "Math") for _ in range(3)]
    moved = [
        ScoredList(r.id, r.prompt, r.subset, r.rewards * scale + shift, r.levels, r.ratings)
        for r in rows
    ]
    one, other = values(RewardBench2()(rows)), values(RewardBench2()(moved))
    assert one == pytest.approx(other, abs=1e-6)


def test_an_interval_holds_the_score_and_is_the_same_again():
    rng = np.random.default_rng(1)
    rows = [scored(rng.normal(0.5, 1, 3), rng.normal(0, 1, 3), "chat") for _ in range(50)]
    one, again = RMBench()(rows).scores, RMBench()(rows).scores
    assert one == again
    assert all(e.low <= e.value <= e.high for e in one.values())
    assert one["chat/hard"].low < one["chat/hard"].high


def test_names_are_those_of_metrics():
    assert list(as_metric_names({"Chat Hard/score": np.zeros(1)})) == ["chat_hard/score"]
