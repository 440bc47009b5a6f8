"""The layouts that are recognised: the columns that a row needs, and the format that reads it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rmexp.comparison import Comparison
from rmexp.data.formats.all_pairs import AllPairs
from rmexp.data.formats.candidates import Candidates, TwoRated
from rmexp.data.formats.ms_swift import MsSwift
from rmexp.data.formats.nectar import Nectar
from rmexp.data.formats.oasst import Oasst
from rmexp.data.formats.preference import (
    OpenAIPreference,
    Preference,
    RankedOutputs,
    SharedBeginning,
)
from rmexp.data.formats.preference_strength import PreferenceStrength
from rmexp.data.formats.scored_objects import ScoredObjects
from rmexp.data.formats.single_response import SingleResponse
from rmexp.data.formats.steps import MathShepherd, Prm800k
from rmexp.data.formats.stepwise import Stepwise
from rmexp.data.formats.ultrafeedback import UltraFeedback
from rmexp.data.formats.usual_names import (
    DIALOGUE_NAMES,
    PAIR,
    PLAIN_PROMPT,
    PROMPT,
    QUESTION,
    RANKS,
    RATING,
    RATINGS,
    RESPONSE,
    RESPONSE_LIST,
    TWO,
    TWO_RATINGS,
    VERDICT,
    WHOLE,
    Columns,
    column,
    graded,
    together,
)
from rmexp.data.formats.votes import Votes, Winner

UNLABELLED, NAMED_ONLY = 3, 4
"""Tiers of layouts without a label, and of those that no column tells from others: they are read if
they are named."""


class LayoutFormat(Protocol):
    """A format of a layout: it knows which labels its rows may have."""

    @property
    def label_kinds(self) -> tuple[str, ...]:
        """See `comparison.LABEL_KINDS`."""
        ...

    def __call__(self, row: Mapping[str, Any], /) -> Comparison | Sequence[Comparison]:
        """The comparison of a row, or several."""
        ...


@dataclass(frozen=True)
class RowLayout:
    """A layout of rows.

    Args:
        name: `data.format=NAME`.
        title: in words.
        format: reads its rows.
        needs: columns that a row must have.
        takes: columns that are read where a row has them.
        tier: a layout of a lower tier is preferred: 0 columns of one publisher, 1 comparisons, 2
            single rated answers, `UNLABELLED`, `NAMED_ONLY`.
    """

    name: str
    title: str
    format: LayoutFormat
    needs: tuple[Columns, ...]
    takes: tuple[Columns, ...] = ()
    tier: int = 1


SHARED_FIELDS = (
    column("id"),
    column("subset", "subset", "dataset source", kinds=("text",)),
    *map(column, ("language", "lang", "split", "weight", "tools", "system_prompt")),
    column("ratings", kinds=("object",)),  # of several attributes
)
"""Fields of every layout."""

INPUT = (
    column("input", "input", "输入", kinds=("text",), beside="instruction"),
    column("history", kinds=("pairs",)),
)
GRADED = (
    *map(column, ("margin", "rating")),
    column("order", kinds=("texts",)),
    column("chosen_rating", "chosen_rating", graded(0)),
    column("rejected_rating", "rejected_rating", graded(1)),
)
INSTRUCTION = column("prompt", "", "instruction 指令", kinds=QUESTION)
MESSAGES = column("messages", "messages", DIALOGUE_NAMES, kinds=("dialogue",))


def _exactly(*names: str, kinds: tuple[str, ...] = ()) -> tuple[Columns, ...]:
    return tuple(column(name, name, kinds=kinds) for name in names)


def _publisher(field: str, name: str, *kinds: str) -> Columns:
    return column(field, name, kinds=kinds)


LAYOUTS = (
    RowLayout("oasst", "OpenAssistant trees", Oasst(),
           (*_exactly("message_tree_id"), _publisher("prompt", "prompt", "object")), tier=0),
    RowLayout("ultrafeedback", "UltraFeedback", UltraFeedback(None),
           (*_exactly("instruction"), _publisher("completions", "completions", "annotated")),
           tier=0),
    RowLayout("nectar", "Nectar", Nectar(),
           (_publisher("prompt", "prompt", "human"), _publisher("answers", "answers", "objects")),
           tier=0),
    RowLayout("prm800k", "PRM800K steps", Prm800k(),
           (_publisher("question", "question", "object"), _publisher("label", "label", "object")),
           tier=0),
    RowLayout("math_shepherd", "Math-Shepherd steps", MathShepherd(),
           _exactly("input", "label", "task", kinds=("text",)), tier=0),
    RowLayout("helpsteer3", "HelpSteer3", PreferenceStrength(),
           (PROMPT, TWO, column("strength", "overall_preference", "preference_strength strength")),
           (column("strengths", "individual_preference"),), tier=0),
    RowLayout("shp", "SHP", Votes(a=[1], b=[0], tie=[]),
           (_publisher("prompt", "history", "text"), _publisher("response_a", "human_ref_a"),
            _publisher("response_b", "human_ref_b"), _publisher("votes", "labels")), tier=0),
    RowLayout("openai_preference", "OpenAI's preferences", OpenAIPreference(),
           (_publisher("input", "input", "object"), _publisher("chosen", "preferred_output"),
            _publisher("rejected", "non_preferred_output")), tier=0),
    RowLayout("distilabel", "distilabel", Preference(),
           (PROMPT, PAIR, _publisher("generations", "generations", "texts"),
            _publisher("order", "order", "texts")), GRADED, tier=0),
    RowLayout("ms_swift", "ms-swift", MsSwift(), (MESSAGES, _publisher("rejected_response",
           "rejected_response")), (column("margin"),)),
    RowLayout("ms_swift_dialogues", "ms-swift dialogues", MsSwift(), (MESSAGES, _publisher(
           "rejected_messages", "rejected_messages")), (column("margin"),)),
    RowLayout("preference", "preference", Preference(), (PLAIN_PROMPT, PAIR), INPUT + GRADED),
    RowLayout("alpaca_ranking", "alpaca ranking", Preference(), (INSTRUCTION, PAIR),
           INPUT + GRADED),
    RowLayout("sharegpt_ranking", "ShareGPT ranking", Preference(),
           (column("prompt", "", DIALOGUE_NAMES, kinds=QUESTION), PAIR), GRADED),
    RowLayout("dialogues", "whole dialogues", Preference(),
           (Columns(PAIR.fields, PAIR.names, WHOLE),), GRADED),
    RowLayout("alpaca_outputs", "alpaca ranking of two outputs", RankedOutputs(),
           (PROMPT, column("output", "output", kinds=("texts",))), INPUT),
    RowLayout("candidates", "rated candidates", Candidates(), (PROMPT, RESPONSE_LIST, RATINGS),
           INPUT),
    RowLayout("ranked_candidates", "candidates with ranks, lower is better",
           Candidates(lower_is_better=True), (PROMPT, RESPONSE_LIST, RANKS), INPUT),
    RowLayout("scored_objects", "candidates as objects", ScoredObjects(),
           (PROMPT, Columns(("responses",), RESPONSE_LIST.names, ("objects",))), INPUT),
    RowLayout("all_pairs", "candidates with a label for each pair", AllPairs(),
           (PROMPT, RESPONSE_LIST, column("preference", kinds=("numbers",))),
           (column("feedback", kinds=("object",)),)),
    RowLayout("stepwise", "rated steps", Stepwise(),
           (PROMPT, column("completions", "completions", "steps", kinds=("texts",)),
            column("labels", "labels", "step_labels", kinds=("numbers",)))),
    RowLayout("winner", "two answers and the better one", Winner(), (PROMPT, TWO, VERDICT), INPUT),
    RowLayout("winner_of_dialogues", "two dialogues and the better one", Winner(),
           (Columns(TWO.fields, TWO.names, WHOLE), VERDICT)),
    RowLayout("vote_counts", "two answers and the votes for each", Votes(),
           (PROMPT, TWO, together("votes_a", "votes_b", [("votes_a", "votes_b")],
            [("winner_model_a", "winner_model_b")])),
           (column("votes_tie", "votes_tie", "winner_tie winner_model_tie"),)),
    RowLayout("two_rated", "two rated answers", TwoRated(), (PROMPT, TWO, TWO_RATINGS), INPUT),
    RowLayout("rated_response", "rated responses", SingleResponse(), (PROMPT, RESPONSE, RATING),
           INPUT, tier=2),
    RowLayout("rated_dialogue", "rated dialogues", SingleResponse(), (MESSAGES, RATING), tier=2),
    RowLayout("response", "responses without a label", SingleResponse(), (PROMPT, RESPONSE), INPUT,
           tier=UNLABELLED),
    RowLayout("dialogue", "dialogues without a label", SingleResponse(), (MESSAGES,),
           tier=UNLABELLED),
    RowLayout("responses", "candidates without ratings", Candidates(), (PROMPT, RESPONSE_LIST),
           INPUT, tier=UNLABELLED),
    RowLayout("shared_beginning", "texts that begin with their prompt", SharedBeginning(), (PAIR,),
           GRADED, tier=NAMED_ONLY),
    RowLayout("votes_1_2", "two answers, 1 or 2 is the better one", Votes([1], [2], [0]),
           (PROMPT, TWO, VERDICT), INPUT, tier=NAMED_ONLY),
    RowLayout("votes_0_1", "two answers, 0 or 1 is the better one", Votes([0], [1], []),
           (PROMPT, TWO, VERDICT), INPUT, tier=NAMED_ONLY),
    RowLayout("votes_1_0", "two answers, 1 is for the first, 0 for the second", Votes([1], [0], []),
           (PROMPT, TWO, VERDICT), INPUT, tier=NAMED_ONLY),
)  # fmt: skip
"""Every layout, by tier."""

BY_NAME = {layout.name: layout for layout in LAYOUTS}
