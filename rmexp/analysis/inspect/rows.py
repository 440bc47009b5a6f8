"""The rows of a data set for inspection: kept by tokenising, with their labels."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.analysis.inspect.agreement import VoteTable
from rmexp.analysis.inspect.prompts import Prompt, prompt_text
from rmexp.comparison import Comparison, Message
from rmexp.data.comparison_data import ComparisonData
from rmexp.data.text_style import spoken

ROW_COLUMNS = ("id", "subset", "language", "prompt_key", "ratings", "pairs", "size", "lengths")
"""Columns of the tokenised rows that `RowFacts` needs."""


@dataclass(frozen=True)
class RowFacts:
    """A comparison of a split: K responses with their labels and lengths.

    prompt      key of the prompt
    responses   K hashes; equal responses have equal hashes
    characters  K lengths of the response alone
    tokens      K lengths as rendered, prompt included
    size        distinct tokens of the row
    ratings     K numbers, NaN where unrated
    pairs       (i, j, label) of each judgement: 1 says that i is better, 0 a tie
    votes       of the judgements in the source, without those derived from ratings
    """

    id: str
    place: str
    split: str
    subset: str
    language: str | None
    prompt: str
    responses: tuple[int, ...]
    characters: tuple[int, ...]
    tokens: tuple[int, ...]
    size: int
    ratings: tuple[float, ...]
    pairs: tuple[tuple[int, int, int], ...]
    votes: tuple[VoteTable, ...]

    @property
    def location(self) -> dict[str, str]:
        """Where to find the row."""
        return {"id": self.id, "place": self.place, "split": self.split}


def gather(
    data: ComparisonData, progress: Callable[[str, int], None]
) -> tuple[list[RowFacts], list[Prompt]]:
    """Collect the rows of all splits, and the distinct prompts among them.

    The source is read again beside the tokenised rows, which store neither the text of a prompt
    nor the number of votes.
    """
    split_of = {int(n): split for split, rows in data.splits.items() for n in rows}
    stored = enumerate(data.rows.select_columns(list(ROW_COLUMNS)))
    rows: list[RowFacts] = []
    prompts: dict[str, Prompt] = {}
    number, kept = next(stored)
    for comparison, _ in data.source.comparisons():
        if comparison.id != kept["id"]:
            continue  # tokenising dropped it
        if (split := split_of.get(number)) is not None:
            rows.append(_row(comparison, kept, split))
            text = prompt_text(comparison.prompt)
            prompt = Prompt(text, split, comparison.id, comparison.place)
            prompts.setdefault(kept["prompt_key"], prompt)
        number, kept = next(stored, (number + 1, {"id": None}))
        if number % 1000 == 0:
            progress("comparisons inspected", number)
    return rows, list(prompts.values())


def _hashed(messages: Sequence[Message]) -> int:
    """Hash of messages, whatever the order of their keys; valid in this process."""
    return hash(json.dumps([dict(message) for message in messages], sort_keys=True))


def _row(comparison: Comparison, kept: Mapping[str, Any], split: str) -> RowFacts:
    return RowFacts(
        id=comparison.id,
        place=comparison.place,
        split=split,
        subset=kept["subset"],
        language=kept["language"],
        prompt=kept["prompt_key"],
        responses=tuple(_hashed(response) for response in comparison.responses),
        characters=tuple(len(spoken(response)) for response in comparison.responses),
        tokens=tuple(kept["lengths"]),
        size=kept["size"],
        ratings=tuple(kept["ratings"]),
        pairs=tuple((i, j, verdict) for i, j, verdict in kept["pairs"]),
        votes=tuple((j.votes_i, j.votes_j, j.votes_tie) for j in comparison.judgements),
    )
