"""The order of rows in a file changes no metric, and no interval."""

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.data.token_dataset import TOKEN_SCHEMA
from rmexp.evaluation.calibration import fit_calibration
from rmexp.evaluation.metric_values import compute_metrics, slow_metrics
from rmexp.evaluation.scored_set import EVAL_COLUMNS, eval_labels

pytestmark = pytest.mark.slow

weights = st.sampled_from([0.0, 0.5, 1.0, 3.0])
rewards = st.sampled_from([-2.0, -0.5, 0.0, 0.25, 1.0, 7.0])


@st.composite
def rows(draw):
    """Comparisons with pairs, ties, ratings and ranks, as evaluation reads them."""
    found = []
    for _ in range(draw(st.integers(1, 12))):
        count = draw(st.integers(1, 4))
        both = [(i, j) for i in range(count) for j in range(i)]
        pairs = draw(st.lists(st.sampled_from(both), unique=True)) if both else []
        grades = draw(st.lists(st.sampled_from([1.0, 2.0, 4.0]), min_size=count, max_size=count))
        ranks = sorted(set(grades))
        found.append(
            {
                "subset": draw(st.sampled_from("ab")),
                "prompt_key": draw(st.sampled_from(["p", "q", "r", "s"])),
                "lengths": [draw(st.integers(1, 9)) for _ in range(count)],
                "style": [[draw(st.integers(0, 3)) for _ in range(4)] for _ in range(count)],
                "ratings": grades if draw(st.booleans()) else [float("nan")] * count,
                "rank_levels": [ranks.index(g) for g in grades],
                "pairs": [[i, j, draw(st.integers(0, 1))] for i, j in pairs],
                "weights": [draw(weights) for _ in pairs],
                "weight": draw(weights),
                "rewards": [draw(rewards) for _ in range(count)],
            }
        )
    return found


def evaluate(found):
    """All metrics of a set, with their intervals."""
    features = datasets.Features({name: TOKEN_SCHEMA[name] for name in EVAL_COLUMNS})
    columns = [{name: row[name] for name in EVAL_COLUMNS} for row in found]
    table = datasets.Dataset.from_list(columns, features=features)
    labels = eval_labels(table, np.arange(len(found)))
    scored = labels.with_rewards({n: row["rewards"] for n, row in enumerate(found)})
    scale = fit_calibration(scored.rewards_N, scored.ratings_N, scored.gaps_P, scored.weights_P)
    return compute_metrics(scored, scale) | slow_metrics(scored)


@settings(max_examples=settings.default.max_examples * 2 // 5)
@given(rows(), st.randoms(use_true_random=False))
def test_two_orders_of_the_same_rows_give_the_same_evaluation(found, draw):
    shuffled = draw.sample(found, len(found))
    assert evaluate(shuffled) == pytest.approx(evaluate(found), rel=1e-6, abs=1e-9)
