"""UltraFeedback: four completions to an instruction, each rated in four aspects."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import common_fields, is_unrated, list_field, number_field
from rmexp.data.formats.messages import response_list
from rmexp.data.sources import BadRow


@dataclass(frozen=True)
class UltraFeedback:
    """`instruction` and `completions`, with `response` and `annotations.ASPECT.Rating` each.

    The rating is the weighted mean of the aspects that are rated and not "N/A".
    Source: Cui et al. 2023, arXiv:2310.01377,
    https://huggingface.co/datasets/openbmb/UltraFeedback.

    Args:
        attributes: aspect -> its weight in the rating, above 0; None: all aspects, equally.
    """

    attributes: Mapping[str, float] | None
    label_kinds: ClassVar[tuple[str, ...]] = ("ratings", "lists")

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        completions = list_field(row, "completions", "objects with response and annotations")
        if not all(isinstance(each, Mapping) for each in completions):
            raise BadRow("completions must be a list of objects with response and annotations")
        return Comparison(
            prompt=prompt_field(row, "instruction"),
            responses=response_list(
                (each.get("response") for each in completions), "completions", ".response"
            ),
            ratings=tuple(
                self._rating(each.get("annotations") or {}, f"completions[{k}].annotations")
                for k, each in enumerate(completions)
            ),
            **common_fields(row),
        )

    def _rating(self, annotations: Mapping[str, Any], place: str) -> float | None:
        total = weights = 0.0
        weighed = dict.fromkeys(annotations, 1.0) if self.attributes is None else self.attributes
        for name, weight in weighed.items():
            value = (annotations.get(name) or {}).get("Rating")
            if not is_unrated(value):
                total += weight * number_field(value, f"{place}.{name}.Rating")
                weights += weight
        return total / weights if weights else None
