"""Raw rows -> comparisons, and the messages about rows that cannot be used."""

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rmexp.comparison import (
    MAX_PAIRS,
    Comparison,
    PreferenceLabel,
    levels_of_pairs,
    pairs_from_ratings,
)
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.candidates import Candidates
from rmexp.data.formats.column_map import ColumnMap
from rmexp.data.formats.hh import HH
from rmexp.data.formats.preference import Preference, SharedBeginning
from rmexp.data.formats.row_filter import RowFilter
from rmexp.data.formats.single_response import SingleResponse
from rmexp.data.sources import BadRow, LeftOut

USER, YES, NO = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)
PARTS = {"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "!"}]}
PICTURE = {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}
BLANK_PARTS = {"role": "assistant", "content": [{"type": "text", "text": " "}]}
SYSTEM = {"role": "system", "content": "S"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
CALLING = {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [CALL]}
SUN, RAIN = {"role": "tool", "content": "sun"}, {"role": "tool", "content": "rain"}
TOOL = {"type": "function", "function": {"name": "weather"}}


def expected(**extra):
    return Comparison(
        id="",
        prompt=(USER,),
        responses=((YES,), (NO,)),
        judgements=(PreferenceLabel(0, 1),),
        **extra,
    )


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"prompt": [USER], "chosen": [USER, YES], "rejected": [USER, NO]},
        {"context": "Q", "chosen": "yes", "rejected": "no"},
        {"chosen": "\n\nHuman: Q\n\nAssistant: yes", "rejected": "\n\nHuman: Q\n\nAssistant: no"},
    ],
    ids=["strings", "messages", "implicit", "prompt-repeated", "seed", "hh"],
)
def test_every_form_of_a_pair_is_the_same_comparison(row):
    assert Auto()(row) == expected()


@pytest.mark.parametrize("written", [json.dumps, repr], ids=["json", "python"])
@pytest.mark.parametrize(
    "row",
    [
        {"prompt": [USER], "chosen": [YES], "rejected": [NO]},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"messages": [USER, YES], "rejected_messages": [USER, NO]},
        {"prompt": "Q", "responses": ["yes", "no"], "ratings": [3, 1]},
        {"prompt": "Q", "completions": ["yes", "no"], "labels": [True, False]},
    ],
)
def test_lists_and_messages_may_be_written_as_text(row, written):
    as_text = {key: value if value == "Q" else written(value) for key, value in row.items()}
    assert Auto()(as_text) == Auto()(row)


@pytest.mark.parametrize(
    "answers", [('{"n": 1}', "[1, 2]"), ("[]", "{}"), (json.dumps([YES]), "b")]
)
def test_an_answer_that_is_json_stays_text(answers):
    found = Auto()({"prompt": "Q", "chosen": answers[0], "rejected": answers[1]})
    assert tuple(one[0]["content"] for one in found.responses) == answers


def test_messages_as_text_that_cannot_be_read_are_no_answer():
    row = {"prompt": "[{'role': 'user' 'content': 'Q'}]", "chosen": "a", "rejected": "b"}
    with pytest.raises(BadRow, match="neither JSON nor Python"):
        Auto()(row)


def test_the_rating_beside_chosen_belongs_to_chosen():
    row = {"context": "Q", "chosen": "yes", "rejected": "no", "rating": 4}
    assert Auto()(row) == expected(ratings=(4.0, None))


