"""Ratings of several attributes: the field `ratings` of a row, where it is an object."""

from collections.abc import Mapping
from typing import Any

from rmexp.data.formats.fields import check_unicode, column_of, decoded, is_unrated, rating_field
from rmexp.data.sources import BadRow

Ratings = tuple[float | None, ...]
"""The rating of each response; None: unrated."""


def attribute_ratings(row: Mapping[str, Any], count: int, sign: float = 1.0) -> dict[str, Ratings]:
    """Attribute -> `sign` times the rating of each response, where `ratings` is an object.

    An attribute has a list, with null where a response is unrated; for a single response a number
    will do. Null stands for none rated. Other `ratings` have no attributes.
    """
    column, given = column_of(row, "ratings"), decoded(row.get("ratings"))
    if not isinstance(given, Mapping):
        return {}
    found = {}
    for name, values in given.items():
        place, ratings = f"{column}.{name}", decoded(values)
        check_unicode(str(name), f"a name in {column}")
        if is_unrated(ratings):
            continue
        if not isinstance(ratings, list):
            if count > 1:
                raise BadRow(f"{place} must be a list of a rating for each response")
            ratings = [ratings]
        if len(ratings) != count:
            raise BadRow(f"{count} responses but {len(ratings)} in {place}")
        found[str(name)] = tuple(
            None if is_unrated(value) else sign * rating_field(value, f"{place}[{k}]")
            for k, value in enumerate(ratings)
        )
    return found


def mean_ratings(attributes: Mapping[str, Ratings]) -> Ratings | None:
    """The mean rating of each response over the attributes that it is rated in."""
    if not attributes:
        return None
    rated = [[r for r in each if r is not None] for each in zip(*attributes.values(), strict=True)]
    return tuple(sum(found) / len(found) if found else None for found in rated)
