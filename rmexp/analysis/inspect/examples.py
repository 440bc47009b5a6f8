"""One comparison of each subset, as the model will read it."""

from collections.abc import Iterator, Sequence
from typing import Any

from rmexp.analysis.inspect.duplicates import name_prompt
from rmexp.analysis.inspect.rows import RowFacts
from rmexp.data.datamodule import ComparisonData

SUBSETS = 20


EXAMPLE_CHARACTERS = 3000
"""Characters of a rendered response that an example shows."""


OVERLAP = 20
"""Characters of what is shared that stand before the place where another response parts."""


def rendered(data: ComparisonData, rows: Sequence[RowFacts], subsets: Sequence[str]) -> list[Any]:
    """The first comparison of each of some subsets: a response as rendered, and where others part.

    Args:
        data: with its tokenised rows, which have the texts.
        rows: of `gather`.
        subsets: in the order to show them.
    """
    number = {name: n for n, name in reversed(list(enumerate(data.rows["id"][:])))}
    first: dict[str, RowFacts] = {row.subset: row for row in reversed(rows)}
    found = []
    for row in (first[name] for name in subsets[:SUBSETS]):
        texts = data.rows[number[row.id]]["texts"]
        shared = shared_length(texts)
        others = ["..." + text[max(0, shared - OVERLAP) :] for text in texts[1:]]
        found.append(
            name_prompt(row)
            | {"subset": row.subset, "said": list(example_texts(row))}
            | {
                "texts": [
                    t if len(t) <= EXAMPLE_CHARACTERS else t[:EXAMPLE_CHARACTERS] + " ..."
                    for t in [texts[0], *others]
                ]
            }
        )
    return found


def shared_length(texts: Sequence[str]) -> int:
    """Characters that all texts begin with."""
    parted = (n for n, letters in enumerate(zip(*texts, strict=False)) if len(set(letters)) > 1)
    return next(parted, min(map(len, texts)))


def example_texts(row: RowFacts) -> Iterator[str]:
    """What is said of a row's responses, in words; they are counted from 1."""
    for n, rating in enumerate(row.ratings, 1):
        if rating == rating:
            yield f"response {n} is rated {rating:g}"
    for i, j, verdict in row.pairs:
        if verdict:
            yield f"response {i + 1} is better than response {j + 1}"
        else:
            yield f"responses {i + 1} and {j + 1} tie"
