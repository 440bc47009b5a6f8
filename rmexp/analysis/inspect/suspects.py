"""The most suspect labels with their texts."""

from collections.abc import Mapping, Sequence
from typing import Any

from rmexp.analysis.inspect.examples import shared_length
from rmexp.analysis.inspect.prompts import truncate
from rmexp.data.comparison_data import ComparisonData

SUSPECTS_SHOWN = 50
PROMPT_SHOWN = 1500  # characters at the end of the prompt
RESPONSE_SHOWN = 3000  # characters


def suspect_examples(
    data: ComparisonData, labels: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The first labels of a file (see `label_rows`) with the texts of prompt and responses.

    Each comparison is shown once.
    """
    first: dict[str, Mapping[str, Any]] = {}
    for label in labels:
        if len(first) == SUSPECTS_SHOWN or label["wrong"] <= 0.5:
            break
        first.setdefault(label["id"], label)
    number = {name: n for n, name in enumerate(data.rows["id"][:]) if name in first}
    found = []
    for name, label in first.items():
        texts = data.rows[number[name]]["texts"]
        pair = [texts[k] for k in label["pair"]]
        start = shared_length(pair)
        start = pair[0].rfind("\n", 0, start) + 1  # whole lines
        prompt = pair[0][:start]
        shown = {
            "prompt": prompt if len(prompt) <= PROMPT_SHOWN else "... " + prompt[-PROMPT_SHOWN:],
            "texts": [truncate(text[start:], RESPONSE_SHOWN) for text in pair],
        }
        found.append(dict(label) | shown)
    return found
