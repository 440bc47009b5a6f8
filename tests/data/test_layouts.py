"""Layouts of public data sets, recognised by their columns."""

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rmexp.comparison import Comparison
from rmexp.core.errors import UserError
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.layouts import LAYOUTS
from rmexp.data.formats.text_only import TextOnly
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport
from rmexp.data.sources import BadRow, LeftOut
from tests.conftest import ROOT


def said(role, text):
    return {"role": role, "content": text}


def shared(who, text):
    return {"from": who, "value": text}


ASKED, YES, NO = said("user", "Q"), said("assistant", "yes"), said("assistant", "no")
SYSTEM = said("system", "S")
PAIR = {"chosen": "yes", "rejected": "no"}
HH_YES, HH_NO = (f"\n\nHuman: Q\n\nAssistant: {answer}" for answer in ("yes", "no"))
TWO = {"response_a": "no", "response_b": "yes"}
TALKS = {"chosen": [ASKED, YES], "rejected": [ASKED, NO]}
NAN = float("nan")
OPENINGS = {"chosen": "Well, it is yes", "rejected": "Well, it is no"}

# Each reads as the prompt Q with yes better than no.
PAIRS = {
    "preference": [
        *({name: "Q", **PAIR} for name in ("prompt", "question", "query", "problem", "Prompt")),
        *({name: "Q", **PAIR} for name in ("context", "input", "user")),
        {"prompt": "Q", "chosen_response": "yes", "rejected_response": "no"},
        {"question": "Q", "response_chosen": "yes", "response_rejected": "no"},
        {"question": "Q", "answer_good": "yes", "answer_bad": "no"},
        {"prompt": "Q", "positive": "yes", "negative": "no"},
        {"prompt": "Q", "winner": "yes", "loser": "no"},
        {"prompt": "Q", "preferred": "yes", "dispreferred": "no"},
        {"query": "Q", "response": "yes", "rejected_response": "no"},
        {"type": "t", "prompt": "Q", "pos_resp": "yes", "neg_resp": "no"},  # CValues
        {"prompt": "Q", "question_id": 1, **PAIR, "upvotes_chosen": 3, "upvotes_rejected": 1},
        {"prompt": "Q", "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"prompt": " Q\n", "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"prompt": "Q", "messages": [ASKED, YES], "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"prompt": json.dumps([ASKED]), "chosen": json.dumps([YES]), "rejected": json.dumps([NO])},
        {"prompt": "\n\nHuman: Q\n\nAssistant:", "response": "x", **PAIR},
        {"question": [{"role": "human", "text": "Q"}], "chosen": {"role": "gpt", "text": "yes"},
         "rejected": {"role": "gpt", "text": "no"}},
    ],
    "alpaca_ranking": [
        {"instruction": "Q", "input": "", **PAIR},
        {"instruction": "Q", "input": None, "chosen_response": "yes", "rejected_response": "no"},
    ],
    "alpaca_outputs": [{"instruction": "Q", "input": "", "output": ["yes", "no"]}],
    "sharegpt_ranking": [
        {"conversations": [shared("human", "Q")], "chosen": shared("gpt", "yes"),
         "rejected": shared("gpt", "no")},
        {"trajectory": [shared("user", "Q")], **PAIR, "id": "0", "task": "Math_CoT"},
    ],
    "dialogues": [
        {"chosen": [ASKED, YES], "rejected": [ASKED, NO], "prompt": None},
        {"chosen": HH_YES, "rejected": HH_NO},
        {"dataset": "all", "chosen": [ASKED, YES], "rejected": [ASKED, NO]},
        {"conversations": [shared("human", "Q"), shared("gpt", "yes")],
         "rejected_conversations": [shared("human", "Q"), shared("gpt", "no")]},
        {"chosen_conversations": [ASKED, YES], "rejected_conversations": [ASKED, NO]},
    ],
    "openai_preference": [
        {"input": {"messages": [ASKED], "tools": [], "parallel_tool_calls": True},
         "preferred_output": [YES], "non_preferred_output": [NO]},
    ],
    "distilabel": [
        {"input": "Q", **PAIR, "generations": ["yes", "no"], "order": ["chosen", "rejected"],
         "rating": [9.0, 7.0], "labelling_prompt": [SYSTEM]},
    ],
    "ms_swift": [{"messages": [ASKED, YES], "rejected_response": "no"}],
    "ms_swift_dialogues": [{"messages": [ASKED, YES], "rejected_messages": [ASKED, NO]}],
    "winner": [
        {"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "a"},
        {"prompt": "Q", "response_1": "no", "response_2": "yes", "preference": 2},
        {"prompt": "Q", "answer1": "yes", "answer2": "no", "label": "1"},
        {"question": "Q", "response_A": "no", "response_B": "yes", "label": "B>A"},
        {"prompt": "Q", "response_0": "no", "response_1": "yes", "better_response_id": 1},
        {"prompt": "Q", "output_a": "yes", "output_b": "no", "winner": "model_a"},
        {"prompt": "Q", "response_1": "no", "response_2": "yes", "winner": "model_b"},
        {"prompt": "Q", "left": "yes", "right": "no", "choice": "left"},
        {"prompt": "Q", "A": "no", "B": "yes", "label": "B"},
        {"prompt": "Q", **TWO, "preference": "B is much better"},
        {"prompt": "Q", "output_1": "yes", "output_2": "no", "preference": 1.0},
    ],
    "winner_of_dialogues": [
        {"conversation_a": [ASKED, NO], "conversation_b": [ASKED, YES], "winner": "model_b"}
    ],
    "vote_counts": [
        {"prompt": '["Q"]', "response_a": '["yes"]', "response_b": '["no"]',
         "winner_model_a": "1", "winner_model_b": "0", "winner_tie": "0"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("layout", "row"), [(name, row) for name, rows in PAIRS.items() for row in rows]
)
def test_a_pair_in_the_layout_of_a_public_data_set(layout, row):
    found = Auto()(row)
    better, worse = found.responses[:: found.judgements[0].label]
    assert (found.prompt, better, worse) == ((ASKED,), (YES,), (NO,))
    assert Auto().reading(row).layout == layout


@pytest.mark.parametrize(
    ("layout", "row", "ratings"),
    [
        ("candidates", {"prompt": "Q", "answers": ["a", "b"], "scores": ["4", None]}, (4, None)),
        ("candidates", {"query": "Q", "responses": ["a", "b"], "ratings": [1, NAN]}, (1, None)),
        ("ranked_candidates", {"prompt": "Q", "responses": ["a", "b"], "ranks": [1, 2]}, (-1, -2)),
        (
            "scored_objects",
            {"prompt": "Q", "completions": [{"text": "a", "score": 2}, {"text": "b", "score": 1}]},
            (2, 1),
        ),
        (
            "ultrafeedback",
            {
                "instruction": "Q",
                "completions": [
                    {"response": "a",
                     "annotations": {"honesty": {"Rating": "4"}, "x": {"Rating": "N/A"}}}
                ],
                "correct_answers": ["None"],
                "incorrect_answers": ["None"],
            },
            (4,),
        ),
        (
            "prm800k",
            {
                "question": {"problem": "Q"},
                "label": {
                    "steps": [
                        {"completions": [{"text": "a", "rating": 1}, {"text": "x", "rating": 0}],
                         "human_completion": None, "chosen_completion": 0},
                        {"completions": [{"text": "b", "rating": -1}], "chosen_completion": None},
                    ]
                },
            },
            (1, 0, -1),
        ),
        (
            "math_shepherd",
            {"input": "Q Step 1: a ки\nStep 2: b ки", "label": "Q Step 1: a +\nStep 2: b -",
             "task": "GSM8K"},
            (1, 0),
        ),
        ("two_rated", {"prompt": "Q", **TWO, "score_a": 2, "score_b": "N/A"}, (2, None)),
        ("rated_response", {"prompt": "Q", "completion": [YES], "label": True}, (1,)),
        ("rated_dialogue", {"messages": [ASKED, YES], "label": False}, (0,)),
        (
            "rated_dialogue",
            {"conversations": [shared("human", "Q"), shared("gpt", "a")], "kto_tag": True},
            (1,),
        ),
        ("rated_response", {"user_prompt": "Q", "model_response": "a", "score": 50}, (50,)),
        ("rated_response", {"problem": "Q", "solution": "a", "is_correct": True}, (1,)),
        (
            "scored_objects",
            {"question": "Q", "answers": [{"text": "a", "pm_score": 5}, {"text": "b",
                                           "pm_score": 1}]},
            (5, 1),
        ),
        ("response", {"prompt": "Q", "answer": "yes"}, None),
    ],
)  # fmt: skip
def test_ratings_in_the_layout_of_a_public_data_set(layout, row, ratings):
    assert Auto().reading(row).layout == layout
    found = Auto()(row)
    assert (found.ratings, found.prompt[0]["content"]) == (ratings, "Q")


@pytest.mark.parametrize(
    ("preference", "shares"),
    [(1.5, (0, 0, 1)), ("1.5", (0, 0, 1)), (1.25, (0.75, 0.25, 0)), (2.0, (0, 1, 0))],
)
def test_a_number_between_two_answers_is_a_share_of_votes(preference, shares):
    row = {"prompt": "Q", "output_1": "a", "output_2": "b", "preference": preference}
    assert Auto()(row).judgements[0].shares == shares


@pytest.mark.parametrize(
    ("row", "unread"),
    [
        (
            {"prompt": "Q", "response": "a", "helpfulness": 3, "source": "x"},
            ["helpfulness ignored: say data.fields.rating=helpfulness if it rates the response"],
        ),
        (
            {"prompt": "Q", "response_1": "a", "response_2": "b", "response_3": "c", "score_1": 1,
             "score_2": 2, "score_3": 3},
            ["response_3 ignored: K answers are a list in one column, responses"],
        ),
        ({"prompt": "Q", **TWO, "label": "a"}, []),
    ],
)  # fmt: skip
def test_columns_that_matter_and_are_ignored_are_named(row, unread):
    assert Auto().reading(row).unread == unread


def test_alpaca_input_and_history_are_parts_of_the_prompt():
    row = {"instruction": "Add", "input": "1 2", "history": [["a", "b"]], **PAIR, "system": "S"}
    found = Auto()(row)
    assert found.prompt == (said("user", "a"), said("assistant", "b"), said("user", "Add\n1 2"))
    reading = Auto().reading(row)
    assert reading.words == "alpaca ranking: instruction + input, chosen, rejected"
    assert reading.also == ["history"]
    assert reading.unread == ["system ignored: say data.fields.system_prompt=system"]


def test_several_rejected_answers_are_a_pair_each():
    found = Auto()({"prompt": "Q", "chosen": "yes", "rejected": ["no", "never"]})
    assert [(j.i, j.j) for j in found.judgements] == [(0, 1), (0, 2)]


@pytest.mark.parametrize("order", [["chosen", "rejected"], ["rejected", "chosen"]])
def test_a_list_of_two_ratings_follows_their_order(order):
    ratings = {"chosen": 9.0, "rejected": 7.0}
    row = {"input": "Q", **PAIR, "order": order, "rating": [ratings[name] for name in order]}
    assert Auto()(row).ratings == (9.0, 7.0)


def test_dialogues_count_beside_the_text_of_their_prompt():
    talk = {"chosen": [SYSTEM, ASKED, YES], "rejected": [SYSTEM, ASKED, NO]}
    assert Auto()({"prompt": "Q", **talk}).prompt == (SYSTEM, ASKED)
    earlier = [said("user", "A"), said("assistant", "B"), ASKED]
    longer = {"chosen": [*earlier, YES], "rejected": [*earlier, NO]}
    assert Auto()({"prompt": "Q", **longer}).prompt == tuple(earlier)
    alone = {"prompt": [SYSTEM, ASKED], "chosen": [ASKED, YES], "rejected": [ASKED, NO]}
    assert Auto()(alone).prompt == (SYSTEM, ASKED)


@pytest.mark.parametrize(
    ("row", "fields", "sentence"),
    [
        (OPENINGS, {}, "there is no prompt: chosen and rejected are answers alone; name its"),
        ({"task": "Q", **OPENINGS}, {}, "there is no prompt"),
        ({"question": "Q", "context": "C", **PAIR}, {}, "question or data.fields.prompt=context"),
        (
            {"prompt": "Q", **PAIR, "responses": ["a", "b"], "ratings": [1, 2]},
            {},
            "say data.format=preference or data.format=candidates",
        ),
        (
            {"prompt": "Q", "response_0": "a", "response_1": "b", "better_response_id": 0,
             "safer_response_id": 1},
            {},
            "data.fields.votes=better_response_id or data.fields.votes=safer_response_id",
        ),
        ({"prompt": "Q", **TWO, "label": 1}, {}, "data.format=votes_1_2"),
        ({"prompt": "Q", **TWO}, {}, "data.fields.votes=COLUMN"),
        ({"prompt": "R", **TALKS}, {}, "data.fields.prompt=null"),
        ({"prompt": "Q", **PAIR}, {"rejected": None}, "field 'rejected' is missing"),
        ({"prompt": "Q", "chosen": "a  b", "rejected": "a b"}, {}, "the same but for blanks"),
        ({"prompt": "Q", "best": "", "worst": "b"}, {}, "best is empty"),
        ({"prompt": "Q", "chosen": 1, "rejected": 2}, {}, "should be text or messages"),
        ({"prompt": "Q", **PAIR, "margin": 10**400}, {}, "margin is "),
        ({"prompt": "Q", **PAIR, "margin": 1e300}, {}, "within single precision"),
        ({"prompt": "Q", **PAIR, "weight": True}, {}, "weight is not a number (True)"),
        ({"prompt": "Q", **PAIR, "subset": "\ud83d"}, {}, "subset is not valid Unicode"),
        ({"prompt": json.dumps([said("user", [[]])]).replace("[]", "[" * 300 + "]" * 300), **PAIR},
         {}, "nested more than 100 deep"),
        ({"foo": "a"}, {}, "no layout has these columns"),
        ({"question": {"full_text": "Q"}, **TWO}, {}, "e.g. data.fields.prompt=question.text"),
        ({"prompt": "Q", "chosen": {"text": "a"}, "rejected": {"text": "b"}}, {},
         "name the text in it, e.g. data.fields.chosen=chosen.text"),
    ],
)  # fmt: skip
def test_what_is_not_certain_is_refused_with_what_decides_it(row, fields, sentence):
    with pytest.raises(BadRow) as caught:
        Auto(fields=fields)(row)
    assert sentence in str(caught.value)


def test_a_layout_or_a_column_that_is_named_decides():
    row = {"question": "Q", "context": "C", **OPENINGS, "label": 1}
    assert Auto(fields={"prompt": "question"})(row).prompt == (ASKED,)
    alone = Auto("shared_beginning", {"prompt": None})({**OPENINGS, "question": "Q"})
    assert alone.prompt == (said("user", "Well, it is"),)
    votes = {"prompt": "Q", **TWO, "label": 1}
    assert Auto("votes_0_1")(votes).judgements[0].label == -1
    with pytest.raises(UserError, match="did you mean preference"):
        Auto("preferense")
    with pytest.raises(UserError, match="did you mean chosen"):
        Auto(fields={"choosen": "x"})


def test_a_field_that_is_switched_off_is_not_read():
    row = {"prompt": "Q", **PAIR, "split": "gpt-4o", "weight": "heavy", "subset": "s"}
    found = Auto(fields={"split": None, "weight": None, "subset": None})(row)
    assert (found.split, found.weight, found.subset) == (None, 1.0, "all")


def test_rows_with_images_are_refused_or_read_without():
    part = {"type": "image_url", "image_url": {"url": "x"}}
    rows = [
        {"prompt": "Q", **PAIR, "images": ["a.png"]},
        {"prompt": [said("user", [part, {"type": "text", "text": "Q"}])], **PAIR},
    ]
    for row in rows:
        with pytest.raises(BadRow, match=r"data\.ignore_images=true"):
            TextOnly(Auto())(row)
        assert TextOnly(Auto(), ignore_images=True)(row).responses == ((YES,), (NO,))
    assert TextOnly(Auto())({"prompt": "Q", **PAIR, "images": []}).prompt == (ASKED,)


def test_a_file_says_how_its_rows_are_read(write_rows):
    path = write_rows(
        [{"question": "Q", **PAIR, "system": "S", "source": "s"}] * 3
        + [{"prompt": "Q", "response": "a", "rating": 1}]
    )
    report = RowReport()
    assert len(list(read_comparisons({None: path}, Auto(), report))) == 4
    assert report.lines()[1:] == [
        "3 rows read as: preference: question, chosen, rejected",
        "1 rows read as: rated responses: prompt, response, rating",
        "with source as subset (3 rows)",
        "system ignored: say data.fields.system_prompt=system (3 rows)",
    ]


def test_a_mapped_column_that_no_row_has_is_refused(write_rows):
    path = write_rows([{"prompt": "Q", **PAIR, "weight_": 1}])
    with pytest.raises(UserError, match=r"data.fields.weight=weigth_: .* mean weight_\?.*=null"):
        list(read_comparisons({None: path}, Auto(fields={"weight": "weigth_"}), RowReport()))


def test_the_guide_lists_every_layout():
    guide = (ROOT / "docs/data.md").read_text()
    assert [layout.name for layout in LAYOUTS if f"`{layout.name}`" not in guide] == []


NAMES = [
    *("prompt", "chosen", "rejected", "question", "messages", "responses", "ratings", "label"),
    *("response_a", "response_b", "winner", "completions", "instruction", "input", "output"),
    *("rating", "margin", "weight", "tools", "split", "system_prompt", "rejected_response"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
    | st.sampled_from(["Human: a\n\nAssistant: b", "[1]", '[{"role": "user", "content": "a"}]']),
    lambda part: st.lists(part, max_size=3)
    | st.dictionaries(
        st.sampled_from(["role", "content", "from", "value", "text", "score", "steps"]), part
    ),
    max_leaves=6,
)  # fmt: skip


@pytest.mark.slow
@given(st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), JSON))
def test_any_object_is_a_comparison_or_a_sentence(row):
    for parse in (Auto(), TextOnly(Auto(), ignore_images=True)):
        with contextlib.suppress(BadRow, LeftOut):
            found = parse(row)
            assert isinstance(found, Comparison | list)


@pytest.mark.parametrize("layout", [layout.name for layout in LAYOUTS])
@settings(max_examples=10)
@given(row=st.dictionaries(st.sampled_from(NAMES), JSON, min_size=3))
def test_any_object_under_a_named_layout(layout, row):
    with contextlib.suppress(BadRow, LeftOut):
        Auto(layout)(row)
