"""Ratings, margins and pairs that look like mistakes."""

import datasets
import pytest

from rmexp.data.odd_labels import odd_labels
from rmexp.data.token_columns import TokenColumns

NAN = float("nan")


def said(rows):
    """The sentences about rows of (ratings, pairs, margins)."""
    ratings, pairs, margins = (list(part) for part in zip(*rows, strict=True))
    table = {"ratings": ratings, "pairs": pairs, "margins": margins}
    return list(odd_labels(TokenColumns(datasets.Dataset.from_dict(table))))


@pytest.mark.parametrize(
    ("ratings", "sentence"),
    [
        ([1, 2, 5, -1, NAN], "1 ratings are -1, the others 1 to 5"),
        ([1, 2, 3, -1e30, -1e30], "2 ratings are -1e+30, the others 1 to 3"),
        ([0, 1, 2, 999], "1 ratings are 999, the others 0 to 2"),
        ([-1, 0, 1], None),
        ([-0.3, 0.1, 0.5, 1.2], None),
        ([1, 5], None),
    ],
)
def test_a_rating_that_may_stand_for_none(ratings, sentence):
    found = said([([float(r) for r in ratings], [[0, 1, 0]], [NAN])])
    assert [line.split(":")[0] for line in found] == ([sentence] if sentence else [])


def test_margins_and_ratings_against_their_pairs():
    rows = [
        ([NAN, NAN], [[0, 1, 1]], [-0.5]),
        ([1.0, 4.0, 5.0], [[0, 1, 1], [2, 0, 1]], [NAN, 2.0]),
        ([3.0, 3.0], [[0, 1, 1]], [NAN]),
        ([2.0, 3.0], [[0, 1, 0]], [NAN]),
    ]
    assert said(rows) == [
        "1 margins are negative: the better answer of a pair has a margin above 0",
        "1 pairs prefer the answer with the lower rating",
    ]
