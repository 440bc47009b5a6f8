"""Every file of ../shared/data, read whole through its named option: what people said, counted."""

import functools
from collections import Counter

import pytest

from rmexp.data.formats.row_filter import RowFilter
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport, check_bad_rows
from tests.conftest import SHARED, needs
from tests.data.test_data_options import named, settings

pytestmark = pytest.mark.slow

# file -> option, comparisons, strict judgements, ties, rated responses, rows left out or bad
FILES = {
    "hh_rlhf_harmless_base_test/pairs.jsonl.gz": ("hh_rlhf", 2299, 2299, 0, 0, 4),
    "hh_rlhf_harmless_base_test/raw/test.jsonl.gz": ("hh_rlhf", 2299, 2299, 0, 0, 13),
    "ukp_convarg1/all_pairs_with_votes.jsonl.gz": ("ukp_votes", 16912, 13777, 3135, 0, 15),
    "ukp_convarg1/pairs.jsonl.gz": ("ukp", 11647, 11647, 0, 0, 1145),
    "ukp_convarg1/ranked_arguments.jsonl.gz": ("ukp_ranked", 1052, 0, 0, 1052, 0),
    "gsm8k_solutions/k4_correctness.jsonl.gz": ("gsm8k_solutions", 1319, 0, 0, 5276, 0),
    "wmt_mqm_ted/ted_zhen_mqm.jsonl.gz": ("wmt_mqm", 529, 0, 0, 529 * 15, 0),
    "wmt_mqm_ted/ted_ende_mqm.jsonl.gz": ("wmt_mqm", 529, 0, 0, 529 * 14, 0),
    "finegrained_rlhf/qa_feedback_dev_k4.jsonl.gz": ("finegrained_rlhf", 500, 2616, 384, 0, 0),
    "prometheus_rated/gpt4_rated.jsonl.gz": ("prometheus", 640, 0, 0, 640, 0),
    "pandalm_human/annotated_pairs.jsonl.gz": ("pandalm", 945, 842, 103, 0, 54),
    "pandalm_human/pairs.jsonl.gz": ("pandalm_pairs", 836, 836, 0, 0, 0),
    "hhh/bigbench_hhh_221.pairs.jsonl.gz": ("hhh", 221, 221, 0, 0, 0),
    "hhh/cai_hhh_438.pairs.jsonl.gz": ("hhh", 438, 438, 0, 0, 0),
    "llamafactory_demos/dpo_en_demo.pairs.jsonl.gz": ("llamafactory_dpo", 300, 300, 0, 0, 0),
    "llamafactory_demos/dpo_zh_demo.pairs.jsonl.gz": ("llamafactory_dpo", 300, 300, 0, 0, 0),
    "llamafactory_demos/kto_en_demo.jsonl.gz": ("llamafactory_kto", 300, 0, 0, 300, 0),
    "halluqa_zh/halluqa_multi.jsonl.gz": ("halluqa", 450, 0, 0, 1245 + 1713, 0),
    "uhgeval_zh/pairs.jsonl.gz": ("uhgeval", 1000, 1000, 0, 0, 0),
}


def read(file, parse):
    """The comparisons of a shared file, and what became of its rows."""
    report = RowReport()
    return list(read_comparisons({None: str(SHARED / file)}, parse, report)), report


@functools.cache
def read_option(file, option):
    return read(file, named(option))


@pytest.mark.parametrize("file", [pytest.param(f, marks=needs(SHARED / f), id=f) for f in FILES])
def test_every_shared_file_is_read_whole(file):
    option, *counts = FILES[file]
    comparisons, report = read_option(file, option)
    verdicts = Counter(abs(j.label) for one in comparisons for j in one.judgements)
    rated = sum(r is not None for one in comparisons for r in one.ratings or ())
    out = sum(report.bad.values()) + sum(sum(n.values()) for n in report.dropped.values())
    assert [len(comparisons), verdicts[1], verdicts[0], rated, out] == counts
    check_bad_rows(report, settings(option).on_bad_row, settings(option).max_bad_share)


@needs(SHARED)
def test_no_shared_file_is_forgotten():
    assert {str(file.relative_to(SHARED)) for file in SHARED.rglob("*.gz")} == set(FILES)


VOTES = "ukp_convarg1/all_pairs_with_votes.jsonl.gz"


@needs(SHARED / VOTES)
def test_the_strict_pairs_of_ukp_are_the_11650_published():
    comparisons, report = read(VOTES, RowFilter(named("ukp_votes"), {"strict": True}))
    assert report.dropped == {"strict is not True": {"all": 16927 - 11650}}
    assert (len(comparisons), report.bad) == (11650, {})


@needs(SHARED / VOTES)
def test_all_votes_are_kept():
    judged = [one.judgements[0] for one in read_option(VOTES, "ukp_votes")[0]]
    assert Counter(j.votes_i + j.votes_j + j.votes_tie for j in judged) == {5: 16722, 4: 190}


FOUR = "finegrained_rlhf/qa_feedback_dev_k4.jsonl.gz"


@needs(SHARED / FOUR)
def test_some_people_go_in_a_circle():
    comparisons = read_option(FOUR, "finegrained_rlhf")[0]
    ordered = [one for one in comparisons if None not in one.rank_levels()]
    assert (len(comparisons), len(ordered)) == (500, 478)
