"""`Comparison`, the common form of all rows before tokenization.

Imports nothing heavy, so formats, splits and checks run without torch.
"""

import dataclasses
import hashlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring
from typing import Any

LABEL_KINDS = ("pairs", "votes", "ties", "margins", "ratings", "lists")
"""Kinds of labels: which of two responses is better, votes, ties and margins of pairs, ratings of
single responses, and rankings of two or more. Formats provide kinds, losses need them."""

Message = Mapping[str, Any]
"""A chat message: `role`, `content` and other keys of the chat template, e.g. `tool_calls`."""


@dataclass(frozen=True)
class PreferenceLabel:
    """Preference between the responses `i` and `j` of a comparison.

    Votes are counts or shares (>= 0) for `i`, for `j` and for a tie. `margin` is the strength of
    the preference in units of reward, or None.
    """

    i: int
    j: int
    votes_i: float = 1.0
    votes_j: float = 0.0
    votes_tie: float = 0.0
    margin: float | None = None
    weight: float = 1.0

    @property
    def shares(self) -> tuple[float, float, float]:
        """Shares of the votes for `i`, for `j` and for a tie; they sum to 1."""
        total = self.votes_i + self.votes_j + self.votes_tie
        return self.votes_i / total, self.votes_j / total, self.votes_tie / total

    @property
    def label(self) -> int:
        """+1 if `i` is better, -1 if `j` is better, 0 for a tie.

        It is a tie if `i` and `j` have equal votes, or if tie votes outnumber both.
        """
        if self.votes_i == self.votes_j or self.votes_tie > max(self.votes_i, self.votes_j):
            return 0
        return 1 if self.votes_i > self.votes_j else -1

    def flipped(self) -> "PreferenceLabel":
        """The same preference with `i` and `j` exchanged."""
        return dataclasses.replace(
            self, i=self.j, j=self.i, votes_i=self.votes_j, votes_j=self.votes_i
        )


@dataclass(frozen=True)
class Comparison:
    """A prompt, K >= 1 responses, and labels: pairwise preferences, ratings, or both.

    `ratings` has one entry per response; higher is better (formats negate error scores and ranks)
    and None means unrated. `attributes` has such ratings by the name of an attribute. `weight` is
    the row's weight in every loss. `unfinished` responses are the first steps of an answer, scored
    at their last token without an end of turn. `tools` are JSON schemas for the chat template.
    `group` is the row's group in cross-validation. `place` is the origin of the row (`file:line`),
    for messages.
    """

    id: str
    prompt: tuple[Message, ...]
    responses: tuple[tuple[Message, ...], ...]
    judgements: tuple[PreferenceLabel, ...] = ()
    ratings: tuple[float | None, ...] | None = None
    attributes: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)
    subset: str = "all"
    language: str | None = None
    split: str | None = None
    group: str | None = None
    weight: float = 1.0
    unfinished: bool = False
    tools: tuple[Mapping[str, Any], ...] = ()
    place: str = ""

    def __post_init__(self) -> None:
        k = len(self.responses)
        if k == 0:
            raise ValueError("a comparison needs at least one response")
        if self.ratings is not None and len(self.ratings) != k:
            raise ValueError(f"{k} responses but {len(self.ratings)} ratings")
        for name, ratings in self.attributes.items():
            if len(ratings) != k:
                raise ValueError(f"{k} responses but {len(ratings)} ratings of {name}")
        for judgement in self.judgements:
            if not (0 <= judgement.i < k and 0 <= judgement.j < k and judgement.i != judgement.j):
                raise ValueError(
                    f"a judgement names responses {judgement.i} and {judgement.j} of {k}"
                )
            votes = (judgement.votes_i, judgement.votes_j, judgement.votes_tie)
            if min(votes) < 0 or sum(votes) == 0:
                raise ValueError(f"a judgement has the votes {votes}")
        if not self.weight >= 0:
            raise ValueError(f"weight {self.weight}")

    def rank_levels(self) -> tuple[int | None, ...]:
        """Rank level of each response, 0 the worst; equal levels tie, None is unranked.

        From the pairwise labels where there are any, else from ratings. All responses are unranked
        where the labels form no weak order (cycles, contradictions, or pairs without a label).
        """
        if len(self.judgements) == 1 and len(self.responses) == 2:
            (judgement,) = self.judgements
            better = judgement.i if judgement.label == 1 else judgement.j
            return (0, 0) if judgement.label == 0 else (1 - better, better)
        if self.judgements:
            return levels_of_pairs(self.judgements, len(self.responses))
        rated = [r for r in self.ratings or () if r is not None]
        if len(rated) > 1:
            assert self.ratings is not None
            rank = {value: level for level, value in enumerate(sorted(set(rated)))}
            return tuple(None if r is None else rank[r] for r in self.ratings)
        return (None,) * len(self.responses)

    def named(self, id: str, split: str | None, place: str) -> "Comparison":
        """The same comparison with another id, split and place; nothing else is checked again."""
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, id=id, split=split, place=place)
        return copy

    @property
    def prompt_key(self) -> str:
        """Hash of the prompt. Comparisons with equal prompts belong to the same split."""
        return _hashed(self.prompt)

    @property
    def response_keys(self) -> list[str]:
        """Hash of each response, whatever the template (16 hex digits)."""
        return [_hashed(response)[:16] for response in self.responses]