def test_implicit_prompt_of_strings_ends_at_a_blank():
    comparison = SharedBeginning()({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert comparison.prompt[0]["content"] == "The sky is"
    assert [r[0]["content"] for r in comparison.responses] == ["blue.", "black."]


def test_an_empty_csv_cell_is_a_field_that_is_not_there():
    row = {"context": "Q", "chosen": "yes", "rejected": "no", "rating": "", "margin": ""}
    assert Auto()(row) == expected()


def test_margin_and_subset_come_from_their_columns():
    comparison = Preference()(
        {"prompt": "Q", "chosen": "yes", "rejected": "no", "margin": "0.5", "subset": "s"}
    )
    assert comparison.judgements[0].margin == 0.5
    assert comparison.subset == "s"


def test_tools_reasoning_and_parts_reach_the_template():
    """Only nulls go: Arrow puts them where a row has no such key."""
    called = {key: value for key, value in CALLING.items() if value is not None}
    thought = {**YES, "reasoning_content": "so"}
    comparison = Preference()(
        {
            "prompt": [{**PARTS, "tool_calls": None}, CALLING, SUN, RAIN],
            "chosen": [thought],
            "rejected": [CALLING, SUN, NO],
            "tools": [TOOL],
        }
    )
    assert comparison.prompt == (PARTS, called, SUN, RAIN)
    assert comparison.responses == ((thought,), (called, SUN, NO))
    assert comparison.tools == (TOOL,)


def test_a_shared_prompt_is_cut_back_to_a_whole_answer():
    one = {"chosen": [USER, YES, USER, YES], "rejected": [USER, YES, {**USER, "content": "R"}, NO]}
    comparison = Preference()(one)
    assert comparison.prompt == (USER,)
    assert comparison.responses == (tuple(one["chosen"][1:]), tuple(one["rejected"][1:]))


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        {"chosen": [USER, YES], "rejected": [USER, NO]},
        {"chosen": "\n\nHuman: Q\n\nAssistant: yes", "rejected": "\n\nHuman: Q\n\nAssistant: no"},
        {"prompt": "Q", "responses": ["yes", "no"]},
        {"prompt": "Q", "response": "yes"},
        {"messages": [USER, YES]},
        {"messages": [USER, YES], "rejected_response": "no"},
        {"prompt": "Q", "completions": ["yes"], "labels": [1]},
    ],
)
def test_the_system_prompt_of_a_row_stands_before_its_prompt(row):
    assert Auto()(row | {"system_prompt": "S"}).prompt == (SYSTEM, USER)


def test_a_column_may_lie_within_another():
    parse = ColumnMap(Preference(), {"prompt": "question.full_text", "chosen": "a.b"})
    row = {"question": {"full_text": "Q"}, "a.b": "yes", "rejected": "no", "a": {"b": "x"}}
    assert parse(row) == expected()
    with pytest.raises(BadRow, match="there is no prompt"):
        ColumnMap(SingleResponse(), {"prompt": "question.full_text"})(
            {"question": "Q", "response": "a"}
        )


def test_only_the_wanted_rows():
    rows = [{"prompt": "Q", "chosen": "yes", "rejected": "no", "clear": c} for c in (True, "true")]
    parse = RowFilter(Preference(), {"clear": True})
    assert [parse(row) for row in rows] == [expected(), expected()]
    assert parse.label_kinds == Preference.label_kinds
    with pytest.raises(LeftOut, match="clear is not True"):
        parse(rows[0] | {"clear": None})


def test_candidates():
    comparison = Candidates()(
        {"prompt": "Q", "responses": ["a", "b", "c"], "ratings": [3, None, 3.5]}
    )
    assert comparison.ratings == (3.0, None, 3.5)
    assert comparison.judgements == ()


