"""Rows with a chosen and a rejected answer: TRL's forms, and the seed row."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rmexp.comparisons import Comparison, Judgement
from rmexp.formats.parts import (
    Messages,
    distinct,
    field,
    optional_number,
    prompt_messages,
    response_messages,
    text_field,
    without_nulls,
)
from rmexp.sources import BadRow


@dataclass(frozen=True)
class Preference:
    """`prompt`, `chosen`, `rejected`, as text or messages; a missing prompt is what both share.

    Optional fields: `rating` of the chosen answer (higher is better), `margin` (in units of
    reward), `id`, `subset`, `split`. The seed row is this with `prompt="context"`.
    """

    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    rating: str = "rating"
    margin: str = "margin"
    subset: str = "subset"

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        chosen, rejected = field(row, self.chosen), field(row, self.rejected)
        for name, side in ((self.chosen, chosen), (self.rejected, rejected)):
            if isinstance(side, str) and not side.strip():
                raise BadRow(f"{name} is empty")
        distinct(chosen, rejected)
        if row.get(self.prompt) is None:
            prompt, chosen, rejected = _split_shared_prompt(chosen, rejected)
        else:
            prompt = prompt_messages(row[self.prompt], self.prompt)
            chosen = response_messages(_without_prompt(chosen, prompt), self.chosen)
            rejected = response_messages(_without_prompt(rejected, prompt), self.rejected)
        distinct(chosen, rejected)
        rating = optional_number(row, self.rating)
        return Comparison(
            id=text_field(row, "id", ""),
            prompt=prompt,
            responses=(chosen, rejected),
            judgements=(Judgement(0, 1, margin=optional_number(row, self.margin)),),
            ratings=None if rating is None else (rating, None),
            subset=text_field(row, self.subset, "all"),
            split=row.get("split"),
        )


def _without_prompt(side: Any, prompt: Messages) -> Any:
    """Some sets repeat the prompt in front of each answer's messages: it is counted once."""
    plain = [dict(message) for message in prompt]
    side = without_nulls(side)
    repeats = isinstance(side, list) and len(side) > len(plain) and side[: len(plain)] == plain
    return side[len(plain) :] if repeats else side


def _split_shared_prompt(chosen: Any, rejected: Any) -> tuple[Messages, Messages, Messages]:
    """The implicit prompt: the leading messages, or text up to a blank, that both share."""
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
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise BadRow("chosen and rejected must both be text or both be lists of messages")
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    if shared == 0:
        raise BadRow(
            "there is no prompt: field 'prompt' is missing and the dialogues share no beginning"
        )
    return (
        prompt_messages(chosen[:shared], "the shared prompt"),
        response_messages(chosen[shared:], "chosen"),
        response_messages(rejected[shared:], "rejected"),
    )
