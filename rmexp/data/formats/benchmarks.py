"""Rows of the public benchmarks as their publishers write them.

Rows without the publisher's columns are read by `auto.Auto`, so that each format takes rows with
`prompt`, `chosen`, `rejected`, ... too. RewardBench 1 has these columns.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar

from rmexp.comparison import Comparison, PreferenceLabel
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.dialogues import prompt_field
from rmexp.data.formats.fields import (
    common_fields,
    decoded,
    field,
    list_field,
    text_field,
    unique_texts,
)
from rmexp.data.formats.messages import prompt_messages, response_list, response_messages
from rmexp.data.formats.votes import Votes
from rmexp.data.sources import BadRow

BenchmarkRow = Mapping[str, Any]

AREAS = {
    "mmlu-pro": "knowledge",
    "livebench-reasoning": "reasoning",
    "livebench-math": "math",
    "livecodebench": "coding",
}
"""Prefix of JudgeBench's sources -> the skill that they test."""


@dataclass(frozen=True)
class ChosenRejected:
    """`prompt`, `chosen` and `rejected` as lists: each chosen answer is better than each rejected.

    RewardBench 2 (`subset`; ids of Ties group questions) and RM-Bench
    (`domain`; three styles on each side, in the same order).
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        if not any(_is_texts(decoded(row.get(name))) for name in ("chosen", "rejected")):
            return Auto()(_with_subset(row, "domain"))
        good, bad = (list_field(row, name, "answers") for name in ("chosen", "rejected"))
        labelled = _with_subset(row, "domain")
        return _lists(prompt_field(row), good, bad, ("chosen", "rejected"), labelled)


@dataclass(frozen=True)
class JudgeBench:
    """`question`, `response_A`, `response_B` and `label` ("A>B" or "B>A"); `source` is the subset.

    Sources are grouped into knowledge, reasoning, math and coding.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        if "response_A" not in row:
            return Auto()(row)
        source = text_field(row, "source", "")
        area = next((area for start, area in AREAS.items() if source.startswith(start)), source)
        labelled = {"id": row.get("pair_id"), "subset": area or None, **row}
        return _labelled(
            prompt_field(row, "question"),
            row,
            ("response_A", "response_B"),
            ("A>B", "B>A"),
            labelled,
        )


@dataclass(frozen=True)
class LLMBar:
    """`input`, `output_1`, `output_2` and `label` (1 or 2: the better one).

    Args:
        subset: of rows without one. The publishers have one file each for Natural, Neighbor,
            GPTInst, GPTOut and Manual.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")
    subset: str = "all"

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        row = {"subset": self.subset, **row}
        if "output_1" not in row:
            return Auto()(row)
        return _labelled(prompt_field(row, "input"), row, ("output_1", "output_2"), ("1", "2"), row)


@dataclass(frozen=True)
class RMB:
    """`conversation_input` with `bon_best` and `loser_list`, or with `chosen` and `reject`.

    Answers are objects with `answer`. `category_path` (SET/GOAL/CATEGORY/TASK) becomes the subset
    GOAL.CATEGORY.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        if "conversation_input" not in row:
            return Auto()(row)
        names = ("bon_best", "loser_list") if "bon_best" in row else ("chosen", "reject")
        best, losers = (decoded(field(row, name)) for name in names)
        turns = [
            {key: turn.get(key) for key in ("role", "content")} if isinstance(turn, dict) else turn
            for turn in list_field(row, "conversation_input", "messages")
        ]
        place = [part for part in text_field(row, "category_path", "").split("/") if part]
        labelled = {
            "id": row.get("bon_uid") or row.get("pair_uid"),
            "subset": ".".join(place[1:3]) or None,
            **row,
        }
        prompt = prompt_messages(turns, "conversation_input")
        return _lists(prompt, _answers(best, names[0]), _answers(losers, names[1]), names, labelled)