def test_hh_keeps_all_earlier_turns():
    text = "\n\nHuman: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: "
    comparison = HH()({"chosen": text + "d", "rejected": text + "e"})
    assert [m["content"] for m in comparison.prompt] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"prompt": "Q", "chosen": "yes"}, "field 'rejected' is missing"),
        ({"prompt": "Q", "chosen": "", "rejected": "no"}, "chosen is empty"),
        ({"prompt": " ", "chosen": "yes", "rejected": "no"}, "prompt is empty"),
        ({"prompt": "Q", "chosen": "no", "rejected": "no"}, "chosen and rejected are the same"),
        ({"chosen": "x", "rejected": "y"}, "there is no prompt"),
        ({"prompt": [YES], "chosen": "a", "rejected": "b"}, "roles out of order"),
        (
            {"prompt": [USER, USER], "chosen": "a", "rejected": "b"},
            "roles out of order: 'user' follows 'user'",
        ),
        (
            {"prompt": [{"role": "robot", "content": ""}], "chosen": "a", "rejected": "b"},
            "unknown role 'robot'",
        ),
        (
            {"prompt": "Q", "chosen": "a", "rejected": "b", "rating": "good"},
            "rating is not a number ('good')",
        ),
        (
            {"prompt": "Q", "chosen": "a", "rejected": "b", "rating": "4/5"},
            "rating is not a number ('4/5'): write 4, where all rows have the scale to 5",
        ),
        (
            {"prompt": "Q", "chosen": "a", "rejected": "b", "margin": float("inf")},
            "not a finite number",
        ),
        ({"prompt": "Q", "responses": ["a"], "ratings": [1, 2]}, "1 responses but 2 ratings"),
        ({"prompt": "Q", "responses": ["a", ""], "ratings": [1, 2]}, "responses[1] is empty"),
        ({"prompt": "\ud800", "chosen": "a", "rejected": "b"}, "prompt is not valid Unicode"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "without content"),
        (
            {"prompt": "Q", "chosen": [YES, USER], "rejected": "b"},
            "roles out of order: chosen ends with 'user', not with the assistant",
        ),
        (
            {"prompt": "Q", "chosen": [YES, NO], "rejected": "b"},
            "roles out of order: 'assistant' follows 'assistant' in chosen",
        ),
        (
            {"prompt": [PICTURE], "chosen": "a", "rejected": "b"},
            "prompt has a part of content without text (image_url)",
        ),
        (
            {"prompt": [PARTS], "chosen": [BLANK_PARTS], "rejected": "b"},
            "chosen is empty",
        ),
        (
            {
                "prompt": [PARTS],
                "chosen": [{**YES, "reasoning_content": "\ud800"}],
                "rejected": "b",
            },
            "chosen is not valid Unicode",
        ),
        (
            {"prompt": [SYSTEM, USER], "system_prompt": "S", "chosen": "a", "rejected": "b"},
            "there is a system_prompt, and the prompt has a system message of its own",
        ),
        (
            {"prompt": "Q", "chosen": [{"role": "assistant", "content": 3}], "rejected": "b"},
            "neither text",
        ),
        ({"text": "Q"}, "no layout has these columns"),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": "\n\nHuman: c\n\nAssistant: d"},
            "differ before",
        ),
        (
            {"chosen": "\n\nHuman: a\n\nAssistant:", "rejected": "\n\nHuman: a\n\nAssistant: d"},
            "chosen is empty",
        ),
    ],
)
def test_bad_rows_say_why(row, reason):
    with pytest.raises(BadRow) as caught:
        Auto()(row)
    assert reason in str(caught.value)


def test_pairs_from_ratings_by_gap_and_ties():
    rated = Comparison(
        id="", prompt=(USER,), responses=((YES,), (NO,), (USER,)), ratings=(1.0, 1.5, 1.0)
    )
    judged = pairs_from_ratings(rated, min_gap=0.5).judgements
    assert [(j.i, j.j, j.label) for j in judged] == [(1, 0, 1), (0, 2, 0), (1, 2, 1)]
    assert [j.label for j in pairs_from_ratings(rated, min_gap=0.6).judgements] == [0]


@pytest.mark.parametrize("count", [200, 201, 202, 1000, 10_000, 30_000])
def test_of_very_many_ratings_some_pairs_are_taken_each_answer_equally_often(count):
    rated = Comparison(
        id="", prompt=(USER,), responses=((YES,),) * count, ratings=tuple(map(float, range(count)))
    )
    judged = pairs_from_ratings(rated, min_gap=1.0).judgements
    assert len({(j.i, j.j) for j in judged}) == len(judged)
    assert max(count, MAX_PAIRS - count) <= len(judged) <= max(count, MAX_PAIRS)
    assert all(j.i > j.j for j in judged)  # the higher rating is the better one
    times = Counter(side for j in judged for side in (j.i, j.j))
    assert len(times) == count
    assert len(set(times.values())) == 1


def levels_by_all_pairs(judgements, levels):
    """Whether the judged pairs, and no others, differ as their levels do."""
    labels = {}
    for one in judgements:
        for key, label in (((one.i, one.j), one.label), ((one.j, one.i), -one.label)):
            if labels.setdefault(key, label) != label:
                return False
    ranked = [k for k, level in enumerate(levels) if level is not None]
    return all(
        np.sign(levels[i] - levels[j]) == labels.get((i, j), 0)
        for i in ranked
        for j in ranked
        if i != j
    )


