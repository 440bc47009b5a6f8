"""Under which names, and as which kinds of values, data sets keep the fields of our formats."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from rmexp.data.formats.value_kinds import AS_TEXT

ANY: frozenset[str] = frozenset()
"""Any kind of value."""

ANSWER = frozenset(("text", "human", "message", "messages", "dialogue", "texts", "dialogues"))
WHOLE = frozenset(("human", "dialogue", "dialogues"))
LIST = frozenset(("texts", "messages", "dialogues"))
QUESTION = frozenset(("text", "human", "message", "messages", "dialogue", "texts"))


@dataclass(frozen=True)
class Columns:
    """Columns that hold one field, or several that belong together.

    Args:
        fields: of the format.
        names: usual names in tiers, the surest first; a name is a column for each field.
        kinds: kinds of values that the columns may have; `ANY`: all.
        beside: only where the prompt is this column.
    """

    fields: tuple[str, ...]
    names: tuple[tuple[tuple[str, ...], ...], ...]
    kinds: Collection[str] = ANY
    beside: str | None = None

    def find(
        self, there: Mapping[str, tuple[str, str]], mapped: Mapping[str, str | None]
    ) -> tuple[int, list[tuple[str, ...]]]:
        """The tier of the surest columns that a row has, and these: several are ambiguous.

        Args:
            there: plain name -> the column, and the kind of its value.
            mapped: field -> the column that the user named; None: the field is not read.
        """
        if any(mapped.get(field, "") is None for field in self.fields):
            return 0, []
        for tier, names in enumerate(self.names):
            found = dict.fromkeys(
                columns for name in names if (columns := self._columns(name, there, mapped))
            )
            if found:
                return tier, list(found)
        return 0, []

    def _columns(
        self,
        name: tuple[str, ...],
        there: Mapping[str, tuple[str, str]],
        mapped: Mapping[str, str | None],
    ) -> tuple[str, ...] | None:
        columns = []
        for field, usual in zip(self.fields, name, strict=True):
            own = mapped.get(field)
            column, kind = there.get(usual if own is None else f"={own}", ("", ""))
            if not kind or (own is None and not self._suits(kind)):
                return None
            columns.append(column)
        return tuple(columns)

    def _suits(self, kind: str) -> bool:
        if not self.kinds or kind in self.kinds:
            return True
        return kind.startswith(AS_TEXT) and (
            kind.removeprefix(AS_TEXT) in self.kinds or "text" in self.kinds
        )


def column(
    field: str, *tiers: str, kinds: Collection[str] = ANY, beside: str | None = None
) -> Columns:
    """The columns of one field, with the usual names of each tier separated by blanks."""
    names = tuple(tuple((name,) for name in tier.split()) for tier in tiers or (field,))
    return Columns((field,), names, kinds, beside)


def together(
    first: str, second: str, *tiers: Iterable[tuple[str, ...]], kinds: Collection[str] = ANY
) -> Columns:
    """The columns of two fields that belong together."""
    return Columns((first, second), tuple(tuple(tier) for tier in tiers), kinds)


NOUNS = (
    *("response", "answer", "output", "completion", "text", "reply", "resp", "content", "summary"),
    *("message", "messages", "conversation", "responses", "answers", "outputs", "completions"),
    *("conversations", "dialogue", "generation", "solution"),
)
SIDE_NAMES = (
    "chosen/rejected chosen/reject accepted/rejected choose/reject chosens/rejecteds "
    "preferred/dispreferred preferred/rejected preferred/non_preferred positive/negative "
    "pos/neg good/bad better/worse best/worst winner/loser winning/losing win/lose "
    "correct/incorrect right/wrong y_w/y_l response_j/response_k"
)
SIDE_PAIRS = tuple(tuple(pair.split("/")) for pair in SIDE_NAMES.split())
GRADES = ("rating", "score", "avg_rating", "reward", "grade")
LETTERS = (("a", "b"), ("1", "2"), ("0", "1"), ("first", "second"), ("left", "right"))


def sides() -> Iterator[tuple[str, ...]]:
    """Names of a better and a worse answer: chosen_response and rejected_response, ..."""
    yield from SIDE_PAIRS
    for (good, bad), noun in product(SIDE_PAIRS, NOUNS):
        yield f"{good}_{noun}", f"{bad}_{noun}"
        yield f"{noun}_{good}", f"{noun}_{bad}"
        yield good, f"{bad}_{noun}"
        yield f"{good}_{noun}", f"{bad}_{noun}s"
    for noun in NOUNS:
        yield noun, f"rejected_{noun}"


def side_by_side() -> Iterator[tuple[str, ...]]:
    """Names of two answers of which another column says the better: response_a and response_b."""
    yield from (pair for pair in LETTERS if pair[0].isalpha())
    nouns = (*NOUNS, "model_output", "human_ref", "candidate", "assistant", "model_response")
    for (one, other), noun in product(LETTERS, nouns):
        yield f"{noun}_{one}", f"{noun}_{other}"
        yield f"{one}_{noun}", f"{other}_{noun}"


def grades_side_by_side() -> Iterator[tuple[str, ...]]:
    """Names of the ratings of two answers: score_a and score_b, ..."""
    for (one, other), grade in product(LETTERS, GRADES):
        yield f"{grade}_{one}", f"{grade}_{other}"
        yield f"response_{one}_{grade}", f"response_{other}_{grade}"


def graded(side: int) -> str:
    """Names of the rating of the better (0) or the worse answer (1)."""
    words = dict.fromkeys(pair[side] for pair in SIDE_PAIRS)
    pairs = list(product(words, GRADES))
    return " ".join([f"{a}_{b}" for a, b in pairs] + [f"{b}_{a}" for a, b in pairs])


PROMPT_NAMES = (
    "question query context problem user post instruct user_prompt user_input user_query "
    "prompt_text question_text input_text user_message 问题 提示 提问 题目"
)
DIALOGUE_NAMES = "conversations conversation dialogue dialog trajectory context_messages"
PROMPT = column(
    "prompt",
    "prompt",
    f"{PROMPT_NAMES} instruction 指令 {DIALOGUE_NAMES}",
    "input history messages 输入",
    kinds=QUESTION,
)
PLAIN_PROMPT = column(
    "prompt", "prompt", PROMPT_NAMES, "input history messages 输入", kinds=QUESTION
)
PAIR = together("chosen", "rejected", [("chosen", "rejected")], sides(), kinds=ANSWER)
TWO = together(
    "response_a", "response_b", [("response_a", "response_b")], side_by_side(), kinds=ANSWER
)
TWO_RATINGS = together(
    "rating_a", "rating_b", [("rating_a", "rating_b")], grades_side_by_side(),
    kinds=("number", "text"),
)  # fmt: skip
RESPONSE = column(
    "response",
    "response",
    "answer output completion reply generation solution model_response model_output "
    "generated_text candidate 回答 输出",
    kinds=ANSWER,
)
RESPONSE_LIST = column(
    "responses",
    "responses",
    "answers completions candidates generations outputs replies candidate_responses",
    kinds=LIST,
)
RATINGS = column(
    "ratings", "ratings", "scores rewards rating score reward", kinds=("numbers", "texts", "object")
)
RANKS = column("ratings", "ranks", "rankings ranking rank", kinds=("numbers",))
RATING = column(
    "rating",
    "rating",
    "label score reward kto_tag desirable thumbs_up is_good",
    "is_correct judge_score human_score human_rating overall_score star_rating stars",
)
VERDICT = column(
    "votes",
    "votes",
    "winner label labels preference preferred better choice vote judgement judgment verdict "
    "better_response_id safer_response_id preferred_response preference_label human_preference "
    "overall_response",
    kinds=("text", "number", "texts", "numbers", "object"),
)


def field_of(name: str, kind: str) -> str | None:
    """The field that a column may hold which the recognised layout does not read."""
    if name in ("system", "system_message", "system_instruction", "sys") and kind == "text":
        return "system_prompt"
    if kind == "text" and name in f"prompt instruction {PROMPT_NAMES}".split():
        return "prompt"
    if name in ("rating", "ratings", "score", "scores", "reward") and kind in ("number", "numbers"):
        return "rating"
    return None
