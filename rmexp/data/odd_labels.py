"""Labels that can be read and look like mistakes."""

from collections.abc import Iterator

import numpy as np

from rmexp.data.token_columns import TokenColumns

FEW = 20  # distinct values up to which ratings are a scale
FAR = 10  # spans of the other ratings from which one lies apart


def odd_labels(columns: TokenColumns) -> Iterator[str]:
    """A sentence on ratings that may stand for a missing one, on negative margins, and on pairs
    whose better answer has the lower rating."""
    ratings, starts = columns.flat("ratings")
    yield from _apart(ratings[~np.isnan(ratings)])
    margins, _ = columns.flat("margins")
    if below := int((margins < 0).sum()):
        yield f"{below} margins are negative: the better answer of a pair has a margin above 0"
    pairs, row_of = columns.pairs()
    better, worse = (ratings[starts[row_of] + pairs[:, side]] for side in (0, 1))
    if against := int(((better < worse) & (pairs[:, 2] == 1)).sum()):
        yield f"{against} pairs prefer the answer with the lower rating"


def _apart(ratings: np.ndarray) -> Iterator[str]:
    values, counts = np.unique(ratings, return_counts=True)
    if len(values) < 3:
        return
    for end, rest in ((0, values[1:]), (-1, values[:-1])):
        value, low, high = values[end], rest[0], rest[-1]
        distance = low - value if end == 0 else value - high
        scale = len(values) <= FEW and float(value).is_integer()
        sentinel = scale and end == 0 and value < 0 <= low and high > -value
        if sentinel or distance > FAR * max(high - low, 1.0):
            yield (
                f"{counts[end]} ratings are {value:g}, the others {low:g} to {high:g}: write null "
                "if that stands for no rating"
            )
