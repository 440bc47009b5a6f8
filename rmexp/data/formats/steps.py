"""Public data sets of rated steps: PRM800K and Math-Shepherd."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from rmexp.comparison import Comparison
from rmexp.data.formats.fields import common_fields, decoded, field, is_unrated, rating_field
from rmexp.data.formats.messages import prompt_messages, response_messages
from rmexp.data.formats.stepwise import Stepwise
from rmexp.data.sources import BadRow, LeftOut


@dataclass(frozen=True)
class Prm800k:
    """`question.problem` and `label.steps`, each with alternative `completions` rated -1, 0 or 1.

    Each response is the solution up to and including a completion, with that one's rating.
    Source: Lightman et al. 2023, arXiv:2305.20050, https://github.com/openai/prm800k.
    """

    label_kinds: ClassVar[tuple[str, ...]] = Stepwise.label_kinds

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        question, label = (decoded(field(row, name)) for name in ("question", "label"))
        steps = label.get("steps") if isinstance(label, Mapping) else None
        if not isinstance(question, Mapping) or not isinstance(steps, list):
            raise BadRow("question must be an object with problem, label an object with steps")
        rated = dict(_rated(steps))
        if not rated:
            raise LeftOut("no step is rated")
        return Comparison(
            prompt=prompt_messages(question.get("problem"), "question.problem"),
            responses=tuple(response_messages(text, "label.steps") for text in rated),
            ratings=tuple(rated.values()),
            unfinished=True,
            **common_fields({**row, "label": None}),
        )


def _rated(steps: Sequence[Any]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    path: list[str] = []
    for k, step in enumerate(steps):
        if not isinstance(step, Mapping):
            raise BadRow(f"label.steps[{k}] is no object")
        completions = [one for one in step.get("completions") or () if isinstance(one, Mapping)]
        for one in completions:
            text, rating = one.get("text"), one.get("rating")
            if isinstance(text, str) and text.strip() and not is_unrated(rating):
                name = f"label.steps[{k}].rating"
                found.append(("\n".join((*path, text)), rating_field(rating, name)))
        number, human = step.get("chosen_completion"), step.get("human_completion")
        taken = human if isinstance(human, Mapping) else None
        if isinstance(number, int) and 0 <= number < len(completions):
            taken = completions[number]
        if taken is None or not isinstance(taken.get("text"), str):
            break
        path.append(taken["text"])
    return found


@dataclass(frozen=True)
class MathShepherd:
    """`input` with a mark after each step, and `label`, the same text with + or - as the marks.

    Source: Wang et al. 2023, arXiv:2312.08935,
    https://huggingface.co/datasets/peiyi9979/Math-Shepherd.
    """

    label_kinds: ClassVar[tuple[str, ...]] = Stepwise.label_kinds
    mark: str = "ки"

    def __call__(self, row: Mapping[str, Any]) -> Comparison:
        text, labelled = (str(field(row, name)) for name in ("input", "label"))
        *pieces, _ = text.split(self.mark)
        question, begins, first = (pieces[0] if pieces else "").partition("Step 1")
        if not begins:
            raise BadRow(f"input has no Step 1 with a {self.mark} after it")
        labels, position = [], 0
        for piece in pieces:
            position += len(piece)
            sign = labelled[position : position + 1]
            if sign not in ("+", "-"):
                raise BadRow("label is not the input with + or - as the marks")
            labels.append(sign == "+")
            position += 1
        steps = [begins + first, *pieces[1:]]
        fields = {
            "prompt": question.strip(),
            "completions": [step.strip() for step in steps],
            "labels": labels,
        }
        return Stepwise()({**row, **fields, "label": None})
