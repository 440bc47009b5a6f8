"""Rows with a chosen and a rejected answer."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.answers import prompt_and_answers
from rmexp.data.formats.attributes import attribute_ratings
from rmexp.data.formats.fields import (
    FieldRow,
    column_of,
    common_fields,
    decoded,
    field,
    is_missing,
    list_field,
    number_field,
    optional_number,
)
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Preference:
    """`prompt`, `chosen`, `rejected`, as text or messages; without `prompt`, two whole dialogues.

    Either side may be a list of answers: each chosen one is better than each rejected one.
    Optional fields: `rating` of the chosen answer (higher is better) or of both in a list,
    `chosen_rating` and `rejected_rating`, `margin` (in units of reward).
    `ratings`, an object of attribute -> ratings of the chosen answers, then of the rejected ones.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "margins", "ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, (chosen, rejected) = prompt_and_answers(row, "chosen", "rejected")
        margin = optional_number(row, "margin")
        pairs = product(range(len(chosen)), range(len(chosen), len(chosen) + len(rejected)))
        single = len(chosen) == len(rejected) == 1
        return Comparison(
            prompt=prompt,
            responses=(*chosen, *rejected),
            judgements=tuple(PreferenceLabel(i, j, margin=margin) for i, j in pairs),
            ratings=_ratings(row) if single else None,
            attributes=attribute_ratings(row, len(chosen) + len(rejected)),
            **common_fields(row),
        )


def _ratings(row: Mapping[str, Any]) -> tuple[float | None, float | None] | None:
    both = decoded(row.get("rating"))
    if isinstance(both, list):
        if len(both) != 2:
            raise BadRow(f"{column_of(row, 'rating')} has {len(both)} entries for two answers")
        first, second = (None if is_missing(one) else number_field(one, "rating") for one in both)
        ratings = (second, first) if _rejected_is_first(row) else (first, second)
    else:
        own = "chosen_rating" if not is_missing(row.get("chosen_rating")) else "rating"
        ratings = optional_number(row, own), optional_number(row, "rejected_rating")
    return None if ratings == (None, None) else ratings


def _rejected_is_first(row: Mapping[str, Any]) -> bool:
    """Whether a list of two ratings begins with the rejected answer's: distilabel keeps `order`."""
    return decoded(row.get("order")) == ["rejected", "chosen"]


@dataclass(frozen=True)
class RankedOutputs:
    """`prompt` and `output`, a list of two answers, the better one first (LLaMA-Factory)."""

    label_kinds: ClassVar[tuple[str, ...]] = Preference.label_kinds

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        outputs, name = list_field(row, "output", "two answers"), column_of(row, "output")
        if len(outputs) != 2:
            raise BadRow(f"{name} has {len(outputs)} answers, not two with the better one first")
        pair = {**row, "chosen": outputs[0], "rejected": outputs[1]}
        columns = {**getattr(row, "columns", {}), "chosen": f"{name}[0]", "rejected": f"{name}[1]"}
        return Preference()(FieldRow(pair, columns, row))


@dataclass(frozen=True)
class SharedBeginning:
    """`chosen` and `rejected` are texts that begin with their prompt: all that both share, up to a
    blank."""

    label_kinds: ClassVar[tuple[str, ...]] = Preference.label_kinds

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        texts = field(row, "chosen"), field(row, "rejected")
        if not all(isinstance(text, str) for text in texts):
            return Preference()(row)
        cut = len(os.path.commonprefix(texts))  # noqa: RUF071
        cut = next((n for n in range(cut - 1, 0, -1) if texts[0][n].isspace()), 0)
        if not texts[0][:cut].strip():
            raise BadRow("there is no prompt: the two texts share no beginning")
        chosen, rejected = (text[cut:].lstrip() for text in texts)
        whole = {**row, "prompt": texts[0][:cut], "chosen": chosen, "rejected": rejected}
        return Preference()(FieldRow(whole, getattr(row, "columns", {}), row))


@dataclass(frozen=True)
class OpenAIPreference:
    """`input` with `messages` (and `tools`), `preferred_output` and `non_preferred_output`.

    Source: https://platform.openai.com/docs/guides/direct-preference-optimization; Together and
    Fireworks take the same rows.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        asked = decoded(field(row, "input"))
        if not isinstance(asked, Mapping) or "messages" not in asked:
            raise BadRow(f"{column_of(row, 'input')} must be an object with messages")
        whole = {**row, "prompt": asked["messages"], "tools": asked.get("tools"), "input": None}
        columns = {**getattr(row, "columns", {}), "prompt": "input.messages"}
        return Preference()(FieldRow(whole, columns, row))