def _hashed(messages: Sequence[Message]) -> str:
    if all(map(_is_plain, messages)):  # the same JSON in a third of the time
        quoted = ((encode_basestring(m["content"]), encode_basestring(m["role"])) for m in messages)
        text = ", ".join(f'{{"content": {content}, "role": {role}}}' for content, role in quoted)
        text = f"[{text}]"
    else:
        plain = [dict(message) for message in messages]
        text = json.dumps(plain, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _is_plain(message: Message) -> bool:
    return len(message) == 2 and (
        type(message.get("content")) is str and type(message.get("role")) is str
    )


def levels_of_pairs(judgements: Sequence[PreferenceLabel], count: int) -> tuple[int | None, ...]:
    """The weak order in which each response is preferred to exactly those on lower levels.

    Responses on the same level tie or were not compared; all are None where there is no such order.
    """
    below: dict[int, set[int]] = {}
    for judgement in judgements:
        for one, other, won in ((judgement.i, judgement.j, 1), (judgement.j, judgement.i, -1)):
            below.setdefault(one, set())
            if judgement.label == won:
                below[one].add(other)
    rank = {wins: level for level, wins in enumerate(sorted({len(b) for b in below.values()}))}
    levels = tuple(rank[len(below[k])] if k in below else None for k in range(count))
    judged: dict[frozenset[int], PreferenceLabel] = {}
    for judgement in judgements:
        forward = judgement if judgement.i < judgement.j else judgement.flipped()
        first = judged.setdefault(frozenset((forward.i, forward.j)), forward)
        if first.label != forward.label:
            return (None,) * count
    for pair in judged.values():
        wins, losses = len(below[pair.i]), len(below[pair.j])
        if (wins > losses) - (wins < losses) != pair.label:
            return (None,) * count
    # Pairs without a label tie: the others are as many as pairs of different levels.
    sizes = Counter(level for level in levels if level is not None)
    differing = (sizes.total() ** 2 - sum(size**2 for size in sizes.values())) // 2
    if differing != sum(pair.label != 0 for pair in judged.values()):
        return (None,) * count
    return levels


MAX_PAIRS = 20_000
"""Pairs that are made of the ratings of a comparison: all of 200 answers."""


def pairs_from_ratings(comparison: Comparison, min_gap: float) -> Comparison:
    """Derive pairwise labels from ratings, unless the comparison has pairwise labels.

    Ratings that differ by `min_gap` or more give a pair, equal ratings a tie, others no label. Of
    more than `MAX_PAIRS` pairs some are taken, in which each response is equally often.
    """
    if comparison.judgements or comparison.ratings is None:
        return comparison
    ratings, judged = comparison.ratings, []
    for i, j in _pairs_of(len(ratings)):
        a, b = ratings[i], ratings[j]
        if a is None or b is None or math.isnan(a) or math.isnan(b):
            continue
        if a == b:
            judged.append(PreferenceLabel(j, i, votes_i=0.0, votes_tie=1.0))
        elif abs(a - b) >= min_gap:
            judged.append(PreferenceLabel(i, j) if a > b else PreferenceLabel(j, i))
    return dataclasses.replace(comparison, judgements=tuple(judged))


def _pairs_of(count: int) -> Iterator[tuple[int, int]]:
    """All pairs (i, j) of `count` responses, j below i; of too many, those at some distances."""
    if count * (count - 1) // 2 <= MAX_PAIRS:
        yield from ((i, j) for i in range(count) for j in range(i))
        return
    distances = max(1, MAX_PAIRS // count)
    farthest = (count - 1) // 2  # beyond, pairs would come twice
    for number in range(1, distances + 1):
        distance = max(1, number * farthest // distances)
        for i in range(count):
            j = (i + distance) % count
            yield max(i, j), min(i, j)
