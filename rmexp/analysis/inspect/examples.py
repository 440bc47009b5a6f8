"""One comparison of each subset, as the model reads it."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

from rmexp.analysis.inspect.prompts import truncate
from rmexp.analysis.inspect.rows import RowFacts
from rmexp.data.comparison_data import ComparisonData

EXAMPLE_SUBSETS = 20
EXAMPLE_CHARACTERS = 3000  # of a rendered response
OVERLAP = 20  # characters of the shared text before the first difference


def subset_examples(
    data: ComparisonData, rows: Sequence[RowFacts], subsets: Sequence[str]
) -> list[dict[str, Any]]:
    """The first comparison of each subset: one response as rendered, the others where they differ.

    Args:
        data: with its tokenised rows, which have the texts.
        rows: see `gather`.
        subsets: in the order to show them.
    """
    number = {name: n for n, name in reversed(list(enumerate(data.rows["id"][:])))}
    first = {row.subset: row for row in reversed(rows)}
    found = []
    for row in (first[name] for name in subsets[:EXAMPLE_SUBSETS]):
        texts = data.rows[number[row.id]]["texts"]
        start = max(0, shared_length(texts) - OVERLAP)
        texts = [texts[0], *("..." + text[start:] for text in texts[1:])]
        facts = {
            "subset": row.subset,
            "said": list(example_texts(row)),
            "texts": [truncate(text, EXAMPLE_CHARACTERS) for text in texts],
        }
        found.append(row.location | facts)
    return found


def shared_length(texts: Sequence[str]) -> int:
    """Number of characters with which all texts begin."""
    return len(os.path.commonprefix(list(texts)))  # noqa: RUF071


def example_texts(row: RowFacts) -> Iterator[str]:
    """The labels of a row in words; responses are counted from 1."""
    for n, rating in enumerate(row.ratings, 1):
        if rating == rating:
            yield f"response {n} is rated {rating:g}"
    for i, j, label in row.pairs:
        if label:
            yield f"response {i + 1} is better than response {j + 1}"
        else:
            yield f"responses {i + 1} and {j + 1} tie"
