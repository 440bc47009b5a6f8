"""Rows with two answers and votes for the better one or a tie."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import prompt_field, shared_dialogue, with_system
from rmexp.data.formats.fields import (
    common_fields,
    decoded,
    field,
    optional_number,
    unique_texts,
)
from rmexp.data.formats.messages import Messages, from_text, response_messages
from rmexp.data.sources import BadRow

ANSWERS = ("response_a", "response_b")


@dataclass(frozen=True)
class Votes:
    """`prompt`, `response_a`, `response_b` and `votes`.

    `votes` is one label, a list with a label per annotator, or an object of label -> count; or the
    counts are in `votes_a`, `votes_b` and `votes_tie`. Without a `prompt`, the answers are whole
    dialogues, and the prompt is what they share.

    Args:
        a, b, tie: labels of a vote for the first answer, for the second, and for a tie.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "votes", "ties", "lists")
    a: Sequence[Any] = ("a",)
    b: Sequence[Any] = ("b",)
    tie: Sequence[Any] = ("tie",)

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        prompt, *responses = two_answers(row)
        votes_a, votes_b, votes_tie = self._votes(row)
        return Comparison(
            prompt=prompt,
            responses=tuple(responses),
            judgements=(PreferenceLabel(0, 1, votes_a, votes_b, votes_tie),),
            **common_fields(row),
        )

    def _votes(self, row: Mapping[str, Any]) -> tuple[float, float, float]:
        names = ("votes_a", "votes_b", "votes_tie")
        columns = [optional_number(row, name) for name in names]
        if columns[0] is None or columns[1] is None:
            counts = self._counted(decoded(field(row, "votes")))
        else:
            counts = tuple(count or 0.0 for count in columns)
        if min(counts) < 0 or sum(counts) == 0:
            raise BadRow(f"votes are {counts}: they should be 0 or more, and not all 0")
        return counts[0], counts[1], counts[2]

    def _counted(self, votes: Any) -> tuple[float, ...]:
        if isinstance(votes, Mapping):
            given = {name: optional_number(votes, name) or 0.0 for name in votes}
        else:
            given = dict(Counter(map(str, votes if isinstance(votes, list) else [votes])))
        counts = [0.0, 0.0, 0.0]
        sides = [{str(label) for label in side} for side in (self.a, self.b, self.tie)]
        for label, count in given.items():
            side = next((k for k, labels in enumerate(sides) if str(label) in labels), None)
            if side is None:
                known = ", ".join(sorted(set.union(*sides)))
                raise BadRow(f"votes has the label {label!r} (known: {known})")
            counts[side] += count
        return tuple(counts)


def two_answers(
    row: Mapping[str, Any], turn_mark: str | None = None
) -> tuple[Messages, Messages, Messages]:
    """The prompt and the two answers of a row, which must differ."""
    one, other = from_text(*(field(row, name) for name in ANSWERS))
    unique_texts(one, other, " and ".join(ANSWERS))
    if row.get("prompt") is None and isinstance(one, list):
        prompt, one, other = shared_dialogue(one, other, ANSWERS)
        prompt = with_system(prompt, row)
    else:
        prompt = prompt_field(row, turn_mark=turn_mark)
        one, other = response_messages(one, ANSWERS[0]), response_messages(other, ANSWERS[1])
    unique_texts(one, other, " and ".join(ANSWERS))
    return prompt, one, other
