"""The demo data keeps what its README promises."""

from collections import Counter

import pytest

from rmexp.comparisons import pairs_from_ratings
from rmexp.formats.candidates import Candidates
from rmexp.reading import RowReport, read_comparisons
from rmexp.sources import read_rows
from tests.conftest import ROOT

FILE = str(ROOT / "rmexp/demo/demo.jsonl")
ROWS = [raw.row for raw in read_rows(FILE)]


def test_size_languages_and_splits():
    assert len(ROWS) >= 200
    assert sum(row["lang"] == "zh" for row in ROWS) / len(ROWS) >= 1 / 3
    splits = Counter(row["split"] for row in ROWS)
    assert (splits["val"], splits["test"]) == (40, 40)
    assert {row["subset"] for row in ROWS} == {
        "helpfulness",
        "facts",
        "harmlessness",
        "reasoning",
        "writing",
        "format",
    }
    assert sum(len(row["prompt"]) > 1 for row in ROWS) >= 40


def test_every_row_is_a_good_comparison_with_graded_distinct_answers():
    report = RowReport()
    comparisons = list(read_comparisons({None: FILE}, Candidates(), report))
    assert not report.bad
    for row, comparison in zip(ROWS, comparisons, strict=True):
        assert len(set(row["responses"])) == 4
        assert set(row["ratings"]) <= {1, 2, 3, 4, 5}
        assert any(j.verdict for j in pairs_from_ratings(comparison, 1.0).judgements)
    assert len({c.prompt_key for c in comparisons}) == len(comparisons)
    assert any(len(set(row["ratings"])) < 4 for row in ROWS)


@pytest.mark.parametrize("split", ["all", "val", "test"])
def test_length_alone_does_not_tell(split):
    """In characters here; in SmolLM2's tokens the report of every demo run says the same."""
    right = []
    for row in ROWS:
        if split not in ("all", row["split"]):
            continue
        for a, x in zip(row["responses"], row["ratings"], strict=True):
            for b, y in zip(row["responses"], row["ratings"], strict=True):
                if x > y:
                    right.append(1.0 if len(a) > len(b) else 0.5 if len(a) == len(b) else 0.0)
    assert 0.40 <= sum(right) / len(right) <= 0.55
