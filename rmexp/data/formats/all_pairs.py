"""Rows with K answers and a preference for each pair of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.attributes import attribute_ratings
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import (
    column_of,
    common_fields,
    decoded,
    label_field,
    list_field,
    number_field,
)
from rmexp.data.formats.messages import response_list
from rmexp.data.sources import BadRow

ERROR_KINDS = {
    "relevance": ("Irrelevant", "Redundant", "Incoherent"),
    "factuality": ("Wrong-Grounding", "Unverifiable"),
}
"""Attribute -> the error types of spans that lower it."""


@dataclass(frozen=True)
class AllPairs:
    """`prompt`, `responses` and `preference`: 1 or 2 for the better of a pair, 0 for a tie.

    The pairs go (1, 2), (1, 3), ..., (2, 3), ... Preferences may be cyclic. Source: Wu et al. 2023,
    arXiv:2306.01693, https://github.com/allenai/FineGrainedRLHF. `feedback` (optional) is the
    publisher's, of the first answer: relevance and factuality are minus the shares of its
    characters in spans with such errors (-1..0), completeness is minus the number of missing facts;
    these are the kinds of errors of the paper's three reward models. `ratings` (optional) is an
    object of attribute -> ratings of all answers.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "ties", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        label_field(row, "preference")
        texts = list_field(row, "responses", "answers")
        preference = list_field(row, "preference", "judgements")
        pairs = list(combinations(range(len(texts)), 2))
        if len(preference) != len(pairs):
            raise BadRow(
                f"{len(texts)} responses make {len(pairs)} pairs, but preference has "
                f"{len(preference)} entries"
            )
        return Comparison(
            prompt=prompt_field(row),
            responses=response_list(texts, "responses"),
            judgements=tuple(
                _label(i, j, choice) for (i, j), choice in zip(pairs, preference, strict=True)
            ),
            attributes=_feedback(row, texts) | attribute_ratings(row, len(texts)),
            **common_fields(row),
        )


def _feedback(row: Mapping[str, Any], texts: Sequence[Any]) -> dict[str, Any]:
    given, column = decoded(row.get("feedback")), column_of(row, "feedback")
    if not isinstance(given, Mapping) or not {"errors", "missing-info"} <= set(given):
        return {}
    errors, missing = decoded(given["errors"]), decoded(given["missing-info"])
    if not isinstance(errors, list) or not isinstance(missing, list):
        raise BadRow(f"{column} must have lists in errors and missing-info")
    marked: dict[str, set[int]] = {name: set() for name in ERROR_KINDS}
    for k, error in enumerate(errors):
        place = f"{column}.errors[{k}]"
        if not isinstance(error, Mapping):
            raise BadRow(f"{place} must be an object with error type, start and end")
        kind = error.get("error type")
        name = next((name for name, kinds in ERROR_KINDS.items() if kind in kinds), None)
        if name is None:
            known = ", ".join(kind for kinds in ERROR_KINDS.values() for kind in kinds)
            raise BadRow(f"{place} has the error type {kind!r:.40} (known: {known})")
        start, end = (int(number_field(error.get(side), place)) for side in ("start", "end"))
        if not 0 <= start <= end <= len(texts[0]):
            raise BadRow(f"{place} is the span {start} to {end} of {len(texts[0])} characters")
        marked[name] |= set(range(start, end))
    others = (None,) * (len(texts) - 1)
    shares = {name: (-len(places) / len(texts[0]), *others) for name, places in marked.items()}
    return {**shares, "completeness": (-float(len(missing)), *others)}


def _label(i: int, j: int, choice: Any) -> PreferenceLabel:
    if choice not in (0, 1, 2):
        raise BadRow(f"preference has the entry {choice!r} (known: 0 tie, 1, 2)")
    if choice == 0:
        return PreferenceLabel(i, j, votes_i=0.0, votes_tie=1.0)
    return PreferenceLabel(i, j) if choice == 1 else PreferenceLabel(j, i)
