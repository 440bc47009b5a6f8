"""Rows with K answers and a preference for each pair of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import common_fields, label_field, list_field
from rmexp.data.formats.messages import response_list
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class AllPairs:
    """`prompt`, `responses` and `preference`: 1 or 2 for the better of a pair, 0 for a tie.

    The pairs go (1, 2), (1, 3), ..., (2, 3), ... Preferences may be cyclic. Source: Wu et al. 2023,
    arXiv:2306.01693, https://github.com/allenai/FineGrainedRLHF.
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
            **common_fields(row),
        )


def _label(i: int, j: int, choice: Any) -> PreferenceLabel:
    if choice not in (0, 1, 2):
        raise BadRow(f"preference has the entry {choice!r} (known: 0 tie, 1, 2)")
    if choice == 0:
        return PreferenceLabel(i, j, votes_i=0.0, votes_tie=1.0)
    return PreferenceLabel(i, j) if choice == 1 else PreferenceLabel(j, i)
