"""Rows with a chosen and a rejected answer, as TRL has them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import shared_dialogue, with_system
from rmexp.data.formats.fields import (
    common_fields,
    field,
    optional_number,
    unique_texts,
    without_nulls,
)
from rmexp.data.formats.messages import (
    Messages,
    from_text,
    prompt_messages,
    response_messages,
)
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Preference:
    """`prompt`, `chosen`, `rejected`, as text or messages; without `prompt`, what both share is.

    Optional fields: `rating` of the chosen answer (higher is better) or `chosen_rating` and
    `rejected_rating`, `margin` (in units of reward). `context` is another name of the prompt.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "margins", "ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        chosen, rejected = from_text(field(row, "chosen"), field(row, "rejected"))
        for name, side in (("chosen", chosen), ("rejected", rejected)):
            if isinstance(side, str) and not side.strip():
                raise BadRow(f"{name} is empty")
        unique_texts(chosen, rejected)
        asked = "prompt" if row.get("prompt") is not None else "context"
        if row.get(asked) is None:
            prompt, chosen, rejected = _split_shared_prompt(chosen, rejected)
        else:
            prompt = prompt_messages(*from_text(row[asked]), asked)
            chosen = response_messages(_without_prompt(chosen, prompt), "chosen")
            rejected = response_messages(_without_prompt(rejected, prompt), "rejected")
        unique_texts(chosen, rejected)
        ratings = (
            optional_number(row, "rating" if "chosen_rating" not in row else "chosen_rating"),
            optional_number(row, "rejected_rating"),
        )
        return Comparison(
            prompt=with_system(prompt, row),
            responses=(chosen, rejected),
            judgements=(PreferenceLabel(0, 1, margin=optional_number(row, "margin")),),
            ratings=None if ratings == (None, None) else ratings,
            **common_fields(row),
        )


def _without_prompt(side: Any, prompt: Messages) -> Any:
    """Some data sets repeat the prompt before the messages of each answer."""
    plain = [dict(message) for message in prompt]
    side = without_nulls(side)
    repeats = isinstance(side, list) and len(side) > len(plain) and side[: len(plain)] == plain
    return side[len(plain) :] if repeats else side


def _split_shared_prompt(chosen: Any, rejected: Any) -> tuple[Messages, Messages, Messages]:
    """The implicit prompt: the leading messages, or text up to a space, that both share."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        shared = 0
        while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
            shared += 1
        cut = chosen.rfind(" ", 0, shared) if chosen[shared - 1 : shared] != " " else shared - 1
        if cut <= 0:
            raise BadRow(
                "there is no prompt: field 'prompt' is missing and the two texts share no beginning"
            )
        return (
            prompt_messages(chosen[:cut]),
            response_messages(chosen[cut:].lstrip(" "), "chosen"),
            response_messages(rejected[cut:].lstrip(" "), "rejected"),
        )
    return shared_dialogue(chosen, rejected, ("chosen", "rejected"))
