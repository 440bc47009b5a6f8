"""Columns of the tokenised rows, for plans, counts and checks of many rows at once."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from rmexp.core.errors import UserError

Balance = Literal["subset", "language", "label", "length"]

COUNT_COLUMNS = {
    "pairs": "judged",
    "ties": "tied",
    "votes": "voted",
    "ratings": "rated",
    "lists": "ranked",
}
"""Label kind -> the column that counts it in a row; a ranking has two levels or more."""


@dataclass(frozen=True)
class AttributeRatings:
    """The ratings in A attributes of the N responses of C rows; NaN: unrated.

    Attributes:
        ratings_N_A: in the order of the responses.
        counts_C: the number of responses of each row.
    """

    ratings_N_A: np.ndarray
    counts_C: np.ndarray

    def labelled(self, column: int, kinds: Collection[str]) -> np.ndarray:
        """(C,) whether a row has labels of one of these kinds by its ratings in an attribute."""
        values_N, starts_C = self.ratings_N_A[:, column], np.cumsum(self.counts_C) - self.counts_C
        rated_C = np.add.reduceat(~np.isnan(values_N), starts_C, dtype=np.int64)
        rows_N = np.repeat(np.arange(len(self.counts_C)), self.counts_C)
        order = np.lexsort((values_N, rows_N))
        same_N = np.diff(rows_N[order], prepend=-1) == 0
        repeats_N = same_N & (np.diff(values_N[order], prepend=np.nan) == 0)
        ties_C = np.bincount(rows_N[order], repeats_N, minlength=len(starts_C))
        pairs_C = rated_C - ties_C > 1
        found = {"ratings": rated_C > 0, "pairs": pairs_C, "lists": pairs_C, "ties": ties_C > 0}
        return np.any([found[kind] for kind in kinds], axis=0)


@dataclass(frozen=True)
class TokenColumns:
    """The columns of `rows`, a data set with `token_dataset.TOKEN_SCHEMA`."""

    rows: Any

    def numbers(self, name: str) -> np.ndarray:
        """A column of numbers as an array."""
        return self.rows.data.column(name).to_numpy()

    def objects(self, name: str, rows: np.ndarray) -> list[Any]:
        """A column of some rows as Python objects."""
        return self.rows.data.column(name).take(pa.array(rows)).to_pylist()

    def prompts(self, rows: np.ndarray) -> np.ndarray:
        """The prompt of each of these rows, numbered from 0."""
        column = self.rows.data.column("prompt_key").combine_chunks().dictionary_encode()
        return np.unique(column.indices.to_numpy()[rows], return_inverse=True)[1]

    def flat(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The entries of a column of lists, and (C,) where those of each row begin."""
        lists = self.rows.data.column(name).combine_chunks()
        starts = lists.offsets.to_numpy()[:-1] - lists.offsets[0].as_py()
        return lists.flatten().to_numpy(zero_copy_only=False), starts

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(P, 3) pairs of responses with their label, and (P,) the row of each."""
        lists = self.rows.data.column("pairs").combine_chunks()
        counts = np.diff(lists.offsets.to_numpy())
        table = lists.flatten().flatten().to_numpy(zero_copy_only=False).reshape(-1, 3)
        return table, np.repeat(np.arange(len(counts)), counts)

    def shared(self) -> np.ndarray:
        """Approximate number of tokens that all responses of a row share."""
        lengths = self.rows.data.column("lengths").combine_chunks()
        ends = lengths.offsets.to_numpy() - lengths.offsets[0].as_py()
        before = np.concatenate([[0], np.cumsum(lengths.flatten().to_numpy())])
        others = np.maximum(np.diff(ends) - 1, 1)
        return (np.diff(before[ends]) - self.numbers("size")) // others

    def attributes(self, rows: np.ndarray, count: int) -> "AttributeRatings":
        """The ratings of these rows in the first `count` attributes of the data set."""
        counts_C = [len(lengths) for lengths in self.objects("lengths", rows)]
        found_N_A = np.full((sum(counts_C), count), np.nan)
        start = 0
        for ratings, size in zip(self.objects("attributes", rows), counts_C, strict=True):
            for column, values in enumerate(ratings):
                found_N_A[start : start + size, column] = values
            start += size
        return AttributeRatings(found_N_A, np.array(counts_C, dtype=np.int64))

    def counts(self, rows: np.ndarray) -> dict[str, int]:
        """Label kind -> its count in these rows: pairs and ties, else rows that have it."""
        found = {kind: self.numbers(name)[rows] for kind, name in COUNT_COLUMNS.items()}
        strict = int(found["pairs"].sum())
        without = int(self.numbers("without_margin")[rows].sum())
        return {
            "pairs": strict,
            "ties": int(found["ties"].sum()),
            "votes": int((found["votes"] > 0).sum()),
            "margins": strict - without,
            "ratings": int((found["ratings"] > 0).sum()),
            "lists": int((found["lists"] > 1).sum()),
        }

    def languages(self, rows: np.ndarray) -> list[str]:
        """The ISO 639 codes among the languages of these rows."""
        found = {name for name in self.objects("language", rows) if name is not None}
        return sorted(name for name in found if re.fullmatch("[a-z]{2,3}", name))

    def with_any(self, kinds: Sequence[str], rows: np.ndarray) -> np.ndarray:
        """Whether each of these rows has a label of one of these kinds."""
        return np.any(
            [self.numbers(COUNT_COLUMNS[k])[rows] > (k == "lists") for k in kinds], axis=0
        )

    def groups(self, by: Balance, rows: np.ndarray) -> Sequence[Any]:
        """The subset, language, label or longer winner of each of these rows; None: unknown.

        Raises:
            UserError: no row has it.
        """
        if by == "length":
            more = self.numbers("longer_wins")[rows] - self.numbers("shorter_wins")[rows]
            return [{1: "longer won", -1: "shorter won"}.get(n) for n in np.sign(more).tolist()]
        if by == "label":
            found = [
                next((r for r in row if r == r), None) for row in self.objects("ratings", rows)
            ]
        else:
            found = self.objects(by, rows)
        if all(value is None for value in found):
            raise UserError(f"data.balance={by}, but no training row has a {by}.")
        return found
