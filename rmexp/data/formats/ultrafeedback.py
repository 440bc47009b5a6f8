"""UltraFeedback: four completions to an instruction, each rated in four aspects."""

from collections.abc import Iterable, Mapping
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
        aspects = [
            _aspects(
                each.get("annotations") or {}, f"completions[{k}].annotations", self.attributes
            )
            for k, each in enumerate(completions)
        ]
        return Comparison(
            prompt=prompt_field(row, "instruction"),
            responses=response_list(
                (each.get("response") for each in completions), "completions", ".response"
            ),
            ratings=tuple(self._rating(each) for each in aspects),
            attributes={
                name: tuple(each.get(name) for each in aspects)
                for name in dict.fromkeys(name for each in aspects for name in each)
            },
            **common_fields(row),
        )

    def _rating(self, aspects: Mapping[str, float]) -> float | None:
        weights = {n: 1.0 if self.attributes is None else self.attributes[n] for n in aspects}
        total = sum(weight * aspects[name] for name, weight in weights.items())
        return total / sum(weights.values()) if aspects else None


def _aspects(
    annotations: Mapping[str, Any], place: str, names: Iterable[str] | None
) -> dict[str, float]:
    """The ratings of these aspects, by default of all, that are not "N/A"."""
    found = {n: (annotations.get(n) or {}).get("Rating") for n in names or annotations}
    return {
        name: number_field(value, f"{place}.{name}.Rating")
        for name, value in found.items()
        if not is_unrated(value)
    }
