"""Sampled responses, one a row, rated by rewards from a file."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from random import Random
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Gt, Le

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import check_unicode, common_fields, is_unrated, rating_field
from rmexp.data.formats.messages import Messages, response_messages
from rmexp.data.reward_file import read_rewards
from rmexp.data.sources import BadRow, LeftOut


@dataclass(frozen=True)
class Samples:
    """`id`, `prompt` and `response`; neighbours with the same id answer the same prompt.

    The rating of a response is its reward in `rewards`; without that file, the column `rating`, or
    1 for a response that equals the column `reference` and 0 for others.

    Args:
        rewards: a file with the columns id, response (its number, from 0) and reward, as task=score
            writes it.
        pairs: the number of random pairs of each prompt, each of which is a comparison; None: all
            responses are one.
        noise: share of these pairs whose label is flipped.
        seed: of the drawn pairs and of the noise.
    """

    grouped_by: ClassVar[str] = "id"
    rewards: str | None = None
    pairs: Annotated[int, Gt(0)] | None = None
    noise: Annotated[float, Ge(0), Le(0.5)] = 0.0
    seed: int = 0
    _rated: dict[str, dict[str, float]] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Read the rewards, so that a missing file is found before anything is loaded."""
        if self.rewards is None:
            return
        for (name, number), reward in read_rewards(self.rewards).items():
            if math.isfinite(reward):
                self._rated.setdefault(name, {})[str(number)] = reward

    @property
    def label_kinds(self) -> tuple[str, ...]:
        """The kinds of labels that comparisons may have."""
        return ("ratings", "lists") if self.pairs is None else ("pairs",)

    def __call__(self, row: Mapping[str, Any]) -> Comparison | Sequence[Comparison]:
        first = _scalars(row)
        texts = row.get("response") or []
        if not texts:
            raise BadRow(
                "no response: data=samples reads a response a row, data=jsonl lists of them"
            )
        ratings = self._ratings(row, str(first.get("id")), len(texts))
        if self.rewards is not None and not any(rating is not None for rating in ratings):
            raise LeftOut(f"responses without a reward in {self.rewards}")
        whole = Comparison(
            prompt=prompt_field(first),
            responses=tuple(_response(text, n) for n, text in enumerate(texts)),
            ratings=tuple(ratings) if any(rating is not None for rating in ratings) else None,
            **common_fields(first),
        )
        return whole if self.pairs is None else list(self._pairs(whole, self.pairs))

    def _ratings(self, row: Mapping[str, Any], name: str, count: int) -> list[float | None]:
        if self.rewards is not None:
            found = self._rated.get(name, {})
            return [found.get(str(number)) for number in range(count)]
        if "rating" in row:
            return [
                None if is_unrated(value) else rating_field(value, "rating")
                for value in row["rating"]
            ]
        if "reference" in row:
            sides = zip(row["response"], row["reference"], strict=True)
            return [float(str(one).strip() == str(right).strip()) for one, right in sides]
        return [None] * count

    def _pairs(self, whole: Comparison, most: int) -> Iterator[Comparison]:
        """Random pairs of responses with different ratings, the better one by its rating."""
        if whole.ratings is None:
            raise BadRow("data.format.pairs needs ratings: give data.format.rewards=FILE")
        ratings = {n: rating for n, rating in enumerate(whole.ratings) if rating is not None}
        text = f"{self.seed} {whole.prompt_key}"
        random = Random(hashlib.sha256(text.encode()).digest())
        pairs = [(i, j) for i, j in combinations(ratings, 2) if ratings[i] != ratings[j]]
        for i, j in random.sample(pairs, min(most, len(pairs))):
            right = (ratings[i] > ratings[j]) != (random.random() < self.noise)
            label = PreferenceLabel(0, 1) if right else PreferenceLabel(1, 0)
            yield Comparison(
                id=f"{whole.id}/{i}-{j}",
                prompt=whole.prompt,
                responses=(whole.responses[i], whole.responses[j]),
                judgements=(label,),
                subset=whole.subset,
                language=whole.language,
                split=whole.split,
                weight=whole.weight,
                tools=whole.tools,
            )


def _scalars(row: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that all rows of a prompt share, of its first row."""
    return {
        name: values[0] if isinstance(values, list) and values else values
        for name, values in row.items()
        if name not in ("response", "rating", "reference")
    }


def _response(value: Any, number: int) -> Messages:
    """The messages of a response; unlike in other formats it may be blank, as a policy's may."""
    if not isinstance(value, str):
        return response_messages(value, f"response[{number}]")
    check_unicode(value, f"response[{number}]")
    return ({"role": "assistant", "content": value},)
