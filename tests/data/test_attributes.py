"""Ratings of several attributes, from raw rows to batches."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rmexp.batching.collate import BatchLayout, Collate, unlabelled_row
from rmexp.config.compose import build, compose_config
from rmexp.config.schema import register
from rmexp.data.formats.all_pairs import AllPairs
from rmexp.data.formats.auto import Auto
from rmexp.data.formats.column_map import ColumnMap
from rmexp.data.formats.preference_strength import PreferenceStrength
from rmexp.data.formats.single_response import SingleResponse
from rmexp.data.formats.ultrafeedback import UltraFeedback
from rmexp.data.formats.votes import Votes
from rmexp.data.sources import BadRow

TWO = {"helpfulness": [3, 1], "brevity": [None, 2]}
RATED = {"helpfulness": (3.0, 1.0), "brevity": (None, 2.0)}


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Q", "responses": ["yes", "no"]},
        {"prompt": "Q", "chosen": "yes", "rejected": "no"},
        {"prompt": "Q", "response_a": "yes", "response_b": "no", "winner": "a"},
        {"prompt": "Q", "response_a": "yes", "response_b": "no", "strength": 2},
    ],
    ids=["candidates", "pair", "votes", "strength"],
)
@pytest.mark.parametrize("written", [dict, json.dumps], ids=["object", "text"])
def test_every_layout_reads_an_object_of_ratings(row, written):
    parse = PreferenceStrength() if "strength" in row else Auto()
    assert parse({**row, "ratings": written(TWO)}).attributes == RATED


def test_the_rating_is_the_mean_of_the_attributes_that_are_rated():
    one = Auto()({"prompt": "Q", "responses": ["yes", "no"], "ratings": TWO})
    assert one.ratings == (3.0, 1.5)
    single = SingleResponse()({"prompt": "Q", "response": "yes", "ratings": {"a": 1, "b": 4}})
    assert (single.ratings, single.attributes) == ((2.5,), {"a": (1.0,), "b": (4.0,)})


@pytest.mark.parametrize(
    ("ratings", "sentence"),
    [
        ({"a": [1]}, "2 responses but 1 in ratings.a"),
        ({"a": 1}, "ratings.a must be a list of a rating for each response"),
        ({"a": [1, "good"]}, r"ratings.a\[1\] is not a number \('good'\)"),
    ],
)
def test_bad_ratings_of_an_attribute_are_named(ratings, sentence):
    with pytest.raises(BadRow, match=sentence):
        Auto()({"prompt": "Q", "responses": ["yes", "no"], "ratings": ratings})


def test_helpsteer2_keeps_its_attributes_beside_their_sum():
    parse = SingleResponse(attributes={"helpfulness": 0.5, "verbosity": -1.0})
    one = parse({"prompt": "Q", "response": "yes", "helpfulness": 4, "verbosity": 1})
    assert one.ratings == (1.0,)
    assert one.attributes == {"helpfulness": (4.0,), "verbosity": (1.0,)}


def test_ultrafeedback_keeps_its_aspects_beside_their_mean():
    def completion(text, **ratings):
        return {"response": text, "annotations": {k: {"Rating": v} for k, v in ratings.items()}}

    row = {
        "instruction": "Q",
        "completions": [completion("a", honesty="4", help="2"), completion("b", honesty="N/A")],
    }
    one = UltraFeedback(None)(row)
    assert one.ratings == (3.0, None)
    assert one.attributes == {"honesty": (4.0, None), "help": (2.0, None)}


def test_pku_saferlhf_has_two_verdicts():
    row = {"prompt": "Q", "response_0": "a", "response_1": "b"}
    fields = {
        "response_a": "response_0", "response_b": "response_1", "votes": "better_response_id",
        "helpfulness": "better_response_id", "safety": "safer_response_id",
    }  # fmt: skip
    votes = Votes(a=[0], b=[1], tie=[], attributes=("helpfulness", "safety"))
    parse = ColumnMap(votes, fields)
    one = parse({**row, "better_response_id": 0, "safer_response_id": 1})
    assert one.judgements[0].label == 1
    assert one.attributes == {"helpfulness": (1.0, 0.0), "safety": (0.0, 1.0)}
    with pytest.raises(BadRow, match="safer_response_id has the label '7'"):
        parse({**row, "better_response_id": 0, "safer_response_id": 7})


def test_finegrained_feedback_rates_the_first_answer():
    row = {"prompt": "Q", "responses": ["0123456789", "b"], "preference": [2]}
    spans = [("Irrelevant", 0, 3), ("Redundant", 2, 4), ("Unverifiable", 9, 10)]
    errors = [{"error type": kind, "start": start, "end": end} for kind, start, end in spans]
    one = AllPairs()({**row, "feedback": {"errors": errors, "missing-info": [{}, {}]}})
    assert one.attributes == {
        "relevance": (-0.4, None), "factuality": (-0.1, None), "completeness": (-2.0, None),
    }  # fmt: skip
    assert AllPairs()(row).attributes == {}
    errors[0]["end"] = 11
    with pytest.raises(BadRow, match="is the span 0 to 11 of 10 characters"):
        AllPairs()({**row, "feedback": {"errors": errors, "missing-info": []}})


def test_the_shared_finegrained_rows_have_their_feedback():
    path = "/work/shared/data/finegrained_rlhf/qa_feedback_dev_k4.jsonl.gz"
    if not Path(path).exists():
        pytest.skip("no shared data")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        read = [AllPairs()(json.loads(line)).attributes for line in file]
    assert {tuple(one) for one in read} == {("relevance", "factuality", "completeness")}


def rows(*ratings):
    return [
        {"prompt": f"Q{k}", "responses": [f"yes {k}", f"no {k}"], "ratings": one}
        for k, one in enumerate(ratings)
    ]


@pytest.fixture
def data_of(tmp_path):
    def read(*words):
        register()
        data = build(compose_config([*words, f"cache={tmp_path / 'cache'}"]).data)
        data.prepare(None, 0, lambda *_: None)
        return data

    return read


def test_attributes_are_numbered_as_they_occur_and_padded(data_of, write_rows):
    path = write_rows(rows({"a": [1, 2]}, [5, 6], {"b": [3, None], "a": [4, 5]}))
    data = data_of("data=jsonl", f"data.path={path}")
    assert data.attributes == ("a", "b")
    assert data.rows["attributes"][:][1] == []
    batch = Collate(0, 1000, BatchLayout("padded"), 2)(
        [{**data.rows[k], "row": k} for k in range(3)]
    ).batches[0]
    nan = np.nan
    expected = {0: [[1, nan], [2, nan]], 1: [[nan, nan]] * 2, 2: [[4, 3], [5, nan]]}
    for item, values in expected.items():
        own = batch.attributes_N_A[batch.items_N == item].numpy()
        np.testing.assert_array_equal(own, np.array(values, dtype=np.float32))
    assert data.rows["ratings"][:] == [[1, 2], [5, 6], [3.5, 5]]


def test_sources_of_a_mixture_share_the_numbers_of_their_attributes(data_of, write_rows):
    one = write_rows(rows({"a": [1, 2]}))
    other = write_rows(rows({"b": [3, 4], "a": [5, 6]}), "b.jsonl")
    data = data_of(
        "data=mix", "+data@data.sources.x=jsonl", "+data@data.sources.y=jsonl",
        f"data.sources.x.path={one}", f"data.sources.y.path={other}",
    )  # fmt: skip
    assert data.attributes == ("a", "b")
    assert data.rows["attributes"][:] == [[[1, 2]], [[5, 6], [3, 4]]]


def test_rows_without_attributes_have_none_in_a_batch():
    batch = Collate(0, 100, BatchLayout("tree"))([unlabelled_row([[1, 2]])]).batches[0]
    assert batch.attributes_N_A.shape == (1, 0)