@dataclass(frozen=True)
class PPE:
    """Rows of Preference Proxy Evaluations, of people's preferences and of correctness.

    Preferences have `response_1`, `response_2` and `winner` (model_a, model_b or a tie); their
    `language` is the subset. Correctness has K responses, `response_1` to `response_K`, of which
    `scores` tells the right ones: their ratings. `sampled_conflict_pairs` are the labelled pairs.

    Args:
        subset: of rows of correctness. The publishers have one set each for MMLU-Pro, MATH, GPQA,
            IFEval and MBPP-Plus.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "ties", "lists", "ratings")
    subset: str = "all"

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        if "sampled_conflict_pairs" in row:
            return self._answers(row)
        if "response_1" not in row or "winner" not in row:
            return Auto()(row)
        names = {"response_a": "response_1", "response_b": "response_2", "votes": "winner"}
        renamed = {name: field(row, column) for name, column in names.items()}
        own = {"id": row.get("question_id"), "subset": row.get("language")}
        return Votes(("model_a",), ("model_b",), ARENA_TIES)(
            {"prompt": row.get("prompt"), **own, **renamed}
        )

    def _answers(self, row: BenchmarkRow) -> Comparison:
        scores, labels = list_field(row, "scores", "scores"), []
        for pair in list_field(row, "sampled_conflict_pairs", "pairs"):
            if not _is_pair(pair, len(scores)):
                raise BadRow(
                    f"sampled_conflict_pairs has {pair!r}: two numbers of responses, from 0"
                )
            i, j = (int(place) for place in pair)
            if scores[i] == scores[j]:
                raise BadRow(f"scores of the responses {i} and {j} are the same")
            labels.append(PreferenceLabel(i, j) if scores[i] > scores[j] else PreferenceLabel(j, i))
        texts = [field(row, f"response_{n}") for n in range(1, len(scores) + 1)]
        return Comparison(
            prompt=prompt_field(row),
            responses=response_list(texts, "responses"),
            judgements=tuple(labels),
            ratings=tuple(map(float, scores)),
            **common_fields({**row, "id": row.get("question_id"), "subset": self.subset}),
        )


ARENA_TIES = ("tie", "tie (bothbad)")
"""Labels of a vote for neither in Chatbot Arena."""


def _is_pair(value: Any, count: int) -> bool:
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(one, int) and 0 <= one < count for one in value)
    )


ORIGINAL = "original"
"""Subset of the rows that a transformation was applied to."""


@dataclass(frozen=True)
class Transformed:
    """Rows with a `transformation`, their subset and a part of their id (reWordBench).

    A transformed row has the `id` of its original, which has no `transformation`, or `original`.
    """

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        name, old = text_field(row, "transformation", ORIGINAL), field(row, "id")
        changed = {} if name == ORIGINAL else {"id": f"{old}+{name}"}
        return Auto()({**row, "subset": name, **changed})


def original_id(name: str, transformation: str) -> str:
    """The id of the original of a transformed comparison."""
    return name.removesuffix(f"+{transformation}")


@dataclass(frozen=True)
class ByLanguage:
    """Rows with a `language`, which becomes their subset (M-RewardBench and other sets)."""

    label_kinds: ClassVar[tuple[str, ...]] = ("pairs", "lists")

    def __call__(self, row: BenchmarkRow) -> Comparison | Sequence[Comparison]:
        return Auto()({**row, "subset": field(row, "language")})


def _answers(given: Any, name: str) -> list[Any]:
    given = given if isinstance(given, list) else [given]
    if not given or not all(isinstance(one, Mapping) and "answer" in one for one in given):
        raise BadRow(f"{name} must hold objects with an answer")
    return [one["answer"] for one in given]


def _lists(
    prompt: Any, good: list[Any], bad: list[Any], names: tuple[str, str], row: BenchmarkRow
) -> Comparison:
    """Each good answer is better than each bad one; other pairs have no label."""
    responses = (*response_list(good, names[0]), *response_list(bad, names[1]))
    pairs = product(range(len(good)), range(len(good), len(responses)))
    return Comparison(
        prompt=prompt,
        responses=responses,
        judgements=tuple(PreferenceLabel(i, j) for i, j in pairs),
        **common_fields(row),
    )


def _labelled(
    prompt: Any,
    row: BenchmarkRow,
    names: tuple[str, str],
    labels: tuple[str, str],
    labelled: BenchmarkRow,
) -> Comparison:
    """Two answers in the row's order, and a label that names the better one."""
    one, other = (field(row, name) for name in names)
    unique_texts(one, other, " and ".join(names))
    label = str(field(row, "label")).strip()
    if label not in labels:
        raise BadRow(f"label is {label!r} (known: {' or '.join(labels)})")
    return Comparison(
        prompt=prompt,
        responses=(response_messages(one, names[0]), response_messages(other, names[1])),
        judgements=(PreferenceLabel(0, 1) if label == labels[0] else PreferenceLabel(1, 0),),
        **common_fields(labelled),
    )


def _is_texts(value: Any) -> bool:
    """A list of texts, and not one of messages."""
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def _with_subset(row: BenchmarkRow, column: str) -> BenchmarkRow:
    return row if row.get("subset") is not None else {**row, "subset": row.get(column)}
