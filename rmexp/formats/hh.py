"""Anthropic HH-RLHF: two dialogues as text, which differ in the last answer."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparisons import Comparison, Judgement
from rmexp.formats.parts import (
    Messages,
    common,
    distinct,
    field,
    prompt_messages,
    response_messages,
)
from rmexp.sources import BadRow

_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):")
_ROLE = {"Human": "user", "Assistant": "assistant"}


@dataclass(frozen=True)
class HH:
    """`chosen` and `rejected` are dialogues of `\\n\\nHuman: ...\\n\\nAssistant: ...` turns.

    Source: Bai et al. 2022, arXiv:2204.05862, https://github.com/anthropics/hh-rlhf.
    """

    has: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        """The comparison of a row; a row that does not fit raises `BadRow`."""
        prompt, chosen = _dialogue(field(row, "chosen"), "chosen")
        other, rejected = _dialogue(field(row, "rejected"), "rejected")
        if prompt != other:
            raise BadRow("the two dialogues differ before their last answer")
        distinct(chosen, rejected)
        return Comparison(
            prompt=prompt_messages(prompt),
            responses=(chosen, rejected),
            judgements=(Judgement(0, 1),),
            **common(row),
        )


def _dialogue(text: Any, name: str) -> tuple[list[dict[str, str]], Messages]:
    if not isinstance(text, str):
        raise BadRow(f"{name} is not text")
    parts = _TURN.split(text)
    if len(parts) < 5 or parts[0].strip():
        raise BadRow(f"{name} is no dialogue of Human: and Assistant: turns")
    turns = [
        {"role": _ROLE[speaker], "content": said.strip()}
        for speaker, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if turns[-1]["role"] != "assistant":
        raise BadRow(f"roles out of order: {name} ends with the human")
    return turns[:-1], response_messages(turns[-1]["content"], name)
