"""Anthropic HH-RLHF: two dialogues as text, which differ in the last answer."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import human_dialogue
from rmexp.data.formats.fields import field
from rmexp.data.formats.preference import Preference
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class HH(Preference):
    """`chosen` and `rejected` are dialogues of `\\n\\nHuman: ...\\n\\nAssistant: ...` turns.

    Rows with `prompt`, `chosen` and `rejected` are read too.

    Source: Bai et al. 2022, arXiv:2204.05862, https://github.com/anthropics/hh-rlhf.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        for name in ("chosen", "rejected") if row.get("prompt") is None else ():
            if len(human_dialogue(field(row, name), name)) < 2:
                raise BadRow(f"{name} is no dialogue of Human: and Assistant: turns")
        return super().__call__(row)
