"""Rows with one answer in labelled steps: TRL's stepwise supervision."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import common_fields, list_field, rating_field
from rmexp.data.formats.messages import response_list
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class Stepwise:
    """`prompt`, `completions` (the steps) and `labels` (true, false, a number or null each).

    Each response is the answer up to and including a step, rated by that step's label and scored
    at its last token. Source: the PRM trainer of TRL; Lightman et al. 2023, arXiv:2305.20050.

    Args:
        separator: stands between two steps.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")
    separator: str = "\n"

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        steps = list_field(row, "completions", "steps")
        labels = list_field(row, "labels", "labels, one a step")
        if len(labels) != len(steps):
            raise BadRow(f"{len(steps)} completions but {len(labels)} labels")
        for k, step in enumerate(steps):
            if not isinstance(step, str) or not step.strip():
                raise BadRow(f"completions[{k}] is {'empty' if step else 'no text'}")
        prefixes = [self.separator.join(steps[: k + 1]) for k in range(len(steps))]
        return Comparison(
            prompt=prompt_field(row),
            responses=response_list(prefixes, "completions"),
            ratings=tuple(
                None if label is None else rating_field(label, f"labels[{k}]")
                for k, label in enumerate(labels)
            ),
            unfinished=True,
            **common_fields(row),
        )