@given(
    st.lists(
        st.builds(
            lambda i, step, votes: PreferenceLabel(i, (i + step) % 5, *votes),
            st.integers(0, 4),
            st.integers(1, 4),
            st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1)]),
        ),
        min_size=1,
        max_size=10,
    ),
    st.booleans(),
)
def test_levels_are_those_of_a_weak_order_of_all_pairs(judgements, whole):
    if whole:  # an order that the labels agree with
        judgements = [PreferenceLabel(max(j.i, j.j), min(j.i, j.j)) for j in judgements]
    wins = {side: set() for j in judgements for side in (j.i, j.j)}
    for j in judgements:
        better = {1: [(j.i, j.j)], -1: [(j.j, j.i)], 0: []}[j.label]
        for high, low in better:
            wins[high].add(low)
    order = sorted({len(found) for found in wins.values()})
    levels = tuple(order.index(len(wins[k])) if k in wins else None for k in range(5))
    expected = levels if levels_by_all_pairs(judgements, levels) else (None,) * 5
    assert levels_of_pairs(judgements, 5) == expected


def test_one_answer_above_thousands_is_an_order():
    judgements = [PreferenceLabel(0, k) for k in range(1, 10_000)]
    assert levels_of_pairs(judgements, 10_000) == (1, *[0] * 9_999)


def test_pairs_from_ratings_leaves_what_people_judged():
    judged = expected(ratings=(1.0, 5.0))
    assert pairs_from_ratings(judged, 1.0) is judged


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [((3, 1, 1), 1), ((1, 3, 1), -1), ((2, 2, 0), 0), ((1, 0, 2), 0), ((2, 1, 2), 1)],
)
def test_verdict_of_votes(votes, verdict):
    assert PreferenceLabel(0, 1, *votes).label == verdict


def test_a_comparison_checks_its_parts():
    with pytest.raises(ValueError, match="2 responses but 1 ratings"):
        expected(ratings=(1.0,))
    with pytest.raises(ValueError, match="names responses 0 and 2"):
        Comparison(id="", prompt=(), responses=((YES,), (NO,)), judgements=(PreferenceLabel(0, 2),))


@pytest.mark.parametrize(
    ("judged", "levels"),
    [
        ([(0, 1, 1), (1, 2, 1), (0, 2, 1)], (2, 1, 0)),
        ([(0, 1, 1), (2, 1, 1), (0, 2, 0)], (1, 0, 1)),  # 0 and 2 tie
        ([(0, 1, 1), (0, 2, 1)], (1, 0, 0)),  # 1 and 2 were not compared
        ([(0, 1, 1), (1, 2, 1), (2, 0, 1)], (None, None, None)),  # in a circle
        ([(0, 1, 1), (0, 1, 0), (0, 2, 1), (1, 2, 0)], (None, None, None)),  # two minds on a pair
        ([(0, 1, 0), (0, 1, 1), (0, 2, 1), (1, 2, 0)], (None, None, None)),
        ([(0, 1, 1)], (1, 0, None)),
        ([(1, 0, 1)], (0, 1, None)),
    ],
)
def test_the_order_of_responses_by_judgements(judged, levels):
    ties = {0: (0.0, 0.0, 1.0), 1: (1.0, 0.0, 0.0)}
    comparison = Comparison(
        id="",
        prompt=(USER,),
        responses=((YES,), (NO,), (USER,)),
        judgements=tuple(PreferenceLabel(i, j, *ties[won]) for i, j, won in judged),
        ratings=(1.0, 2.0, 3.0),  # judgements come first
    )
    assert comparison.rank_levels() == levels


def test_the_order_of_responses_by_ratings():
    rated = Comparison(
        id="", prompt=(USER,), responses=((YES,), (NO,), (USER,)), ratings=(3.0, None, 1.5)
    )
    assert rated.rank_levels() == (1, None, 0)


def test_labels_as_a_csv_writes_them():
    row = {"prompt": "Q", "completion": "a", "label": "False"}
    assert Auto()(row).ratings == (0.0,)
