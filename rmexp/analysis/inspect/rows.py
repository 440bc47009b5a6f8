"""The rows of a data set as they are inspected: what tokenising kept, and what people said."""

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rmexp.analysis.inspect.agreement import VoteTable
from rmexp.analysis.inspect.prompts import Prompt, prompt_text, text_of
from rmexp.comparison import Comparison, Message
from rmexp.data.datamodule import ComparisonData
from rmexp.data.mixture import Mixture
from rmexp.data.reader import RowReport, read_comparisons

ROW_COLUMNS = ("id", "subset", "language", "prompt_key", "ratings", "pairs", "size")
"""Columns of the tokenised rows that a `Row` takes."""


@dataclass(frozen=True)
class RowFacts:
    """A comparison of a split: K responses, what was said of them, and how long they are.

    prompt      its key
    responses   K hashes: equal responses have equal ones
    characters  K lengths of the response alone; tokens: as rendered, with the prompt
    size        distinct tokens of the row
    ratings     K numbers, NaN where unrated
    pairs       (i, j, verdict) a judgement: 1 says that i is better, 0 a tie
    votes       of the judgements that people gave, before any was derived from ratings
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


def gather(
    data: ComparisonData, progress: Callable[[str, int], None]
) -> tuple[list[RowFacts], list[Prompt]]:
    """The rows of all splits, and the distinct prompts among them.

    The source is read once more beside the tokenised rows, which keep neither the words of a prompt
    nor the number of votes.
    """
    split_of = {int(n): split for split, rows in data.splits.items() for n in rows}
    stored = zip(
        data.rows.select_columns(list(ROW_COLUMNS)), response_lengths(data.rows), strict=True
    )
    rows: list[RowFacts] = []
    prompts: dict[str, Prompt] = {}
    number, (kept, tokens) = 0, next(stored)
    for comparison in comparisons_of(data):
        if comparison.id != kept["id"]:
            continue  # it was left out
        if (split := split_of.get(number)) is not None:
            rows.append(_row(comparison, kept, tokens, split))
            key = kept["prompt_key"]
            if key not in prompts:
                text = prompt_text(comparison.prompt)
                prompts[key] = Prompt(text, split, comparison.id, comparison.place)
        number, (kept, tokens) = number + 1, next(stored, ({"id": None}, []))
        if number % 1000 == 0:
            progress("comparisons inspected", number)
    return rows, list(prompts.values())


def comparisons_of(data: ComparisonData) -> Iterator[Comparison]:
    """What the source has, under the ids of the tokenised rows."""
    sources = data.sources if isinstance(data, Mixture) else {"": data}
    for name, source in sources.items():
        recipe = source.recipe
        found = read_comparisons(recipe.paths, recipe.parse, RowReport(), recipe.limit)
        for one in found:
            yield dataclasses.replace(one, id=f"{name}:{one.id}") if name else one


def response_lengths(rows: Any) -> Iterator[list[int]]:
    """The tokens of each response of each row, without making Python objects of them."""
    import pyarrow.compute

    for chunk in rows.data.column("tokens").chunks:
        lengths = iter(pyarrow.compute.list_value_length(chunk.flatten()).to_pylist())
        for count in pyarrow.compute.list_value_length(chunk).to_pylist():
            yield [next(lengths) for _ in range(count)]


def _hashed(messages: Sequence[Message]) -> int:
    """Of one process alone; equal messages have equal ones, in whatever order their keys stand."""
    return hash(json.dumps([dict(message) for message in messages], sort_keys=True))


def _row(
    comparison: Comparison, kept: Mapping[str, Any], tokens: list[int], split: str
) -> RowFacts:
    return RowFacts(
        id=comparison.id,
        place=comparison.place,
        split=split,
        subset=kept["subset"],
        language=kept["language"],
        prompt=kept["prompt_key"],
        responses=tuple(_hashed(response) for response in comparison.responses),
        characters=tuple(len(text_of(response)) for response in comparison.responses),
        tokens=tuple(tokens),
        size=kept["size"],
        ratings=tuple(kept["ratings"]),
        pairs=tuple((i, j, verdict) for i, j, verdict in kept["pairs"]),
        votes=tuple((j.votes_i, j.votes_j, j.votes_tie) for j in comparison.judgements),
    )
