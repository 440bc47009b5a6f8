"""Labels that the ratings of an attribute make, against values worked out by hand."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.comparison import Comparison
from rmexp.losses.attributes import AttributeLosses, rating_levels, rating_pairs
from tests.helpers.options import from_conf

NAN = math.nan
RATINGS = st.lists(
    st.lists(st.sampled_from([None, 1.0, 2.0, 3.0]), min_size=1, max_size=5), min_size=1, max_size=4
)


def batch_of(*rows):
    """Comparisons of one attribute (or of several: a list of lists)."""
    found = []
    for k, ratings in enumerate(rows):
        columns = ratings if isinstance(ratings[0], list) else [ratings]
        tokens = [[k + 1, n + 1] for n in range(len(columns[0]))]
        own = {"attributes": [[NAN if r is None else r for r in each] for each in columns]}
        found.append({**unlabelled_row(tokens), **own, "row": k, "weight": k + 1.0})
    return Collate(0, 10_000, BatchLayout("padded"), 2)(found).batches[0]


def test_pairs_are_the_responses_of_one_row_that_are_rated_otherwise():
    ratings_N = torch.tensor([2.0, 1.0, 2.0, NAN, 5.0, 7.0])
    list_N = torch.tensor([0, 0, 0, 0, 1, 1])
    better_P, worse_P, tied_Q_2 = rating_pairs(ratings_N, list_N)
    assert sorted(zip(better_P.tolist(), worse_P.tolist(), strict=True)) == [(0, 1), (2, 1), (5, 4)]
    assert tied_Q_2.tolist() == [[0, 2]]
    assert rating_levels(ratings_N, list_N).tolist() == [1, 0, 1, -1, 0, 1]


@given(rows=RATINGS)
def test_levels_are_those_of_a_comparison_with_these_ratings(rows):
    ratings_N = torch.tensor([NAN if r is None else r for row in rows for r in row])
    list_N = torch.tensor([k for k, row in enumerate(rows) for _ in row])
    expected = []
    for row in rows:
        one = Comparison("", ({},), tuple(({},) for _ in row), ratings=tuple(row))
        expected += [-1 if level is None else level for level in one.rank_levels()]
    assert rating_levels(ratings_N, list_N).tolist() == expected


def test_each_output_is_trained_by_its_own_ratings_and_missing_ones_do_not_count():
    batch = batch_of([[1.0, 3.0], [None, 5.0]], [[2.0], [None]])
    order = [batch.items_N.tolist().index(0), batch.items_N.tolist().index(1)]
    one = from_conf("loss/regression")
    loss = AttributeLosses([one, from_conf("loss/regression")], ["a", "b"], [0, 1])
    outputs_N_2 = torch.zeros(3, 2)
    terms = loss.of_outputs(outputs_N_2, batch)
    values_U, weights_U = terms["a.ratings"]  # the mean of two losses
    expected = [(0.5, 1.0), (4.5, 1.0), (2.0, 2.0)]
    found = list(zip(values_U.tolist(), weights_U.tolist(), strict=True))
    assert sorted(found) == sorted(expected), order
    values_U, weights_U = terms["b.ratings"]
    assert (values_U.tolist(), weights_U.tolist()) == ([12.5], [1.0])
    assert loss.total_weights([batch]) == {"a.ratings": 4.0, "b.ratings": 1.0}


def test_pair_losses_read_the_pairs_of_each_attribute():
    batch = batch_of([[1.0, 3.0], [5.0, 4.0]])
    losses = [from_conf("loss/bradley_terry") for _ in range(2)]
    outputs_2_2 = torch.tensor([[0.0, 1.0], [2.0, 0.0]])
    terms = AttributeLosses(losses, ["a", "b"], [0, 1]).of_outputs(outputs_2_2, batch)
    for name, gap in (("a", 2.0), ("b", 1.0)):
        values_P, weights_P = terms[f"{name}.pairs"]
        torch.testing.assert_close(values_P, torch.tensor([math.log1p(math.exp(-gap)) / 2]))
        assert weights_P.tolist() == [1.0]
