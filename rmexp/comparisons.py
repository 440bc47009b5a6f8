"""The one noun: every row of every data set becomes a `Comparison` before a tokenizer sees it.

Imports nothing heavy: formats, splits and checks run without torch.
"""

import dataclasses
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Message = Mapping[str, Any]
"""A chat message: `role`, `content`, and what else a chat template reads (`tool_calls`, ...)."""


@dataclass(frozen=True)
class Judgement:
    """What people said of responses `i` and `j` of one comparison.

    Votes are counts or shares (>= 0). One vote for `i` says that `i` is better; a vote for a tie
    says that the two are equally good. `margin` is a strength in units of reward, or None.
    """

    i: int
    j: int
    votes_i: float = 1.0
    votes_j: float = 0.0
    votes_tie: float = 0.0
    margin: float | None = None
    weight: float = 1.0

    @property
    def verdict(self) -> int:
        """+1 where `i` won, -1 where `j` won, 0 for a tie.

        A tie is more tie votes than votes for either, or a draw.
        """
        if self.votes_i == self.votes_j or self.votes_tie > max(self.votes_i, self.votes_j):
            return 0
        return 1 if self.votes_i > self.votes_j else -1


@dataclass(frozen=True)
class Comparison:
    """A prompt, K >= 1 responses, and what people said of them: pairs, ratings, or both.

    `ratings` has one entry a response; higher is better (a format turns error scores around) and
    None means unrated. `place` says where the row came from (`file:line`), for messages.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]
    judgements: tuple[Judgement, ...] = ()
    ratings: tuple[float | None, ...] | None = None
    subset: str = "all"
    split: str | None = None
    place: str = ""

    def __post_init__(self) -> None:
        k = len(self.responses)
        if k == 0:
            raise ValueError("a comparison needs at least one response")
        if self.ratings is not None and len(self.ratings) != k:
            raise ValueError(f"{k} responses but {len(self.ratings)} ratings")
        for judgement in self.judgements:
            if not (0 <= judgement.i < k and 0 <= judgement.j < k and judgement.i != judgement.j):
                raise ValueError(
                    f"a judgement names responses {judgement.i} and {judgement.j} of {k}"
                )

    @property
    def prompt_key(self) -> str:
        """A hash of the prompt: comparisons with equal prompts never fall into different splits."""
        text = json.dumps(
            [dict(message) for message in self.prompt], sort_keys=True, ensure_ascii=False
        )
        return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def pairs_from_ratings(comparison: Comparison, min_gap: float) -> Comparison:
    """Judge each pair of rated responses by their ratings, where people gave no pairwise judgement.

    Ratings at least `min_gap` apart make a pair; equal ratings make a tie; a smaller gap says
    nothing.
    """
    if comparison.judgements or comparison.ratings is None:
        return comparison
    judged = []
    for i, a in enumerate(comparison.ratings):
        for j, b in enumerate(comparison.ratings[:i]):
            if a is None or b is None or math.isnan(a) or math.isnan(b):
                continue
            if a == b:
                judged.append(Judgement(j, i, votes_i=0.0, votes_tie=1.0))
            elif abs(a - b) >= min_gap:
                judged.append(Judgement(i, j) if a > b else Judgement(j, i))
    return dataclasses.replace(comparison, judgements=tuple(judged))
