"""Raw rows -> comparisons, and what is said of rows that cannot be used."""

import pytest

from rmexp.comparisons import Comparison, Judgement, pairs_from_ratings
from rmexp.formats.auto import Auto
from rmexp.formats.candidates import Candidates
from rmexp.formats.hh import HH
from rmexp.formats.preference import Preference
from rmexp.sources import BadRow

USER, YES, NO = (
    {"role": "user", "content": "Q"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)


def expected(**extra):
    return Comparison(
        id="", prompt=(USER,), responses=((YES,), (NO,)), judgements=(Judgement(0, 1),), **extra
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


def test_the_rating_beside_chosen_belongs_to_chosen():
    row = {"context": "Q", "chosen": "yes", "rejected": "no", "rating": 4}
    assert Auto()(row) == expected(ratings=(4.0, None))


def test_implicit_prompt_of_strings_ends_at_a_blank():
    comparison = Preference()({"chosen": "The sky is blue.", "rejected": "The sky is black."})
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
            "rating is 'good', not a number",
        ),
        (
            {"prompt": "Q", "chosen": "a", "rejected": "b", "margin": float("nan")},
            "not a finite number",
        ),
        ({"prompt": "Q", "responses": ["a"], "ratings": [1, 2]}, "1 responses but 2 ratings"),
        ({"prompt": "Q", "responses": ["a", ""], "ratings": [1, 2]}, "responses[1] is empty"),
        ({"prompt": "\ud800", "chosen": "a", "rejected": "b"}, "prompt is not valid Unicode"),
        ({"prompt": [{"role": "user"}], "chosen": "a", "rejected": "b"}, "without content"),
        (
            {"prompt": "Q", "chosen": [{"role": "assistant", "content": 3}], "rejected": "b"},
            "neither text",
        ),
        ({"text": "Q"}, "no known format has the columns text"),
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
    assert [(j.i, j.j, j.verdict) for j in judged] == [(1, 0, 1), (0, 2, 0), (1, 2, 1)]
    assert [j.verdict for j in pairs_from_ratings(rated, min_gap=0.6).judgements] == [0]


def test_pairs_from_ratings_leaves_what_people_judged():
    judged = expected(ratings=(1.0, 5.0))
    assert pairs_from_ratings(judged, 1.0) is judged


@pytest.mark.parametrize(
    ("votes", "verdict"),
    [((3, 1, 1), 1), ((1, 3, 1), -1), ((2, 2, 0), 0), ((1, 0, 2), 0), ((2, 1, 2), 1)],
)
def test_verdict_of_votes(votes, verdict):
    assert Judgement(0, 1, *votes).verdict == verdict


def test_a_comparison_checks_its_parts():
    with pytest.raises(ValueError, match="2 responses but 1 ratings"):
        expected(ratings=(1.0,))
    with pytest.raises(ValueError, match="names responses 0 and 2"):
        Comparison(id="", prompt=(), responses=((YES,), (NO,)), judgements=(Judgement(0, 2),))
